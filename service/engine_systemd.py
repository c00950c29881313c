"""Engines in units of their own: systemd starts, kills and accounts for them; tunerd asks it to.

An engine outlives tunerd here. It is found again by its unit, the id of this very run of the unit
and the record; never by a pid, and no process of it is looked at, because another user owns them.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from profiles.measurement import Failure, FailureKind
from service import engine_child
from service.engine_hold import SpawnError
from service.engine_order import UNITS, Order, slot_of
from service.engine_record import EngineRecord
from service.systemctl import Systemctl, SystemdError, UnitState
from tuner.paths import UnitPlaces

log = logging.getLogger(__name__)

WATCH_S = 1.0  # between two looks at a unit whose main process cannot be watched
SETTLE_S = 5.0  # for systemd to know how a process has ended
ANSWER_TRIES = 5  # a bus that is being restarted is back in a second
SETTLE_POLL_S = 0.05


class UnitHold:
    """A unit of systemd in one of its runs."""

    def __init__(self, systemctl: Systemctl, record: EngineRecord, state: UnitState) -> None:
        self.record = _known(record, state)
        self._systemctl = systemctl
        self._unit = record.unit or ""
        self._state = state
        self._pidfd: int | None = None
        self._ended: Callable[[], None] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def exit_code(self) -> int | None:
        """Exit status of the main process, None while it runs or when it is another run's."""
        return self._state.exit_code if self._same(self._state) else None

    def watch(self, ended: Callable[[], None]) -> None:
        """Call this from the event loop once the main process has ended."""
        self._ended = ended
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):  # it has ended, or pids are not shared with us
            if self._state.pid is not None:
                self._pidfd = os.pidfd_open(self._state.pid)
        if self._pidfd is not None:
            loop.add_reader(self._pidfd, self._main_ended)
        self._task = loop.create_task(self._poll(WATCH_S), name=f"watch {self._unit}")

    async def terminate(self) -> None:
        """`systemctl stop`: SIGTERM to the main process, and all of it after the unit's timeout."""
        try:
            await self._systemctl.stop(self._unit)
        except SystemdError as error:
            log.warning("%s", error)

    async def reap(self) -> None:
        """Kill all that is left in the unit, and wait until nothing is."""
        try:
            # while we wait for the end of a hung one, the next may begin in the same unit
            if not await self._systemctl.end(self._unit, invocation=self.record.invocation):
                log.warning("%s was killed and does not end", self._unit)
                return
            state = await self._systemctl.state(self._unit)
            if self._same(state):
                self._state = state
        except SystemdError as error:
            log.warning("%s", error)
            return
        if self._task is not None:
            self._task.cancel()
        self._gone()

    def _same(self, state: UnitState) -> bool:
        # systemd forgets the run of a unit that has ended well
        return state.invocation in {"", self.record.invocation}

    def _main_ended(self) -> None:
        self._close()
        if self._task is not None:
            self._task.cancel()
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._poll(SETTLE_POLL_S), name=f"end of {self._unit}")

    async def _poll(self, period_s: float) -> None:
        """Look until it has ended; with a short period it has, and systemd has to notice."""
        started = time.monotonic()
        while True:
            with contextlib.suppress(SystemdError):  # a bus that is away says nothing about it
                state = await self._systemctl.state(self._unit)
                if not self._same(state) or state.exit_code is not None or state.over:
                    self._state = state
                    break
                if self._pidfd is not None:  # it was no other process's by the time it was opened
                    return
            if period_s < WATCH_S and time.monotonic() - started > SETTLE_S:
                break
            await asyncio.sleep(period_s)
        self._gone()

    def _gone(self) -> None:
        self._close()
        ended, self._ended = self._ended, None
        if ended is not None:
            ended()

    def _close(self) -> None:
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None


