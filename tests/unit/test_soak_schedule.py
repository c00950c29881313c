"""The order of a soak's faults."""

import pytest
from soaking.acts import Acts
from soaking.faults import BROKEN, BY_NAME, CUT, FAULTS, REFUSED, allowed
from soaking.schedule import LEAD_S, TAIL_S, WATCHED, schedule

HOUR_S = 3600.0


def struck(steps):
    """The faults among the steps."""
    return [step for step in steps if step.kind == "fault"]


def test_the_same_seed_gives_the_same_faults():
    """A schedule is a function of its seed, and another seed gives another one."""
    assert schedule(7, HOUR_S, FAULTS) == schedule(7, HOUR_S, FAULTS)
    assert schedule(7, HOUR_S, FAULTS) != schedule(8, HOUR_S, FAULTS)


@pytest.mark.parametrize("seed", range(20))
def test_every_fault_comes_before_any_comes_twice(seed):
    """Each round has every fault once; after the first half without those that end a process."""
    first = struck(schedule(seed, HOUR_S, FAULTS))[: len(FAULTS)]

    assert {fault.name for fault in FAULTS} == {step.fault for step in first}


@pytest.mark.parametrize("seed", range(20))
def test_gateway_and_tunerd_live_through_the_last_part(seed):
    """What ends one of them is done before the time in which memory is watched."""
    late = [
        step
        for step in struck(schedule(seed, HOUR_S, FAULTS))
        if step.at_s >= HOUR_S * (1 - WATCHED)
    ]

    assert len(late) > len(FAULTS)
    assert [] == [step for step in late if BY_NAME[step.fault].ends]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("length_s", [60.0, 125.0, 600.0])
def test_all_is_over_before_the_end(seed, length_s):
    """Steps are in order, begin with traffic alone, and every lull ends."""
    steps = schedule(seed, length_s, FAULTS)
    times = [step.at_s for step in steps]
    turns = [step.kind for step in steps if step.kind != "fault"]

    assert sorted(times) == times
    assert steps[0].at_s >= LEAD_S
    assert steps[-1].at_s <= length_s
    assert all(step.at_s + step.lasts_s + TAIL_S <= length_s for step in struck(steps))
    assert turns == ["lull", "traffic"] * (len(turns) // 2)


def test_without_faults_nothing_happens():
    """Traffic alone is a soak too; so is one in which every fault that is left ends a process."""
    assert [] == schedule(1, 600.0, [])
    ending = [BY_NAME["kill gateway"]]
    assert all(step.at_s < 300.0 for step in struck(schedule(1, 600.0, ending)))


def test_every_fault_can_be_done():
    """The table names methods that are there, and effects that exist."""
    assert [] == [fault.name for fault in FAULTS if not hasattr(Acts, fault.act)]
    effects = set().union(*(f.running | f.later | (f.real or set()) for f in FAULTS))
    assert {CUT, BROKEN, REFUSED} == effects
    assert len(BY_NAME) == len(FAULTS)


def test_what_a_request_may_notice_depends_on_when_it_came():
    """A killed gateway breaks what was under way and nothing that comes later."""
    kill = BY_NAME["kill gateway"]

    assert {BROKEN} == allowed(kill, met=True, real=False)
    assert set() == allowed(kill, met=False, real=False)
    assert {CUT, REFUSED} == allowed(BY_NAME["kill engine child"], met=True, real=True)
    assert set() == allowed(BY_NAME["kill engine child"], met=True, real=False)
