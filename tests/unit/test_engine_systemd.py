"""Engines in units: real launchers and engines, under a double that does what systemd does.

The real systemd is in tests/systemd; here are the faults that it cannot be made to show.
"""

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from stage import FAKE, ROOT, toml

from profiles.knobs import Knobs
from profiles.measurement import FailureKind
from service.engine import Engine, EngineStartError, LaunchPlan
from service.engine_child import ChildKeeper
from service.engine_order import UNITS, Order, slot_of
from service.engine_record import EngineRecord
from service.engine_systemd import UnitKeeper
from service.launch import launch_of
from service.live_files import LiveKnobs
from service.systemctl import SystemdError, UnitState
from tuner.config_file import load
from tuner.paths import UnitPlaces

A, B = UNITS
TIMEOUT_S = 120  # a starved machine is slow, not wrong


class Systemd:
    """Starts the launcher of a unit, and knows how it has ended."""

    def __init__(self, folder):
        self.folder, self.file = folder, folder / "tuner.toml"
        self.processes: dict[str, subprocess.Popen] = {}
        self.runs = dict.fromkeys(UNITS, 0)
        self.starts, self.ended = [], []
        self.refuses: set[str] = set()  # verbs
        self.immortal: set[str] = set()  # units that outlive SIGKILL
        self.after_start = None  # awaited before a start returns

    def _check(self, verb, unit):
        if verb in self.refuses:
            raise SystemdError(f"Cannot {verb} {unit}: Access denied.")

    async def state(self, unit):
        self._check("show", unit)
        process = self.processes.get(unit)
        code = None if process is None else process.poll()
        active = "inactive" if process is None or code == 0 else "failed"
        return UnitState(
            active="active" if process is not None and code is None else active,
            result="",
            pid=process.pid if process is not None and code is None else None,
            invocation=f"{unit}-{self.runs[unit]}" if process is not None else "",
            control_group=f"/{unit}",
            exit_code=0 if process is None else code,
            started_us=1,
        )

    async def start(self, unit):
        self._check("start", unit)
        self.starts.append(unit)
        self.runs[unit] += 1
        self.processes[unit] = subprocess.Popen(  # noqa: ASYNC220  a double
            [
                *(sys.executable, "-P", "-m", "service.engine_unit", "--config", str(self.file)),
                *("--root", str(self.folder), slot_of(unit)),
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(self.folder)},
            stderr=subprocess.DEVNULL,
        )
        if self.after_start is not None:
            await self.after_start()

    async def stop(self, unit):
        self._check("stop", unit)
        if unit in self.processes:
            self.processes[unit].send_signal(signal.SIGTERM)

    async def end(self, unit, *, invocation=None):
        self._check("end", unit)
        process = self.processes.get(unit)
        if invocation and invocation != f"{unit}-{self.runs[unit]}":
            return True
        if process is not None and process.poll() is None:
            if unit in self.immortal:
                return False
            self.ended.append(unit)
            process.kill()
            await asyncio.to_thread(process.wait)
        return True

    def close(self):
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def systemd():
    """The folders, a configuration with the fake vLLM, and a systemd."""
    with tempfile.TemporaryDirectory() as name:  # short: there is a socket below
        made = Systemd(Path(name))
        places = UnitPlaces.below(made.folder)
        for folder in (places.run, places.logs, places.cache, places.orders):
            folder.mkdir(parents=True)
        configure(made)
        yield made
        made.close()


def configure(systemd, **env):
    engine = {"model": "fake/model", "command": [sys.executable, str(FAKE)], "env": env}
    systemd.file.write_text(toml({"engine": engine}))


@pytest.fixture
def keeper(systemd):
    return UnitKeeper(UnitPlaces.below(systemd.folder), systemd)


def plan(systemd, keeper, **changes):
    """The launch of the fake vLLM in a unit."""
    launch = launch_of(load(systemd.file), Knobs(), cache=keeper.places.cache, live=False)
    fields = {
        "command": launch.command,
        "env": launch.env,
        "profile": "p",
        "purpose": "serve",
        "knobs": Knobs(),
        "run": keeper.places.run,
        "logs": keeper.places.logs,
        "record_path": systemd.folder / "engine.json",
        "start_timeout_s": TIMEOUT_S,
        "stall_timeout_s": TIMEOUT_S,
        "keeper": keeper,
    }
    return LaunchPlan(**(fields | changes))


def on_disk(systemd):
    return EngineRecord.read(systemd.folder / "engine.json")


