"""P: the modes of the daemon; everything that changes the mode is a row of this table.

A missing row is a protocol error that names mode and event. The diagram in docs/how-it-works.md
is generated from this file.
"""

from collections.abc import Mapping
from enum import StrEnum

from profiles.errors import ConflictError


class Mode(StrEnum):
    """What the daemon is doing."""

    BOOT = "boot"  # reading the store, looking for an engine to adopt
    SERVING = "serving"  # one engine, gate open
    TUNING = "tuning"  # a tuning session owns the engine and restarts it at will
    DRAINING = "draining"  # gate closed, running requests finish
    SWITCHING = "switching"  # the old engine is gone, the wanted one starts
    PROBATION = "probation"  # the new profile serves real traffic and is watched
    ROLLING_BACK = "rolling_back"  # the last good profile is being restored
    RECOVERING = "recovering"  # the engine died by itself and is started again
    DEGRADED = "degraded"  # nothing starts; retried with growing pauses
    STOPPING = "stopping"


class Event(StrEnum):
    """What happened."""

    ADOPTED = "adopted"  # an engine of an earlier daemon runs the wanted profile and answers
    NOTHING_RUNS = "nothing_runs"
    SWITCH_WANTED = "switch_wanted"  # policy, pin or operator want another profile
    LIVE_WANTED = "live_wanted"  # a profile that the running engine can have at its next step
    TUNE_WANTED = "tune_wanted"
    TUNE_ENDED = "tune_ended"  # the session has named the profile to serve next
    DRAINED = "drained"  # no request is in flight, or the deadline has passed
    ENGINE_READY = "engine_ready"  # the canary completion was right
    START_FAILED = "start_failed"
    ENGINE_DIED = "engine_died"  # nobody asked it to stop
    ENGINE_KEEPS_DYING = "engine_keeps_dying"  # the third time within ten minutes
    ENGINE_FLAPS = "engine_flaps"  # the operator's own configuration, and not for the first time
    PROBATION_PASSED = "probation_passed"
    REGRESSED = "regressed"
    RETRY_DUE = "retry_due"
    STOP_WANTED = "stop_wanted"
    STOPPED = "stopped"


class Effect(StrEnum):
    """What the daemon does about it, in this order."""

    CLOSE_GATE = "close_gate"
    OPEN_GATE = "open_gate"
    REFUSE = "refuse"  # whoever waits or comes is told when to come again
    REPLACE_ENGINE = "replace_engine"  # drain, stop, start the target, canary
    APPLY_LIVE = "apply_live"  # the target's live knobs, and it is in force
    RESTART_CURRENT = "restart_current"  # target := the profile in force
    RESTORE_LAST_GOOD = "restore_last_good"  # target := the last good profile, then replace
    RESTORE_DEFAULT = "restore_default"  # target := the operator's configuration, then replace
    QUARANTINE_TARGET = "quarantine_target"  # unless it is the operator's own configuration
    COMMIT_TARGET = "commit_target"  # the target is in force
    MARK_GOOD = "mark_good"  # the profile in force becomes the last good one
    BEGIN_TUNING = "begin_tuning"
    ABORT_TUNING = "abort_tuning"
    BEGIN_PROBATION = "begin_probation"
    SCHEDULE_RETRY = "schedule_retry"
    STOP_ALL = "stop_all"


M, E, F = Mode, Event, Effect
Row = tuple[Mode, tuple[Effect, ...]]

