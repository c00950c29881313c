import random

from hypothesis import given, settings
from hypothesis import strategies as st
from live_model import visit

from tuner.learner import Learner
from tuner.race import Rules

ARMS = (0, 1, 3, 6)
# arm, batch size; a visit is 20 simulated milliseconds, a step or two
VISITS = st.lists(st.tuples(st.sampled_from(ARMS), st.sampled_from((1, 5, 8))), max_size=24)
MODEST = settings(max_examples=60)


def learner(visits, seed=0):
    rng, found = random.Random(1), Learner(arms=ARMS, seed=seed, rules=Rules(min_steps=1))
    for arm, batch in visits:
        found = found.add(visit(rng, arm, batch, 0.02))
    return found


@MODEST
@given(VISITS)
def test_no_step_is_lost(visits):
    """Everything that was visited is counted, in whatever order and round it came."""
    rng = random.Random(1)
    steps = sum(
        cell.steps for arm, batch in visits for cell in visit(rng, arm, batch, 0.02).cells.values()
    )

    assert steps == sum(cell.steps for cell in learner(visits).cells().values())


@MODEST
@given(VISITS)
def test_round_holds_every_arm_that_was_running(visits):
    """Complete rounds hold all arms left, the open one lacks one; who is waiting comes next."""
    found = learner(visits)

    assert not set(found.running()) <= set(found.current)
    assert set(found.running()) - set(found.current) == set(found.order())
    assert len(found.order()) == len(set(found.order()))
    assert all(set(found.running()) <= set(each) for each in found.rounds)


@MODEST
@given(VISITS, st.integers(0, 99))
def test_seed_changes_the_order_only(visits, seed):
    """The same visits say the same whatever order they were planned in."""
    one, other = learner(visits), learner(visits, seed)

    assert sorted(one.order()) == sorted(other.order())
    assert one.findings() == other.findings()


@MODEST
@given(VISITS)
def test_choice_is_in_the_race(visits):
    """What is chosen is a survivor with a belief, and the risk is no gain."""
    for each in learner(visits).findings():
        assert each.choice in each.race.survivors
        assert each.choice in each.beliefs
        assert each.risk >= 0


@MODEST
@given(VISITS, st.integers(1, 40))
def test_schedule_covers_every_batch_size(visits, ceiling):
    """Ranges go from 1 to the ceiling without a gap, with lengths that were arms."""
    found = learner(visits).schedule(ceiling=ceiling, fallback=3)

    assert [1, *(high + 1 for _, high, _ in found)] == [*(low for low, _, _ in found), ceiling + 1]
    assert {k for _, _, k in found} <= set(ARMS)
