"""`python -m service.engine_unit --config FILE a|b`: becomes the engine that tunerd has ordered.

Runs as the main process of tuner-engine@.service. Everything that decides what is executed comes
from the configuration, which only root may write; the order names knobs.
"""

import argparse
import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from profiles.errors import ConfigError, ExitCode, TunerError
from service.caches import share_model_infos
from service.engine_order import LONGEST_ORDER, SAYS, SLOTS, Order
from service.launch import CACHE_VARIABLE, environment, launch_of
from service.shared_files import open_plain
from tuner.config import Config
from tuner.config_file import load
from tuner.paths import UnitPlaces


@dataclass(frozen=True, kw_only=True)
class Start:
    """What is executed."""

    command: tuple[str, ...]
    env: Mapping[str, str]
    cache: Path


def main() -> NoReturn:
    """Become vLLM, or say why not and exit with 78."""
    parser = argparse.ArgumentParser(prog="tuner-engine", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--root", type=Path, default=Path("/"), help="of the folders; for tests")
    parser.add_argument("slot", help="a or b")
    options = parser.parse_args()
    places = UnitPlaces.below(options.root)
    try:
        if options.slot not in SLOTS:
            raise ConfigError(f"There is no slot {options.slot!r}, only a and b.")
        order = Order.parse(read(places.order(options.slot)))
        log = open_log(places.logs / order.log_name)
    except TunerError as error:
        refuse(error)
    try:
        guarded(options.config)
        start = start_of(load(options.config), order, places, os.environ)
    except TunerError as error:
        os.write(log, f"{SAYS}{error.sentence()}\n".encode())
        refuse(error)
    sys.stderr.write(
        f"{SAYS}{order.purpose} {order.knobs.label()}, profile {order.profile}, "
        f"log {places.logs / order.log_name}\n"
    )
    sys.stderr.flush()
    share_model_infos(start.cache)
    become(start, log)


def start_of(
    config: Config, order: Order, places: UnitPlaces, inherited: Mapping[str, str]
) -> Start:
    """What is executed for an order under a configuration.

    Raises:
        InvalidKnobsError: nothing may be started with these knobs.
        ConfigError: the configuration is not the one that tunerd has read.
    """
    if order.live and not config.live.enabled:
        raise ConfigError(
            "The order wants live knobs, and live.enabled is false.", hint="Restart tunerd."
        )
    launch = launch_of(config, order.knobs, cache=places.cache, live=order.live)
    if launch.digest != order.launch:
        raise ConfigError(
            "The configuration is not the one that tunerd has read.",
            hint="Restart tunerd (`systemctl restart tunerd`), which then starts this engine.",
        )
    socket = places.run / order.socket_name
    return Start(
        command=(*launch.command, "--uds", str(socket)),
        env=environment(
            inherited, launch.env, token=order.token, socket=socket if order.live else None
        ),
        cache=Path(launch.env[CACHE_VARIABLE]),
    )


def read(path: Path) -> bytes:
    """The order in a slot.

    Raises:
        ConfigError: there is none that could be read.
    """
    try:
        with os.fdopen(open_plain(path), "rb") as file:
            text = file.read(LONGEST_ORDER + 1)
    except OSError as error:
        raise ConfigError(
            f"Cannot read the order {path}: {error.strerror or error}.",
            hint="tunerd starts this unit after it has written one; do not start it by hand.",
        ) from error
    if len(text) > LONGEST_ORDER:
        raise ConfigError(f"The order {path} is too long.", hint="Restart tunerd.")
    return text


def guarded(path: Path) -> None:
    """Make sure that nobody but root, or this very user, can have written a configuration.

    Raises:
        ConfigError: somebody else could; what it says would be executed.
    """
    try:
        whole = path.resolve(strict=True)
        # the folders of a link too: who can write there can put another one in its place
        for each in (whole, *whole.parents, *path.absolute().parents):
            status = each.stat()
            foreign = status.st_uid not in {0, os.geteuid()}
            open_to = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            # of a sticky folder, such as /tmp, only the owner can replace an entry
            if foreign or (open_to and not status.st_mode & stat.S_ISVTX):
                raise ConfigError(
                    f"{each} can be written by others than root, and the configuration says what "
                    "is executed.",
                    hint=f"`chown root {each}` and `chmod go-w {each}`.",
                )
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.") from error


def open_log(path: Path) -> int:
    """A new log; each order is obeyed once.

    Raises:
        ConfigError: it is there already, or cannot be written.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
        os.fchmod(fd, 0o640)
    except FileExistsError as error:
        raise ConfigError(
            f"The order was obeyed before: {path} exists.",
            hint="tunerd starts this unit after it has written a new one; do not start it by hand.",
        ) from error
    except OSError as error:
        raise ConfigError(
            f"Cannot write {path}: {error.strerror}.",
            hint="`systemd-tmpfiles --create` makes the folder.",
        ) from error
    return fd


def become(start: Start, log: int) -> NoReturn:
    """Replace this process; the engine's output goes to its log alone."""
    error = os.dup(2)
    os.set_inheritable(error, False)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        os.execvpe(start.command[0], start.command, dict(start.env))  # noqa: S606  a typed word list
    except OSError as failed:
        sentence = f"{SAYS}Cannot run {start.command[0]!r}: {failed.strerror}.\n".encode()
        os.write(log, sentence)
        os.write(error, sentence)
        sys.exit(int(ExitCode.CONFIG))


def refuse(error: TunerError) -> NoReturn:
    """Say why nothing is executed."""
    sys.stderr.write(f"{SAYS}{error.sentence()}\n")
    sys.exit(int(ExitCode.CONFIG))


if __name__ == "__main__":
    main()
