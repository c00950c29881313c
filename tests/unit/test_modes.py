"""The mode table: complete, without dead ends, and the source of the diagram."""

import re

import pytest

from profiles.errors import ConflictError
from service.modes import TABLE, Effect, Event, Mode, accepts, mermaid, step

# modes in which a task of the daemon is replacing the engine: it ends in one of these ways
REPLACING = (Mode.SWITCHING, Mode.ROLLING_BACK, Mode.RECOVERING)
OWNED = (Mode.SERVING, Mode.PROBATION, Mode.TUNING, Mode.DRAINING, Mode.ROLLING_BACK)


def reachable(start: Mode, without: frozenset[Mode] = frozenset()) -> set[Mode]:
    found, todo = {start}, [start]
    while todo:
        mode = todo.pop()
        for (before, _), (after, _) in TABLE.items():
            if before is mode and after not in found | without:
                found.add(after)
                todo.append(after)
    return found


def test_every_mode_is_reachable_from_the_start():
    """No row of the table is out of reach."""
    found = reachable(Mode.BOOT)

    assert set(Mode) == found


def test_every_row_has_a_reachable_mode():
    """The table has no row that can never be used."""
    before = {mode for mode, _ in TABLE}

    assert set() == before - reachable(Mode.BOOT)


@pytest.mark.parametrize("mode", Mode)
def test_every_mode_can_be_stopped(mode):
    """Whatever it does, the daemon ends when asked to."""
    after, effects = step(mode, Event.STOP_WANTED)

    assert Mode.STOPPING is after
    assert (Effect.STOP_ALL in effects) is (mode is not Mode.STOPPING)


@pytest.mark.parametrize("mode", [m for m in Mode if m is not Mode.STOPPING])
def test_no_mode_is_a_dead_end(mode):
    """From every mode but the last one there is a way back to serving."""
    ways = reachable(mode, without=frozenset({Mode.STOPPING}))

    assert Mode.SERVING in ways


def test_stopping_is_final():
    """Once stopping, nothing else begins."""
    rows = {TABLE[Mode.STOPPING, event] for event in Event}

    assert {(Mode.STOPPING, ())} == rows


@pytest.mark.parametrize("mode", REPLACING)
@pytest.mark.parametrize("event", [Event.DRAINED, Event.ENGINE_READY, Event.START_FAILED])
def test_a_replacement_may_end_in_any_way(mode, event):
    """Every outcome of a replacement has a row wherever one runs."""
    assert accepts(mode, event)


@pytest.mark.parametrize("mode", OWNED)
@pytest.mark.parametrize("event", [Event.ENGINE_DIED, Event.ENGINE_KEEPS_DYING])
def test_an_engine_may_die_whenever_there_is_one(mode, event):
    """A death is never a protocol error."""
    assert accepts(mode, event)


def test_an_engine_comes_into_force_only_through_a_commit_and_an_open_gate():
    """Whoever begins to serve has the target committed and the gate opened."""
    starts = {Event.ENGINE_READY, Event.ADOPTED}
    rows = [row for (mode, event), row in TABLE.items() if event in starts]
    wrong = [
        row
        for row in rows
        if row[0] is not Mode.STOPPING
        and not {Effect.COMMIT_TARGET, Effect.OPEN_GATE} <= set(row[1])
    ]

    assert [] == wrong


def test_a_failed_start_never_serves():
    """After a failed start the target is replaced by another one, or tried again later."""
    fallback = {Effect.RESTORE_LAST_GOOD, Effect.RESTORE_DEFAULT, Effect.SCHEDULE_RETRY}
    rows = [row for (_, event), row in TABLE.items() if event is Event.START_FAILED]
    wrong = [row for row in rows if row[0] is not Mode.STOPPING and not fallback & set(row[1])]

    assert [] == wrong


def test_what_is_condemned_is_quarantined_before_another_target_is_chosen():
    """Quarantine concerns the present target, so it has to come first."""
    restore = {Effect.RESTORE_LAST_GOOD, Effect.RESTORE_DEFAULT}
    for _, effects in TABLE.values():
        if Effect.QUARANTINE_TARGET in effects:
            order = [e for e in effects if e is Effect.QUARANTINE_TARGET or e in restore]

            assert Effect.QUARANTINE_TARGET is order[0]


def test_a_missing_row_names_mode_and_event():
    """What cannot be handled is said, not ignored."""
    with pytest.raises(ConflictError, match="drained while serving"):
        step(Mode.SERVING, Event.DRAINED)


def test_accepts_agrees_with_the_table():
    """The question and the step never differ."""
    found = {(mode, event) for mode in Mode for event in Event if accepts(mode, event)}

    assert set(TABLE) == found


def test_the_diagram_has_every_transition():
    """Every row that does not stop is an arrow, and there is no other arrow."""
    arrows = set(re.findall(r"^    (\w+) --> (\w+): (\w+)$", mermaid(), re.MULTILINE))
    rows = {
        (str(mode), str(after), str(event))
        for (mode, event), (after, _) in TABLE.items()
        if Mode.STOPPING not in {mode, after}
    }

    assert rows == arrows
    assert mermaid().startswith("stateDiagram-v2\n    [*] --> boot\n")


@pytest.mark.parametrize("mode", [Mode.SERVING, Mode.PROBATION])
def test_live_knobs_change_no_mode(mode):
    """Nobody is held and no engine is replaced: one effect, and what was going on goes on."""
    assert (mode, (Effect.APPLY_LIVE,)) == step(mode, Event.LIVE_WANTED)


@pytest.mark.parametrize(
    "mode", [m for m in Mode if m not in {Mode.SERVING, Mode.PROBATION, Mode.STOPPING}]
)
def test_live_knobs_wait_while_the_engine_belongs_to_somebody_else(mode):
    """A session or a replacement has it; the next decision asks again."""
    with pytest.raises(ConflictError, match=f"live_wanted while {mode}"):
        step(mode, Event.LIVE_WANTED)


def test_live_knobs_are_applied_for_no_other_reason():
    """Only a decision that asked for it reaches the running engine."""
    events = {event for (_, event), (_, effects) in TABLE.items() if Effect.APPLY_LIVE in effects}

    assert {Event.LIVE_WANTED} == events
