"""Random event sequences against the mode table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.errors import ConflictError
from service.modes import TABLE, Effect, Event, Mode, step

events = st.lists(st.sampled_from(Event), max_size=60)
REPLACES = frozenset(
    {
        Effect.REPLACE_ENGINE,
        Effect.RESTART_CURRENT,
        Effect.RESTORE_LAST_GOOD,
        Effect.RESTORE_DEFAULT,
    }
)
OWNERS = frozenset({Mode.DRAINING, Mode.SWITCHING, Mode.ROLLING_BACK, Mode.RECOVERING})


@given(events)
def test_no_event_leaves_the_table_silently(series):
    """Every event either has a row or is refused by name, and the mode stays one of the table."""
    mode = Mode.BOOT
    for event in series:
        if (mode, event) in TABLE:
            assert TABLE[mode, event] == step(mode, event)
            mode = TABLE[mode, event][0]
            continue
        with pytest.raises(ConflictError, match=f"Cannot handle {event} while {mode}"):
            step(mode, event)


@given(st.data())
def test_at_most_one_owner_has_the_engine(data):
    """A replacement begins only when none runs, and no session runs beside one."""
    mode, replacing, tuning = Mode.BOOT, False, False
    for _ in range(data.draw(st.integers(0, 60))):
        # what tasks tell the daemon follows from what they do; deaths and wishes come any time
        told = {Event.TUNE_ENDED: tuning, Event.ENGINE_READY: replacing}
        told |= {Event.START_FAILED: replacing, Event.DRAINED: replacing}
        possible = [e for m, e in TABLE if m is mode and told.get(e, True)]
        event = data.draw(st.sampled_from(possible))
        mode, effects = step(mode, event)
        if event in {Event.ENGINE_READY, Event.START_FAILED}:
            replacing = False
        if event is Event.TUNE_ENDED:
            tuning = False
        if Effect.STOP_ALL in effects:
            replacing = tuning = False  # it cancels both
        for effect in effects:
            if effect in REPLACES:
                assert not replacing
                assert not tuning
                replacing = True
            if effect is Effect.BEGIN_TUNING:
                assert not replacing
                assert not tuning
                tuning = True

        assert replacing is (mode in OWNERS)
        assert tuning is (mode is Mode.TUNING)


@given(events)
def test_stopping_is_never_left(series):
    """No sequence of events revives a daemon that stops."""
    mode = Mode.STOPPING
    for event in series:
        mode, effects = step(mode, event)

        assert () == effects
    assert Mode.STOPPING is mode
