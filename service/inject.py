"""Faults on demand, for tests: kill -9 or a defect of tunerd at a named point of its work.

Nothing happens unless TUNERD_INJECT names a file. That file then says `POINT kill` or
`POINT raise`. The first passing of the point renames it after the process that passed, so that
what comes in its place recovers.
"""

import contextlib
import os
import signal
from enum import StrEnum
from pathlib import Path

from service.modes import Effect

VARIABLE = "TUNERD_INJECT"


class Point(StrEnum):
    """What has just been done when the fault strikes."""

    SWEPT = "swept"  # trials of a dead daemon are closed
    REMEMBERED = "remembered"  # the profile of last time is the target
    ADOPTED = "adopted"  # the engine of an earlier daemon is in the slot
    HELD = "held"  # the gate is closed, the old engine still has requests
    DRAINED = "drained"
    STOPPED = "stopped"  # nothing of the old engine is left, its record is
    ROUTED_NOWHERE = "routed_nowhere"
    RECORD_WRITTEN = "record_written"  # the intent to start, without a pid
    SPAWNED = "spawned"  # a process that no record names by its pid
    SPAWN_RECORDED = "spawn_recorded"
    CANARY_RIGHT = "canary_right"
    SELF_TESTED = "self_tested"  # of the live knobs
    READY_RECORDED = "ready_recorded"
    IN_SLOT = "in_slot"  # the new engine, with the gate still closed
    IN_FORCE_STORED = "in_force_stored"
    QUARANTINED = "quarantined"
    KNOBS_PUT = "knobs_put"  # the running engine has them, its record does not
    KNOBS_RECORDED = "knobs_recorded"
    TRIAL_OPENED = "trial_opened"
    TRIAL_STARTED = "trial_started"  # its engine answers live requests too
    MEASURED = "measured"  # not in the store yet
    ROW_STORED = "row_stored"
    TRIAL_CLOSED = "trial_closed"
    WINNER_STORED = "winner_stored"  # the profile, without the decision for it
    PROMOTED = "promoted"


def before(effect: Effect) -> str:
    """The point just before the daemon carries out an effect of the mode table."""
    return f"before_{effect}"


# all there are; a test strikes at each of them
POINTS = (*map(before, Effect), *map(str, Point))
KILL, RAISE = "kill", "raise"

_file = os.environ.get(VARIABLE)


class InjectedError(Exception):
    """A defect that a test has asked for."""


def at(point: str) -> None:
    """Pass a point.

    Raises:
        InjectedError: a test wants a defect here.
    """
    if _file is not None:
        _strike(Path(_file), point)


def _strike(file: Path, point: str) -> None:
    wish: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        wish = file.read_text(encoding="utf-8").split()
    if wish[:1] != [point]:
        return
    file.rename(file.with_name(f"{file.name}.{os.getpid()}"))
    if wish[1:] == [KILL]:
        os.kill(os.getpid(), signal.SIGKILL)
    raise InjectedError(point)
