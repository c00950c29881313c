"""One engine: a vLLM in its own process group, started, watched and stopped by identity."""

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import psutil

from profiles.knobs import Knobs
from profiles.measurement import Failure, FailureKind
from service.engine_client import EngineClient
from service.engine_record import KEEP_ENVIRON, TOKEN_VARIABLE, EngineRecord, members
from service.live_files import LiveKnobs
from service.live_link import LiveLink
from tuner.failures import classify_failure

POLL_S = 0.25
LOG_TAIL_BYTES = 65536
SITE = Path(__file__).resolve().parent / "engine_site"
# nothing leaves the host; an operator who wants vLLM's statistics sets these in engine.env
QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


class EngineStartError(Exception):
    """The engine did not come up; carries the classified failure and the identity of the start."""

    def __init__(self, failure: Failure, token: str) -> None:
        self.failure = failure
        self.token = token
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

    @property
    def digest(self) -> str:
        """Hash of command and environment: a changed configuration is another engine."""
        text = json.dumps([list(self.command), dict(self.env)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class Engine:
    """A running engine. Made by `launch` or `adopt`; `died` is called once if it ends unasked."""

    def __init__(self, record: EngineRecord, process: subprocess.Popen[bytes] | None) -> None:
        self.record = record
        self.client = EngineClient(Path(record.socket))
        self.link: LiveLink | None = None  # None: its knobs change by a restart only
        self.ended = asyncio.Event()
        self._process = process  # None when adopted: not our child
        self._stopping = False
        self._on_death: Callable[[], None] | None = None
        self._pidfd: int | None = None
        self._watch()

    @property
    def knobs(self) -> Knobs:
        """The knobs that it was started with."""
        return Knobs.model_validate_json(self.record.knobs)

    @property
    def exit_code(self) -> int | None:
        """Exit status, None while it runs or when it was adopted."""
        return None if self._process is None else self._process.poll()

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
        token = secrets.token_hex(8)
        for folder in (plan.run, plan.logs):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        socket = plan.run / f"engine-{token}.sock"
        log = plan.logs / f"engine-{time.strftime('%Y%m%dT%H%M%S')}-{token}.log"
        record = EngineRecord(
            token=token,
            profile=plan.profile,
            purpose=plan.purpose,
            knobs=plan.knobs.canonical(),
            launch=plan.digest,
            socket=str(socket),
            log=str(log),
            live=plan.live is not None,
        )
        link = LiveLink(socket) if plan.live is not None else None
        record.write(plan.record_path)  # the intent first: a crash now leaves a findable token
        env = {**os.environ, **QUIET, **plan.env, **KEEP_ENVIRON, TOKEN_VARIABLE: token}
        if link is not None and plan.live is not None:
            link.put(plan.live)
            env |= link.environment
        # before vLLM: a repair of its CPU sampler, see engine_site/sitecustomize.py
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(SITE), env.get("PYTHONPATH", "")]))
        for inherited in ("LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "WATCHDOG_USEC"):
            env.pop(inherited, None)  # ours, not vLLM's
        try:
            with log.open("wb") as output:
                process = subprocess.Popen(  # noqa: ASYNC220  fork and exec take milliseconds
                    [*plan.command, "--uds", str(socket)],
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=output,  # a file, not a pipe: it must outlive us
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise EngineStartError(
                Failure(
                    kind=FailureKind.BAD_FLAG,
                    sentence=f"Cannot run {plan.command[0]!r}: {error.strerror}.",
                ),
                token,
            ) from error
        with contextlib.suppress(psutil.Error):  # gone already: wait_ready will say so
            record = record.spawned(process.pid)
        engine = cls(record, process)
        fault: str | None = None
        try:
            record.write(plan.record_path)
            ready_s = await engine._wait_ready(plan)
            if link is not None:
                fault = await link.self_test(engine.client)
            engine.link = link if fault is None else None
            engine.record = replace(record, ready_s=ready_s, live_fault=fault)
            engine.record.write(plan.record_path)
        except BaseException:  # a full disk is one
            await engine.stop(timeout_s=2.0)
            raise
        return engine

    @classmethod
    async def adopt(cls, record: EngineRecord) -> Self | None:
        """Take over an engine of an earlier daemon; None when it does not serve any more."""
        if not record.alive():
            return None
        engine = cls(record, None)
        if record.live and record.live_fault is None:
            engine.link = LiveLink.adopted(Path(record.socket))
        if await engine.client.healthy() and await engine.client.canary() is None:
            return engine
        await engine.stop(timeout_s=5.0)
        return None

    async def stop(self, *, timeout_s: float) -> None:
        """SIGTERM to the group, SIGKILL to what is left of it, and wait until nothing is."""
        self._stopping = True
        self._signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ended.wait(), timeout_s)
        await reap(self.record)
        self._ended()  # an adopted zombie has no pidfd event
        await self.client.close()
        Path(self.record.socket).unlink(missing_ok=True)
        if self.record.live:
            LiveLink(Path(self.record.socket)).remove()

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
            if log.stat().st_size != size:
                size, grew = log.stat().st_size, now
            if now - started > plan.start_timeout_s or now - grew > plan.stall_timeout_s:
                raise self._failed_start(timed_out=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), POLL_S)
        wrong = await self.client.canary()
        if self.ended.is_set():
            raise self._failed_start()
        if wrong is not None:
            raise EngineStartError(
                Failure(kind=FailureKind.CANARY, sentence=wrong), self.record.token
            )
        return time.monotonic() - started

    def _failed_start(self, *, timed_out: bool = False) -> EngineStartError:
        return EngineStartError(self.failure(phase="start", timed_out=timed_out), self.record.token)

    def failure(self, *, phase: str, timed_out: bool = False) -> Failure:
        """Why it ended, read from its log."""
        try:
            with Path(self.record.log).open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL_BYTES))
                tail = file.read().decode(errors="replace")
        except OSError:
            tail = ""
        return classify_failure(
            exit_code=self.exit_code,
            log_tail=tail,
            phase="start" if phase == "start" else "serve",
            timed_out=timed_out,
        )

    def _signal(self, number: signal.Signals) -> None:
        if self.record.pid is not None and self.record.alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.record.pid, number)

    def _watch(self) -> None:
        pid = self.record.pid if self._process is None else self._process.pid
        try:
            self._pidfd = os.pidfd_open(pid) if pid is not None else None
        except OSError:
            self._pidfd = None
        if self._pidfd is None:
            asyncio.get_running_loop().call_soon(self._ended)
        else:
            asyncio.get_running_loop().add_reader(self._pidfd, self._ended)

    def _ended(self) -> None:
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        if self._process is not None:
            self._process.poll()  # reaps it
        if self.ended.is_set():
            return
        self.ended.set()
        if not self._stopping and self._on_death is not None:
            self._on_death()


async def reap(record: EngineRecord) -> int:
    """Kill whatever is left of an engine start; the number of processes that were left."""
    left = await asyncio.to_thread(members, record.token, record.pid if record.alive() else None)
    killed = len(left)
    deadline = time.monotonic() + 10.0
    while left and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        await asyncio.sleep(0.05)
        left = await asyncio.to_thread(members, record.token, None)
    return killed
