"""`python -m service --config FILE`: the process called tunerd."""

import argparse
import asyncio
import faulthandler
import logging
import os
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from profiles.errors import ExitCode, RestartError, TunerError
from service.activation import handed
from service.archive import Archive
from service.card_memory import CardMemory
from service.cards_lock import only_user, used
from service.control import Control, Given
from service.copies import keep_copies
from service.daemon import Daemon
from service.engine_systemd import UnitKeeper
from service.fingerprint import platform_of
from service.gateway_client import GatewayClient
from service.lab import Lab
from service.live_loop import LiveLoop
from service.lock import make_folders, only_daemon
from service.logs import configure
from service.memory import LiveMemory
from service.modes import Event
from service.notify import Beat, Notifier
from service.observer import Observer
from service.reload import reload
from service.reloader import Reloader
from service.slot import Slot
from service.state import Parts
from tuner.config import Config
from tuner.config_file import load
from tuner.devices import visible
from tuner.fit import DRAFT, LOAD, TELEMETRY, inspect, installed_root
from tuner.flags import installed
from tuner.nvml import gpus
from tuner.objective import Goals
from tuner.paths import Paths, UnitPlaces
from tuner.telemetry import Telemetry

log = logging.getLogger("tunerd")

STOP_MARGIN_S = 30.0  # beyond draining and stopping the engine
NEEDED = {LOAD, DRAFT, TELEMETRY}  # without the other capabilities the rest is still live


def main() -> int:
    """Run the daemon; the exit status is one of `profiles.errors.ExitCode`."""
    parser = argparse.ArgumentParser(prog="tunerd", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument(
        "--leave-engine", action="store_true", help="keep the engine running for the next daemon"
    )
    parser.add_argument(
        "--engine-units",
        action="store_true",
        help="let systemd hold the engine in a unit of its own, which outlives this daemon",
    )
    options = parser.parse_args()
    configure()
    hangups: list[int] = []  # until there is somebody to read the file again
    signal.signal(signal.SIGHUP, lambda number, _: hangups.append(number))
    faulthandler.enable()  # a watchdog's SIGABRT leaves the stacks
    try:
        config = load(options.config)
        paths = Paths.of(config)
        make_folders(paths)
        with only_daemon(paths.lock):
            notifier = Notifier.of(os.environ, os.getpid())
            program = Program(
                options.config,
                hangups,
                given=dict(handed(os.environ, os.getpid())),
                leave_engine=options.leave_engine or options.engine_units,
                units=UnitKeeper(UnitPlaces.below()) if options.engine_units else None,
            )
            asyncio.run(serve(config, paths, notifier, program))
    except TunerError as error:
        sys.stderr.write(f"tunerd: {error.sentence()}\n")
        return int(error.exit_code)
    except OSError as error:
        sys.stderr.write(f"tunerd: Cannot use {error.filename}: {error.strerror}.\n")
        return int(ExitCode.STORE)
    return 0


@dataclass(frozen=True)
class Program:
    """How it was called."""

    file: Path  # of the configuration
    hangups: list[int]  # signals of before the daemon
    given: Given = field(default_factory=dict)  # sockets, from systemd
    leave_engine: bool = False
    units: UnitKeeper | None = None  # where systemd holds the engine


async def serve(config: Config, paths: Paths, notifier: Notifier, program: Program) -> None:
    """Compose the parts, run the daemon, take them apart again, also when one cannot be made."""
    async with AsyncExitStack() as opened:
        await compose_and_run(opened, config, paths, notifier, program)


async def compose_and_run(
    opened: AsyncExitStack, config: Config, paths: Paths, notifier: Notifier, program: Program
) -> None:
    """Run the daemon on what is opened here; `opened` closes it, the last first."""
    beat = Beat(notifier)
    vllm = await installed(config.engine.command, config.engine.env)
    cards = await asyncio.to_thread(gpus)
    environment = {**os.environ, **config.engine.env}  # as the engine gets it
    uuids = [card.uuid for card in cards]
    seen = visible(environment, uuids)
    if config.engine.exclusive:
        opened.enter_context(only_user(used(uuids, seen)))
    telemetry = Telemetry(uuids=seen)
    telemetry.start()
    opened.callback(telemetry.close)
    gateway = GatewayClient(paths.gateway_socket)
    opened.push_async_callback(gateway.close)
    cards_read = CardMemory(lambda: () if vllm.on_cpu else telemetry.snapshot().gpus.values())
    slot = Slot(config, paths, gateway, program.units, cards_read)
    relief = slot.room.spend
    archive = await Archive.open(paths.store, Goals.of(config.tuning), relief=relief)
    opened.push_async_callback(archive.close)
    if slot.live_fault is None:
        slot.live_fault = await live_fault(config)
    daemon = Daemon(
        Parts(
            config=config,
            platform=await platform_of(config, vllm.version),
            archive=archive,
            gateway=gateway,
            slot=slot,
            observer=Observer(gateway, config.policy),
            lab=Lab(
                config, paths, slot=slot, archive=archive, gateway=gateway, telemetry=telemetry
            ),
            leave_engine=program.leave_engine,
        )
    )
    if program.units is not None:
        daemon.parts.check_config = lambda: unchanged(program.file, daemon.parts.config)
    memory = LiveMemory(daemon.parts, daemon.say)
    daemon.parts.live = LiveLoop(
        config.live,
        slot,
        telemetry,
        lengths=config.tuning.space.draft_lengths,
        may_learn=daemon.steward.may_learn,
        learned=memory.learned,
    )
    control = Control(daemon, telemetry)
    opened.push_async_callback(control.close)
    opened.push_async_callback(beat.end)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        now = daemon.parts.config  # a reload may have changed it
        notifier.stopping(now.gateway.drain_s + now.engine.stop_timeout_s + STOP_MARGIN_S)
        daemon.post(Event.STOP_WANTED)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    reloader = Reloader(program.file, daemon)
    loop.add_signal_handler(signal.SIGHUP, reloader.ask)
    if program.hangups:
        reloader.ask()
    daemon.start("reload", reloader.run)
    daemon.start("copies", lambda: keep_copies(paths.store))
    # a driver that hangs is no reason to end us: it is a fault that the status names
    probes = (lambda: archive.call(int), lambda: asyncio.to_thread(int))
    await control.serve(paths.status_socket, paths.control_socket, program.given)
    notifier.is_ready()  # the engine may take minutes more, its requests are held meanwhile
    beat.go_on(lambda: f"{daemon.state.mode}: {daemon.state.sentence}", probes)
    await daemon.run()


def unchanged(file: Path, config: Config) -> None:
    """Make sure that nothing in the file waits for a restart.

    Raises:
        RestartError: something does; the service manager starts us again, and we read it.
    """
    try:
        waiting = reload(config, load(file)).waiting
    except TunerError as error:  # a mistake in the file must not end what runs
        log.warning("%s", error.sentence())
        return
    if waiting:
        raise RestartError(f"{', '.join(waiting)} changed in {file}; tunerd ends to be restarted.")


async def live_fault(config: Config) -> str | None:
    """Why the installed vLLM cannot have live knobs, read from its source; None when it can."""
    root = await installed_root(config.engine.command, config.engine.env)
    if root is None:
        return "The source of the installed vLLM cannot be found."
    fit = await asyncio.to_thread(inspect, root)
    return None if fit.capabilities >= NEEDED else fit.sentence()


if __name__ == "__main__":
    sys.exit(main())