TABLE: Mapping[tuple[Mode, Event], Row] = {
    (M.BOOT, E.ADOPTED): (M.SERVING, (F.COMMIT_TARGET, F.MARK_GOOD, F.OPEN_GATE)),
    (M.BOOT, E.NOTHING_RUNS): (M.SWITCHING, (F.REPLACE_ENGINE,)),
    (M.SERVING, E.SWITCH_WANTED): (M.DRAINING, (F.REPLACE_ENGINE,)),
    (M.SERVING, E.LIVE_WANTED): (M.SERVING, (F.APPLY_LIVE,)),
    (M.SERVING, E.TUNE_WANTED): (M.TUNING, (F.BEGIN_TUNING,)),
    (M.SERVING, E.ENGINE_DIED): (M.RECOVERING, (F.CLOSE_GATE, F.RESTART_CURRENT)),
    (M.SERVING, E.ENGINE_KEEPS_DYING): (
        M.ROLLING_BACK,
        (F.CLOSE_GATE, F.QUARANTINE_TARGET, F.RESTORE_DEFAULT),
    ),
    # nothing is left to fall back to: it is tried again after a pause
    **{
        (mode, E.ENGINE_FLAPS): (M.DEGRADED, (F.SCHEDULE_RETRY, F.REFUSE))
        for mode in (M.SERVING, M.PROBATION)
    },
    # it was overtaken by a session or a replacement
    **{(mode, E.ENGINE_FLAPS): (mode, ()) for mode in (M.TUNING, M.DRAINING, M.ROLLING_BACK)},
    # the session sees its own engine die and records a failed trial
    (M.TUNING, E.ENGINE_DIED): (M.TUNING, ()),
    (M.TUNING, E.ENGINE_KEEPS_DYING): (M.TUNING, ()),
    (M.TUNING, E.SWITCH_WANTED): (M.TUNING, (F.ABORT_TUNING,)),  # the operator wins
    (M.TUNING, E.TUNE_ENDED): (M.DRAINING, (F.REPLACE_ENGINE,)),
    (M.DRAINING, E.DRAINED): (M.SWITCHING, ()),
    (M.DRAINING, E.ENGINE_DIED): (M.DRAINING, ()),  # it was about to be stopped
    (M.DRAINING, E.ENGINE_KEEPS_DYING): (M.DRAINING, ()),
    # it ran the target already
    (M.DRAINING, E.ENGINE_READY): (
        M.PROBATION,
        (F.COMMIT_TARGET, F.OPEN_GATE, F.BEGIN_PROBATION),
    ),
    (M.SWITCHING, E.DRAINED): (M.SWITCHING, ()),
    (M.SWITCHING, E.ENGINE_READY): (
        M.PROBATION,
        (F.COMMIT_TARGET, F.OPEN_GATE, F.BEGIN_PROBATION),
    ),
    (M.SWITCHING, E.START_FAILED): (M.ROLLING_BACK, (F.QUARANTINE_TARGET, F.RESTORE_LAST_GOOD)),
    (M.PROBATION, E.PROBATION_PASSED): (M.SERVING, (F.MARK_GOOD,)),
    (M.PROBATION, E.REGRESSED): (M.ROLLING_BACK, (F.QUARANTINE_TARGET, F.RESTORE_LAST_GOOD)),
    (M.PROBATION, E.ENGINE_DIED): (
        M.ROLLING_BACK,
        (F.CLOSE_GATE, F.QUARANTINE_TARGET, F.RESTORE_LAST_GOOD),
    ),
    (M.PROBATION, E.ENGINE_KEEPS_DYING): (
        M.ROLLING_BACK,
        (F.CLOSE_GATE, F.QUARANTINE_TARGET, F.RESTORE_DEFAULT),
    ),
    (M.PROBATION, E.SWITCH_WANTED): (M.DRAINING, (F.REPLACE_ENGINE,)),
    (M.PROBATION, E.LIVE_WANTED): (M.PROBATION, (F.APPLY_LIVE,)),
    (M.PROBATION, E.TUNE_WANTED): (M.TUNING, (F.BEGIN_TUNING,)),
    (M.ROLLING_BACK, E.DRAINED): (M.ROLLING_BACK, ()),
    (M.ROLLING_BACK, E.ENGINE_DIED): (M.ROLLING_BACK, ()),
    (M.ROLLING_BACK, E.ENGINE_KEEPS_DYING): (M.ROLLING_BACK, ()),
    (M.ROLLING_BACK, E.ENGINE_READY): (M.SERVING, (F.COMMIT_TARGET, F.OPEN_GATE)),
    (M.ROLLING_BACK, E.START_FAILED): (M.DEGRADED, (F.SCHEDULE_RETRY, F.REFUSE)),
    (M.RECOVERING, E.DRAINED): (M.RECOVERING, ()),
    (M.RECOVERING, E.ENGINE_READY): (M.SERVING, (F.COMMIT_TARGET, F.OPEN_GATE)),
    (M.RECOVERING, E.START_FAILED): (M.ROLLING_BACK, (F.QUARANTINE_TARGET, F.RESTORE_DEFAULT)),
    (M.DEGRADED, E.RETRY_DUE): (M.RECOVERING, (F.RESTORE_DEFAULT,)),
    (M.DEGRADED, E.SWITCH_WANTED): (M.SWITCHING, (F.REPLACE_ENGINE,)),
    **{(mode, E.STOP_WANTED): (M.STOPPING, (F.STOP_ALL,)) for mode in Mode},
    (M.TUNING, E.STOP_WANTED): (M.STOPPING, (F.ABORT_TUNING, F.STOP_ALL)),
    # once stopping, whatever else happens changes nothing
    **{(M.STOPPING, event): (M.STOPPING, ()) for event in Event},
}


def step(mode: Mode, event: Event) -> Row:
    """The next mode and what to do.

    Raises:
        ConflictError: the table has no row for this event in this mode.
    """
    row = TABLE.get((mode, event))
    if row is None:
        raise ConflictError(f"Cannot handle {event} while {mode}.")
    return row


def accepts(mode: Mode, event: Event) -> bool:
    """Whether the table has a row: what may be asked for now."""
    return (mode, event) in TABLE


def mermaid() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> boot"]
    seen: set[tuple[Mode, Mode, Event]] = set()
    for (mode, event), (after, _) in TABLE.items():
        if Mode.STOPPING in {mode, after} or (mode, after, event) in seen:
            continue
        seen.add((mode, after, event))
        lines.append(f"    {mode} --> {after}: {event}")
    return "\n".join(lines) + "\n"