async def test_an_engine_starts_serves_and_stops(systemd, keeper):
    """Unit and run are in the record on disk; afterwards nothing runs and nothing lies around."""
    engine = await Engine.launch(plan(systemd, keeper))
    record = on_disk(systemd)
    served = await engine.client.healthy()
    await engine.stop(timeout_s=TIMEOUT_S)

    assert served
    assert engine.record == record
    assert (A, f"{A}-1", f"/{A}") == (record.unit, record.invocation, record.control_group)
    assert systemd.processes[A].pid == record.pid
    assert 0 == engine.exit_code
    assert [] == list(keeper.places.run.iterdir())


async def test_the_order_is_for_the_group_only(systemd, keeper):
    """Whatever the umask of tunerd is, the launcher may read it, and nobody else."""
    before = os.umask(0o077)
    try:
        engine = await Engine.launch(plan(systemd, keeper))
    finally:
        os.umask(before)
    await engine.stop(timeout_s=TIMEOUT_S)

    assert 0o640 == keeper.places.order("a").stat().st_mode & 0o777
    assert ["a.json"] == [path.name for path in keeper.places.orders.iterdir()]


@pytest.mark.parametrize("pidfd", [True, False])
async def test_a_death_is_noticed_with_its_status(systemd, keeper, monkeypatch, pidfd):
    """At once by a descriptor of the process, and within seconds where there can be none."""
    if not pidfd:
        monkeypatch.setattr(os, "pidfd_open", _no_pidfd)
    engine = await Engine.launch(plan(systemd, keeper))
    deaths = []
    engine.on_death(lambda: deaths.append("died"))
    os.kill(engine.record.pid, signal.SIGKILL)
    await asyncio.wait_for(engine.ended.wait(), TIMEOUT_S)
    await engine.stop(timeout_s=1.0)

    assert (["died"], -9) == (deaths, engine.exit_code)
    assert "SIGKILL" in engine.failure(phase="serve").sentence


def _no_pidfd(pid):
    raise OSError(1, "Operation not permitted")


async def test_an_engine_that_is_killed_because_it_hangs_has_died(systemd, keeper):
    """What follows is that of any other death: tunerd hears of it."""
    engine = await Engine.launch(plan(systemd, keeper))
    deaths = []
    engine.on_death(lambda: deaths.append("died"))
    await engine.kill()
    await asyncio.wait_for(engine.ended.wait(), TIMEOUT_S)
    await engine.stop(timeout_s=1.0)

    assert (["died"], -9, [A]) == (deaths, engine.exit_code, systemd.ended)


async def test_the_end_of_one_run_spares_the_next(systemd, keeper):
    """A watchman killed the engine that took the place of the hung one, in the same unit."""
    hung = await Engine.launch(plan(systemd, keeper))
    os.kill(hung.record.pid, signal.SIGKILL)
    await asyncio.wait_for(hung.ended.wait(), TIMEOUT_S)
    engine = await Engine.launch(plan(systemd, keeper))
    await hung.kill()

    assert (hung.record.unit, -9) == (engine.record.unit, hung.exit_code)
    assert (False, []) == (engine.ended.is_set(), systemd.ended)
    await engine.stop(timeout_s=TIMEOUT_S)
    await hung.client.close()


async def test_a_bus_that_is_away_is_no_death(systemd, keeper, monkeypatch):
    """Whatever cannot be asked is taken for alive, until it says otherwise."""
    monkeypatch.setattr(os, "pidfd_open", _no_pidfd)
    monkeypatch.setattr("service.engine_systemd.WATCH_S", 0.01)
    engine = await Engine.launch(plan(systemd, keeper))
    systemd.refuses = {"show"}
    await asyncio.sleep(0.2)
    assert not engine.ended.is_set()

    systemd.refuses = set()
    os.kill(engine.record.pid, signal.SIGKILL)
    await asyncio.wait_for(engine.ended.wait(), TIMEOUT_S)
    await engine.stop(timeout_s=1.0)


async def test_the_next_daemon_adopts_the_very_run(systemd, keeper):
    """By unit and run, with the pid that systemd says now."""
    engine = await Engine.launch(plan(systemd, keeper))
    await engine.client.close()
    adopted = await Engine.adopt(on_disk(systemd), keeper)
    assert engine.record == adopted.record
    await adopted.stop(timeout_s=TIMEOUT_S)

    assert ([A], []) == (systemd.starts, systemd.ended)


async def test_another_run_of_the_unit_is_not_ours(systemd, keeper):
    """Somebody has restarted it by hand: it is ended before an engine is started."""
    engine = await Engine.launch(plan(systemd, keeper))
    await engine.client.close()
    record = on_disk(systemd)
    systemd.runs[A] += 1
    Path(record.socket).touch()

    assert await Engine.adopt(record, keeper) is None
    assert not Path(record.socket).exists()
    assert 1 == await keeper.reap(record)
    assert [A] == systemd.ended


