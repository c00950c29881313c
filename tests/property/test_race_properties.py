import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.cells import Cell
from tuner.race import Rules, log_ratio, radius_factor, standing

ARMS = (0, 2, 3, 8)
CELL = st.builds(
    Cell,
    steps=st.integers(0, 40),
    tokens=st.integers(0, 4000),
    seconds=st.floats(0, 5).map(lambda x: round(x, 4)),
)
SLICE = st.dictionaries(st.sampled_from((5, 6, 8)), CELL, max_size=3)
ROUNDS = st.lists(st.dictionaries(st.sampled_from(ARMS), SLICE, max_size=4), max_size=25)
RULES = Rules(max_rounds=20)
MODEST = settings(max_examples=60)  # a race is a long example


@MODEST
@given(ROUNDS)
def test_every_arm_is_somewhere(rounds):
    """Arms are in the race or out with a reason, never both, and the leader is in it."""
    found = standing(rounds, ARMS, RULES)

    assert sorted(ARMS) == sorted([*found.survivors, *found.out])
    assert found.leader in found.survivors
    assert 0 <= found.confidence <= 1
    assert found.rounds <= min(len(rounds), RULES.max_rounds)
    assert found.leader not in found.gains


@MODEST
@given(ROUNDS, st.integers(0, 25))
def test_out_is_out(rounds, some):
    """Who is out after some rounds is out after more, and what is over stays as it is."""
    early, late = standing(rounds[:some], ARMS, RULES), standing(rounds, ARMS, RULES)

    assert set(early.out) <= set(late.out)
    assert early == (late if early.over else early)


@MODEST
@given(ROUNDS)
def test_order_of_the_arms_does_not_matter(rounds):
    """The same rounds give the same standing however the arms are listed."""
    assert standing(rounds, ARMS, RULES) == standing(rounds, ARMS[::-1], RULES)


@MODEST
@given(ROUNDS, st.sampled_from((2, 4, 8)))
def test_the_unit_of_time_does_not_matter(rounds, by):
    """A machine that is slower by the same factor for all has the same race."""
    slower = [
        {
            arm: {
                batch: Cell(steps=cell.steps, tokens=cell.tokens, seconds=cell.seconds * by)
                for batch, cell in cells.items()
            }
            for arm, cells in each.items()
        }
        for each in rounds
    ]

    ours, theirs = standing(rounds, ARMS, RULES), standing(slower, ARMS, RULES)
    assert (ours.leader, ours.survivors, ours.rounds) == (
        theirs.leader,
        theirs.survivors,
        theirs.rounds,
    )


@given(SLICE, SLICE)
def test_comparison_is_mirrored(ours, theirs):
    """Swapping two arms swaps the sign."""
    there, back = log_ratio(ours, theirs, 4), log_ratio(theirs, ours, 4)

    assert (there is None) == (back is None)
    assert there is None or back is None or there == pytest.approx(-back)


@given(st.integers(2, 300), st.integers(1, 300), st.floats(0.001, 0.2))
def test_more_freedom_and_more_alpha_narrow_the_interval(count, freedom, alpha):
    """Borrowed degrees of freedom help, and a milder level is not wider."""
    radius = radius_factor(count, freedom, alpha)

    assert radius >= radius_factor(count, freedom + 1, alpha) - 1e-12
    assert radius >= radius_factor(count, freedom, alpha * 1.5) - 1e-12
    assert radius > 0
    assert math.isinf(radius) or radius * math.sqrt(count) > 1
