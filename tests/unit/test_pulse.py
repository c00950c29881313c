"""Whether an engine works, from what it counts."""

import pytest

from service.pulse import Finding, Look, felt, finding


def look(at, **more):
    """An engine that works on a request and counts steps."""
    plan = {"token": "a", "signs": "1", "running": True, "in_flight": True, "generated": 0}
    return Look(at=at, **(plan | more))


def found(*looks, hang_s=120.0, canary_s=300.0):
    """What is found after these looks."""
    pulse = None
    for each in looks:
        pulse = felt(pulse, each)
    readable = looks[-1].signs is not None
    return finding(pulse, readable=readable, hang_s=hang_s, canary_s=canary_s)


def test_requests_that_run_without_a_step_are_a_standstill():
    """F4: not a second before the time, and not without a request."""
    assert found(look(0), look(119)) is None
    assert Finding.HUNG is found(look(0), look(60), look(120))


def test_one_step_within_the_time_is_life():
    """Whatever moves: tokens, or the cache that a long prompt fills piece by piece."""
    assert found(look(0), look(100, signs="2"), look(200, signs="2")) is None
    assert Finding.HUNG is found(look(0), look(100, signs="2"), look(220, signs="2"))


def test_text_at_the_gateway_is_life():
    """F5: an engine that is too busy to show its counters, and generates.

    Finished answers were counted once: refusals and lists of models, which need no core, kept a
    frozen one alive, and a busy one with long streams only had none to show.
    """
    looks = [look(at, signs=None, generated=at) for at in range(0, 1000, 50)]

    assert found(*looks) is None


def test_counters_that_are_not_shown_are_asked_about_and_not_believed():
    """Busy, dead or started with --disable-log-stats: a short completion tells."""
    assert Finding.ASK is found(look(0), look(60, signs=None), look(120, signs=None))


def test_counters_that_come_back_unchanged_are_a_standstill():
    """A look that failed in between is no sign of life."""
    assert Finding.HUNG is found(look(0), look(60, signs=None), look(120))


def test_a_core_that_froze_before_the_requests_came():
    """It says that nothing runs, while the gateway waits for it."""
    quiet = {"running": False, "in_flight": False}
    assert found(look(0, **quiet), look(100, **quiet)) is None
    assert Finding.ASK is found(look(0, **quiet), look(120, running=False))


def test_an_idle_engine_is_asked_now_and_then():
    """Nobody would notice that it hangs."""
    quiet = {"running": False, "in_flight": False}

    assert found(look(0, **quiet), look(299, **quiet)) is None
    assert Finding.ASK is found(look(0, **quiet), look(300, **quiet))


@pytest.mark.parametrize("at", [0, 500])
def test_another_engine_begins_anew(at):
    """What the one before did not do is not its fault."""
    assert found(look(0), look(500, token="b"), look(500 + at % 100, token="b")) is None
