"""One engine: a vLLM that is started, watched and stopped by identity, whoever holds it."""

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from profiles.errors import ExitCode
from profiles.knobs import Knobs
from profiles.measurement import Failure, FailureKind
from service import inject
from service.engine_child import ChildKeeper
from service.engine_client import EngineClient
from service.engine_hold import Hold, Keeper, SpawnError
from service.engine_order import LOG_TIME, SAYS, log_name
from service.engine_record import EngineRecord
from service.launch import digest, environment
from service.live_files import LiveKnobs
from service.live_link import LiveLink
from service.shared_files import tail
from tuner.failures import classify_failure

POLL_S = 0.25
LOG_TAIL_BYTES = 65536


class EngineStartError(Exception):
    """The engine did not come up; carries the classified failure and the identity of the start."""

    def __init__(self, failure: Failure, token: str | None = None, log: str = "") -> None:
        self.failure = failure
        self.token = token or _new_token()  # None: it was not even tried
        self.told = f"{failure.told} Its log: {log}" if log else failure.told  # for the operator
        super().__init__(failure.sentence)


@dataclass(frozen=True, kw_only=True)
class LaunchPlan:
    """Everything that a spawn needs."""

    command: Sequence[str]  # complete, but for --uds
    env: Mapping[str, str]  # added to ours
    profile: str
    purpose: str
    knobs: Knobs
    run: Path  # directory of the socket
    logs: Path  # directory of the log
    record_path: Path
    start_timeout_s: float
    stall_timeout_s: float
    live: LiveKnobs | None = None  # first wish of an engine with tunerd's scheduler
    keeper: Keeper = field(default_factory=ChildKeeper)  # who holds its processes

    @property
    def digest(self) -> str:
        """Hash of command and environment: a changed configuration is another engine."""
        return digest(self.command, self.env)