class UnitKeeper:
    """Starts engines in `tuner-engine@a.service` and `tuner-engine@b.service`, one at a time."""

    def __init__(self, places: UnitPlaces, systemctl: Systemctl | None = None) -> None:
        self.places = places
        self._systemctl = systemctl or Systemctl()

    async def place(self, run: Path, logs: Path) -> str:
        """A unit that is free; whatever runs in either of them is ended first.

        Raises:
            SpawnError: there is none.
        """
        for folder, mode in ((self.places.orders, os.W_OK), (run, os.W_OK), (logs, os.X_OK)):
            if not os.access(folder, mode):
                raise _impossible(
                    f"Cannot use {folder}. `systemd-tmpfiles --create` makes it; tunerd has to be "
                    "in the group tuner-engine."
                )
        try:
            # a unit that does not end even when killed is a driver's fault: the other slot is
            # there for that
            free = [unit for unit in UNITS if await self._systemctl.end(unit)]
        except SystemdError as error:
            raise _impossible(str(error)) from error
        if not free:
            raise _impossible("The engines of both slots were killed and do not end. Reboot.")
        return free[0]

    async def spawn(
        self,
        record: EngineRecord,
        command: Sequence[str],  # noqa: ARG002  the launcher makes it by itself
        env: Mapping[str, str],  # noqa: ARG002  the same
    ) -> UnitHold:
        """Write the order and start the unit.

        Raises:
            SpawnError: it was not started.
        """
        unit = record.unit or UNITS[0]
        try:
            self._write(Order.of(record), unit)
            await self._systemctl.start(unit)
            state = await self._systemctl.state(unit)
        except OSError as error:
            sentence = f"Cannot write {error.filename}: {error.strerror}."
            raise _impossible(sentence) from error
        except SystemdError as error:
            await self._abandon(unit)
            raise _impossible(str(error)) from error
        except asyncio.CancelledError:
            await self._abandon(unit)
            raise
        return UnitHold(self._systemctl, record, state)

    async def find(self, record: EngineRecord) -> UnitHold | None:
        """The engine of an earlier daemon if its unit is still in that run; ends the other slot."""
        if record.unit not in UNITS:
            return None
        try:
            state = await self._answer(record.unit)
        except SystemdError as error:
            log.warning("%s", error)
            return None
        for other in UNITS:
            if other != record.unit:
                try:
                    await self._systemctl.end(other)
                except SystemdError as error:  # no reason to give up the engine that serves
                    log.warning("%s", error)
        # without the id tunerd ended during the start; the socket has the token in its name
        same = record.invocation in {None, state.invocation}
        if state.active != "active" or state.pid is None or not same:
            return None
        return UnitHold(self._systemctl, record, state)

    async def reap(self, record: EngineRecord | None) -> int:
        """End both units, and what an engine that was a child has left; how many there were."""
        count = 0
        if record is not None and record.unit is None:
            count += await engine_child.reap(record)
        for unit in UNITS:
            try:
                if not (await self._systemctl.state(unit)).over:
                    count += 1
                    await self._systemctl.end(unit)
            except SystemdError as error:
                log.warning("%s", error)
        return count

    async def _answer(self, unit: str) -> UnitState:
        """The state of a unit, asked for until there is an answer: an engine depends on it."""
        for _ in range(ANSWER_TRIES):
            with contextlib.suppress(SystemdError):
                return await self._systemctl.state(unit)
            await asyncio.sleep(WATCH_S)
        return await self._systemctl.state(unit)

    async def _abandon(self, unit: str) -> None:
        with contextlib.suppress(SystemdError):
            await self._systemctl.end(unit)

    def _write(self, order: Order, unit: str) -> None:
        """Replace the order of a slot; only the group of the engine may read it."""
        path = self.places.order(slot_of(unit))
        temporary = path.with_suffix(".tmp")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o640)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            os.fchmod(fd, 0o640)  # whatever our umask is
            file.write(order.text())
        temporary.replace(path)


def _known(record: EngineRecord, state: UnitState) -> EngineRecord:
    """The record completed with what systemd says."""
    boot = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
    known = record.started_at if record.invocation == state.invocation else None
    return replace(
        record,
        pid=state.pid,
        started_at=boot + state.started_us / 1e6 if known is None else known,
        invocation=state.invocation,
        control_group=state.control_group or None,
    )


def _impossible(sentence: str) -> SpawnError:
    """Says nothing about the knobs: they may be tried again."""
    return SpawnError(Failure(kind=FailureKind.INTERRUPTED, sentence=sentence))