async def test_an_engine_whose_start_was_cut_off_is_found(systemd, keeper):
    """Tunerd was killed after systemd had started the unit: the record lacks the run."""
    engine = await Engine.launch(plan(systemd, keeper))
    await engine.client.close()
    intent = EngineRecord(
        **{
            **vars(on_disk(systemd)),
            **dict.fromkeys(("pid", "started_at", "invocation", "control_group", "ready_s")),
        }
    )
    adopted = await Engine.adopt(intent, keeper)
    assert f"{A}-1" == adopted.record.invocation
    await adopted.stop(timeout_s=TIMEOUT_S)


async def test_an_engine_that_does_not_serve_yet_is_ended(systemd, keeper):
    """Tunerd was killed while it loaded: it is stopped, never doubled."""
    configure(systemd, FAKE_VLLM='{"hang_start": true}')
    start = asyncio.create_task(Engine.launch(plan(systemd, keeper)))
    while not systemd.starts or on_disk(systemd).pid is None:  # noqa: ASYNC110  a double
        await asyncio.sleep(0.01)
    record = on_disk(systemd)

    assert await Engine.adopt(record, keeper) is None
    assert "active" != (await systemd.state(A)).active
    with pytest.raises(EngineStartError):
        await start


async def test_one_engine_over_both_slots(systemd, keeper):
    """What runs in either of them is ended before a start, and beside an adoption."""
    first = await Engine.launch(plan(systemd, keeper))
    await first.client.close()
    keeper._write(_copy(keeper), B)
    await systemd.start(B)
    record = on_disk(systemd)
    adopted = await Engine.adopt(record, keeper)
    assert (A, [B]) == (adopted.record.unit, systemd.ended)

    await adopted.client.close()
    second = await Engine.launch(plan(systemd, keeper))
    assert [B, A] == systemd.ended
    await second.stop(timeout_s=TIMEOUT_S)


def _copy(keeper):
    order = Order.parse(keeper.places.order("a").read_bytes())
    return order.model_copy(update={"token": "f" * 16})


async def test_without_a_record_nothing_is_left(systemd, keeper):
    """A store of another machine, or none: whoever runs in a slot is nobody's engine."""
    engine = await Engine.launch(plan(systemd, keeper))
    await engine.client.close()

    assert 1 == await keeper.reap(None)
    assert 0 == await keeper.reap(None)


async def test_a_slot_that_a_driver_holds_is_left_alone(systemd, keeper):
    """Its processes were killed and do not go: the other slot is there for that."""
    stuck = await Engine.launch(plan(systemd, keeper))
    await stuck.client.close()
    systemd.immortal = {A}
    engine = await Engine.launch(plan(systemd, keeper))
    await engine.stop(timeout_s=TIMEOUT_S)

    assert B == engine.record.unit


async def test_no_slot_at_all_is_a_sentence(systemd, keeper):
    """Nothing is started beside two engines that do not end."""
    engine = await Engine.launch(plan(systemd, keeper))
    await engine.client.close()
    systemd.processes[B] = systemd.processes[A]
    systemd.immortal = set(UNITS)
    with pytest.raises(EngineStartError, match="do not end"):
        await Engine.launch(plan(systemd, keeper))

    assert [A] == systemd.starts


@pytest.mark.parametrize("verb", ["start", "end", "show"])
async def test_a_systemd_that_refuses_is_a_sentence(systemd, keeper, verb):
    """The knobs are not to blame, and nothing was started."""
    systemd.refuses = {verb}
    with pytest.raises(EngineStartError, match="Access denied") as caught:
        await Engine.launch(plan(systemd, keeper))

    assert FailureKind.INTERRUPTED == caught.value.failure.kind
    assert not any(process.poll() is None for process in systemd.processes.values())


async def test_a_start_that_is_refused_leaves_no_knobs(systemd, keeper):
    """The control file of an engine that never was stayed in the folder, one for each attempt."""
    systemd.refuses = {"start"}
    wanted = replace(plan(systemd, keeper), live=LiveKnobs.of(Knobs()))
    with pytest.raises(EngineStartError, match="Access denied"):
        await Engine.launch(wanted)

    assert [] == list(keeper.places.run.glob("engine-*"))