class Engine:
    """A running engine. Made by `launch` or `adopt`; `died` is called once if it ends unasked."""

    def __init__(self, hold: Hold) -> None:
        self.record = hold.record
        self.client = EngineClient(Path(self.record.socket))
        self.link: LiveLink | None = None  # None: its knobs change by a restart only
        self.ended = asyncio.Event()
        self._hold = hold
        self._stopping = False
        self._on_death: Callable[[], None] | None = None
        hold.watch(self._ended)

    @property
    def knobs(self) -> Knobs:
        """The knobs that it was started with."""
        return Knobs.model_validate_json(self.record.knobs)

    @property
    def exit_code(self) -> int | None:
        """Exit status, None while it runs or when nobody knows."""
        return self._hold.exit_code

    def on_death(self, callback: Callable[[], None]) -> None:
        """Call this once if the engine ends without having been asked to."""
        self._on_death = callback
        if self.ended.is_set() and not self._stopping:  # it was faster than we are
            asyncio.get_running_loop().call_soon(callback)

    @classmethod
    async def launch(cls, plan: LaunchPlan) -> Self:
        """Spawn an engine and wait until its canary completion is right.

        Raises:
            EngineStartError: it did not come up; nothing of it is left running.
        """
        token = _new_token()
        link: LiveLink | None = None
        try:
            unit = await plan.keeper.place(plan.run, plan.logs)
            intent = _intent(plan, token, unit)
            link = None if plan.live is None else _link(intent)
            # the intent first: a crash now leaves a findable token
            intent.write(plan.record_path)
            inject.at(inject.Point.RECORD_WRITTEN)
            if link is not None and plan.live is not None:
                link.put(plan.live)
            socket = Path(intent.socket)
            hold = await plan.keeper.spawn(
                intent,
                [*plan.command, "--uds", intent.socket],
                environment(
                    os.environ, plan.env, token=token, socket=None if link is None else socket
                ),
            )
            inject.at(inject.Point.SPAWNED)
        except (SpawnError, OSError) as error:
            if link is not None:  # its first wish is written, and nobody will read it
                with contextlib.suppress(OSError):
                    link.remove()
            if isinstance(error, SpawnError):
                raise EngineStartError(error.failure, token) from error
            raise
        engine = cls(hold)
        fault: str | None = None
        try:
            engine.record.write(plan.record_path)
            inject.at(inject.Point.SPAWN_RECORDED)
            ready_s = await engine._wait_ready(plan)
            inject.at(inject.Point.CANARY_RIGHT)
            if link is not None:
                fault = await link.self_test(engine.client)
                inject.at(inject.Point.SELF_TESTED)
            engine.link = link if fault is None else None
            engine.record = replace(engine.record, ready_s=ready_s, live_fault=fault)
            engine.record.write(plan.record_path)
            inject.at(inject.Point.READY_RECORDED)
        except BaseException:  # a full disk is one
            await engine.stop(timeout_s=2.0)
            raise
        return engine

    @classmethod
    async def adopt(cls, record: EngineRecord, keeper: Keeper) -> Self | None:
        """Take over an engine of an earlier daemon; None when it does not serve any more."""
        hold = await keeper.find(record)
        if hold is None:
            _clear(record)  # it has gone, or is another's and ended before the next one
            return None
        engine = cls(hold)
        if record.live and record.live_fault is None:
            engine.link = LiveLink.adopted(Path(record.socket), shared=record.unit is not None)
        if await engine.client.healthy() and await engine.client.canary() is None:
            return engine
        await engine.stop(timeout_s=5.0)
        return None

    async def stop(self, *, timeout_s: float) -> None:
        """Ask it to end, kill what is left of it then, and wait until nothing is."""
        self._stopping = True
        await self._hold.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ended.wait(), timeout_s)
        await self._hold.reap()
        self._ended()
        await self.client.close()
        _clear(self.record)

    async def kill(self) -> None:
        """End one that hangs; what follows is that of any other death."""
        await self._hold.reap()

    async def _wait_ready(self, plan: LaunchPlan) -> float:
        started = time.monotonic()
        log = Path(self.record.log)
        size, grew = 0, started
        while True:
            now = time.monotonic()
            if self.ended.is_set():
                raise self._failed_start()
            if await self.client.healthy():
                break
            if (now_size := _size(log)) != size:
                size, grew = now_size, now
            if now - started > plan.start_timeout_s or now - grew > plan.stall_timeout_s:
                raise self._failed_start(timed_out=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), POLL_S)
        wrong = await self.client.canary()
        if self.ended.is_set():
            raise self._failed_start()
        if wrong is not None:
            failure = Failure(kind=FailureKind.CANARY, sentence=wrong)
            raise EngineStartError(failure, self.record.token, self.record.log)
        return time.monotonic() - started

    def _failed_start(self, *, timed_out: bool = False) -> EngineStartError:
        failure = self.failure(phase="start", timed_out=timed_out)
        return EngineStartError(failure, self.record.token, self.record.log)

    def failure(self, *, phase: str, timed_out: bool = False) -> Failure:
        """Why it ended, read from its log."""
        said = tail(Path(self.record.log), LOG_TAIL_BYTES)
        if self.record.unit is not None and self.exit_code == ExitCode.CONFIG:
            return _refused(self.record.unit, said)
        return classify_failure(
            exit_code=self.exit_code,
            log_tail=said,
            phase="start" if phase == "start" else "serve",
            timed_out=timed_out,
        )

    def _ended(self) -> None:
        if self.ended.is_set():
            return
        self.ended.set()
        if not self._stopping and self._on_death is not None:
            self._on_death()


def _new_token() -> str:
    return secrets.token_hex(8)


def _refused(unit: str, said: str) -> Failure:
    """Why the launcher in a unit did not start vLLM; the knobs are not to blame."""
    lines = [line.removeprefix(SAYS) for line in said.splitlines() if line.startswith(SAYS)]
    sentence = lines[-1] if lines else f"It refused its order; `journalctl -u {unit}` says why."
    return Failure(
        kind=FailureKind.INTERRUPTED,
        sentence=f"{unit}: {sentence}",
        exit_code=int(ExitCode.CONFIG),
    )


def _size(log: Path) -> int:
    try:
        return log.stat().st_size
    except OSError:  # the launcher of a unit has not opened it yet
        return 0


def _intent(plan: LaunchPlan, token: str, unit: str | None) -> EngineRecord:
    """The record of an engine that is not there yet."""
    return EngineRecord(
        token=token,
        profile=plan.profile,
        purpose=plan.purpose,
        knobs=plan.knobs.canonical(),
        launch=plan.digest,
        socket=str(plan.run / f"engine-{token}.sock"),
        log=str(plan.logs / log_name(time.strftime(LOG_TIME), token)),
        live=plan.live is not None,
        unit=unit,
    )


def _link(record: EngineRecord) -> LiveLink:
    return LiveLink(Path(record.socket), shared=record.unit is not None)


def _clear(record: EngineRecord) -> None:
    """Take away the files by which an engine was reached."""
    # not ours to remove when the engine was of the other form: it must not end this daemon
    with contextlib.suppress(OSError):
        Path(record.socket).unlink(missing_ok=True)
        if record.live:
            _link(record).remove()
