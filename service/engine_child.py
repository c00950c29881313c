"""Engines as children of tunerd: a process group each, found again by pid, start time and token."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from profiles.measurement import Failure, FailureKind
from service.engine_hold import SpawnError
from service.engine_record import EngineRecord, members

REAP_S = 10.0


class ChildHold:
    """A process group; adopted ones are not our children, so they have no exit status."""

    def __init__(self, record: EngineRecord, process: "subprocess.Popen[bytes] | None") -> None:
        self.record = record
        self._process = process
        self._pidfd: int | None = None
        self._ended: Callable[[], None] | None = None

    @property
    def exit_code(self) -> int | None:
        """Exit status, None while it runs or when it was adopted."""
        return None if self._process is None else self._process.poll()

    def watch(self, ended: Callable[[], None]) -> None:
        """Call this from the event loop once the engine has ended."""
        self._ended = ended
        pid = self.record.pid if self._process is None else self._process.pid
        try:
            self._pidfd = os.pidfd_open(pid) if pid is not None else None
        except OSError:
            self._pidfd = None
        loop = asyncio.get_running_loop()
        if self._pidfd is None:
            loop.call_soon(self._gone)
        else:
            loop.add_reader(self._pidfd, self._gone)

    async def terminate(self) -> None:
        """SIGTERM to the group."""
        if self.record.pid is not None and self.record.alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.record.pid, signal.SIGTERM)

    async def reap(self) -> None:
        """SIGKILL to what is left of it, and wait until nothing is."""
        await reap(self.record)
        self._gone()  # an adopted zombie has no pidfd event

    def _gone(self) -> None:
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        if self._process is not None:
            self._process.poll()  # reaps it
        ended, self._ended = self._ended, None
        if ended is not None:
            ended()


class ChildKeeper:
    """Starts engines as children."""

    async def place(self, run: Path, logs: Path) -> None:
        """Make the folders, for this user only."""
        for folder in (run, logs):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def spawn(
        self, record: EngineRecord, command: Sequence[str], env: Mapping[str, str]
    ) -> ChildHold:
        """Start the command in a session of its own.

        Raises:
            SpawnError: it cannot be run.
            OSError: its log cannot be written, which is not the command's fault.
        """
        with Path(record.log).open("wb") as output:  # noqa: ASYNC230  a small local file
            try:
                process = subprocess.Popen(  # noqa: ASYNC220  fork and exec take milliseconds
                    command,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=output,  # a file, not a pipe: it must outlive us
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise SpawnError(
                    Failure(
                        kind=FailureKind.BAD_FLAG,
                        sentence=f"Cannot run {command[0]!r}: {error.strerror}.",
                    )
                ) from error
        with contextlib.suppress(psutil.Error):  # gone already: the wait for it will say so
            record = record.spawned(process.pid)
        return ChildHold(record, process)

    async def find(self, record: EngineRecord) -> ChildHold | None:
        """The engine of an earlier daemon if the very process still runs."""
        return ChildHold(record, None) if record.unit is None and record.alive() else None

    async def reap(self, record: EngineRecord | None) -> int:
        """Kill whatever is left of an engine start; the number of processes that were left."""
        return 0 if record is None else await reap(record)


async def reap(record: EngineRecord) -> int:
    """Kill whatever is left of an engine start; the number of processes that were left."""
    left = await asyncio.to_thread(members, record.token, record.pid if record.alive() else None)
    killed = len(left)
    deadline = time.monotonic() + REAP_S
    while left and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        await asyncio.sleep(0.05)
        left = await asyncio.to_thread(members, record.token, None)
    return killed