async def test_a_start_without_room_leaves_no_knobs(systemd, keeper, monkeypatch):
    """F41: on a full disk every attempt left one more control file in the folder that was full."""

    async def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(keeper, "spawn", full)
    wanted = replace(plan(systemd, keeper), live=LiveKnobs.of(Knobs()))
    with pytest.raises(OSError, match="No space left"):
        await Engine.launch(wanted)

    assert [] == list(keeper.places.run.glob("engine-*"))


async def test_a_stop_that_is_refused_ends_nothing_silently(systemd, keeper, caplog):
    """The log says so; the next start finds the engine and refuses to double it."""
    engine = await Engine.launch(plan(systemd, keeper))
    systemd.refuses = {"stop", "end"}
    await engine.stop(timeout_s=0.1)
    assert "Access denied" in caplog.text
    with pytest.raises(EngineStartError, match="Access denied"):
        await Engine.launch(plan(systemd, keeper))

    assert [A] == systemd.starts


async def test_a_folder_that_is_not_there_is_a_sentence(systemd, keeper):
    """systemd-tmpfiles makes them, and tunerd has no right to."""
    keeper.places.orders.rmdir()
    with pytest.raises(EngineStartError, match="systemd-tmpfiles --create"):
        await Engine.launch(plan(systemd, keeper))


async def test_a_launcher_that_refuses_says_why(systemd, keeper):
    """Its sentence reaches the status of tunerd, and says nothing about the knobs."""
    wanted = plan(systemd, keeper)
    configure(systemd, CHANGED="1")
    with pytest.raises(EngineStartError, match="not the one that tunerd has read") as caught:
        await Engine.launch(wanted)

    failure = caught.value.failure
    assert (FailureKind.INTERRUPTED, 78) == (failure.kind, failure.exit_code)
    assert failure.sentence.startswith(f"{A}: ")


async def test_a_launcher_that_cannot_even_log_is_a_sentence(systemd, keeper):
    """Only the journal has its reason then, and the sentence says where to look."""
    real = systemd.start

    async def spoilt(unit):
        keeper.places.order(slot_of(unit)).write_text("{}")
        await real(unit)

    systemd.start = spoilt
    with pytest.raises(EngineStartError, match=f"journalctl -u {A}"):
        await Engine.launch(plan(systemd, keeper))


async def test_a_failure_of_vllm_is_classified_as_ever(systemd, keeper):
    """The log is written by another user and read by us."""
    configure(systemd, FAKE_VLLM='{"exit": {"code": 1, "log": "no_kv"}}')
    with pytest.raises(EngineStartError) as caught:
        await Engine.launch(plan(systemd, keeper))

    failure = caught.value.failure
    assert (FailureKind.NO_KV_MEMORY, 1) == (failure.kind, failure.exit_code)


async def test_a_start_that_is_cancelled_leaves_no_engine(systemd, keeper):
    """Tunerd is asked to stop while systemd starts the unit."""
    begun = asyncio.Event()

    async def slow():
        begun.set()
        await asyncio.sleep(600)

    systemd.after_start = slow
    start = asyncio.create_task(Engine.launch(plan(systemd, keeper)))
    await asyncio.wait_for(begun.wait(), TIMEOUT_S)
    start.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await start

    assert [A] == systemd.ended


async def test_an_engine_of_the_other_form_is_not_adopted(systemd, keeper):
    """A record of a child has no unit, and that of a unit is nobody's child."""
    engine = await Engine.launch(plan(systemd, keeper))
    record = on_disk(systemd)
    child = EngineRecord(**{**vars(record), "unit": None})
    strange = EngineRecord(**{**vars(record), "unit": "sshd.service"})

    assert await keeper.find(child) is None
    assert await keeper.find(strange) is None
    assert await ChildKeeper().find(record) is None
    await engine.stop(timeout_s=TIMEOUT_S)


async def test_a_record_whose_files_are_not_ours_ends_no_daemon(systemd):
    """The form was changed: a child's daemon has no right to the folder of units, and starts."""
    blocked = systemd.folder / "file"
    blocked.write_text("")
    record = EngineRecord(
        token="0" * 16,
        profile="p",
        purpose="serve",
        knobs=Knobs().canonical(),
        launch="0" * 12,
        socket=str(blocked / "engine.sock"),  # no folder: an OSError for root as well
        log="/l",
        live=True,
        unit=A,
    )

    assert await Engine.adopt(record, ChildKeeper()) is None


async def test_the_log_is_where_the_record_says(systemd, keeper):
    """Launcher and tunerd make its name by the same rule."""
    engine = await Engine.launch(plan(systemd, keeper))
    text = Path(engine.record.log).read_text()
    await engine.stop(timeout_s=TIMEOUT_S)

    assert "Application startup complete." in text
