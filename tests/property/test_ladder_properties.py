import math

from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.ladder import MAX_LENGTHS, MAX_STARTS, Rung, climb

LENGTHS = (0, 1, 2, 3, 5, 8, 15)
RUNGS = st.lists(
    st.builds(
        Rung,
        length=st.sampled_from(LENGTHS),
        score=st.floats(-5, 5),
        tokens=st.dictionaries(st.sampled_from(LENGTHS[1:]), st.floats(0, 2.5), max_size=2),
    ),
    max_size=MAX_STARTS,
)


@settings(max_examples=60, deadline=None)
@given(RUNGS)
def test_choice_was_measured_and_limits_hold(rungs):
    """Whatever was seen: no prediction is chosen, no fifth length, no ninth start."""
    step = climb(LENGTHS, rungs)
    measured = {rung.length for rung in rungs}

    assert (step.choice is None) == (not rungs)
    assert step.choice is None or step.choice in measured
    assert step.worth >= 0
    assert step.length is None or step.length in LENGTHS
    assert step.length is None or len(rungs) < MAX_STARTS
    assert len(measured) < MAX_LENGTHS or step.length is None or step.length in measured


@settings(max_examples=40, deadline=None)
@given(RUNGS, st.randoms(use_true_random=False))
def test_order_of_the_starts_does_not_matter(rungs, rng):
    """The same starts in another order ask for the same next one."""
    shuffled = list(rungs)
    rng.shuffle(shuffled)
    one, other = climb(LENGTHS, rungs), climb(LENGTHS, shuffled)

    assert (one.length, one.choice) == (other.length, other.choice)


@settings(max_examples=40, deadline=None)
@given(RUNGS)
def test_repeat_is_announced(rungs):
    """A length comes a second time only with the word for it."""
    step = climb(LENGTHS, rungs)
    measured = {rung.length for rung in rungs}

    assert (step.length in measured) == step.why.startswith("again, ")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=len(LENGTHS), max_size=len(LENGTHS)), st.floats(-3, 3))
def test_level_does_not_matter(values, level):
    """Twice the speed at every length: the same ladder."""
    ends = []
    for shift in (0.0, level):
        curve = dict(zip(LENGTHS, values, strict=True))
        rungs: list[Rung] = []
        while (step := climb(LENGTHS, rungs)).length is not None:
            rungs.append(Rung(length=step.length, score=curve[step.length] + shift))
        ends.append(curve[step.choice])

    assert math.isclose(*ends, abs_tol=0.02)
