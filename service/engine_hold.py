"""The seam between an engine and what holds its processes: tunerd itself, or systemd."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from profiles.measurement import Failure
from service.engine_record import EngineRecord


class SpawnError(Exception):
    """Nothing was spawned; carries the classified failure."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.sentence)


class Hold(Protocol):
    """A hold on all processes of one engine."""

    @property
    def record(self) -> EngineRecord:
        """The record, completed with what identifies the processes."""

    @property
    def exit_code(self) -> int | None:
        """Exit status, negative for a signal; None while it runs or when nobody knows."""

    def watch(self, ended: Callable[[], None]) -> None:
        """Call this from the event loop once the engine has ended; called once."""

    async def terminate(self) -> None:
        """Ask the engine to end; returns before it has."""

    async def reap(self) -> None:
        """Kill what is left, and wait until nothing is."""


class Keeper(Protocol):
    """A way to start engines and to find them again."""

    async def place(self, run: Path, logs: Path) -> str | None:
        """Make room for an engine: its folders, and the name of its unit if it gets one.

        Raises:
            SpawnError: there is none.
        """

    async def spawn(
        self, record: EngineRecord, command: Sequence[str], env: Mapping[str, str]
    ) -> Hold:
        """Start the engine of a record.

        Raises:
            SpawnError: nothing of it runs.
        """

    async def find(self, record: EngineRecord) -> Hold | None:
        """The engine of an earlier daemon, and no other one; None when it does not run."""

    async def reap(self, record: EngineRecord | None) -> int:
        """Kill whatever is left of an earlier start; the number of processes or units killed."""
