import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.compare import fixed_interval, interval, student_quantile

DIFFERENCES = st.lists(st.floats(-1, 1).map(lambda x: round(x, 6)), min_size=4, max_size=20)
ESTIMATES = pytest.mark.parametrize("estimate", [interval, fixed_interval])


def ends(found):
    return (found.low, found.mean, found.high)


@ESTIMATES
@given(DIFFERENCES)
def test_interval_contains_its_mean(estimate, differences):
    """The mean lies in the middle, and the interval is finite from four pairs."""
    found = estimate(differences)

    assert found.low <= found.mean <= found.high
    assert math.isfinite(found.low)
    assert found.high - found.mean == pytest.approx(found.mean - found.low)


@ESTIMATES
@given(DIFFERENCES, st.floats(-2, 2))
def test_shift_moves_the_interval(estimate, differences, by):
    """Adding a constant to every difference adds it to mean and ends."""
    shifted = estimate([d + by for d in differences])

    assert [x + by for x in ends(estimate(differences))] == pytest.approx(
        list(ends(shifted)), abs=1e-6
    )


@ESTIMATES
@given(DIFFERENCES, st.floats(0.1, 10))
def test_scale_stretches_the_interval(estimate, differences, by):
    """The unit of the noise does not matter."""
    scaled = estimate([d * by for d in differences])

    assert [x * by for x in ends(estimate(differences))] == pytest.approx(
        list(ends(scaled)), abs=1e-6
    )


@ESTIMATES
@given(DIFFERENCES)
def test_sign_is_mirrored(estimate, differences):
    """Swapping the two arms swaps the sign."""
    mirrored = estimate([-d for d in differences])

    assert [-x for x in reversed(ends(estimate(differences)))] == pytest.approx(
        list(ends(mirrored))
    )


@ESTIMATES
@given(DIFFERENCES)
def test_more_of_the_same_shrinks_the_interval(estimate, differences):
    """Ten times the same pairs make the interval at least no wider."""
    once, often = estimate(differences), estimate(differences * 10)

    assert often.high - often.low <= once.high - once.low + 1e-12


@given(DIFFERENCES)
def test_always_valid_is_never_narrower_than_fixed(differences):
    """Permission to peek has its price."""
    always, fixed = interval(differences), fixed_interval(differences)

    assert always.low <= fixed.low + 1e-12
    assert always.high >= fixed.high - 1e-12


@given(st.floats(0.55, 0.999), st.integers(1, 60))
def test_quantile_falls_with_the_degrees_of_freedom(probability, freedom):
    """More pairs never widen the t quantile, and above the median it is positive."""
    assert (
        student_quantile(probability, freedom) >= student_quantile(probability, freedom + 1) - 1e-9
    )
    assert student_quantile(probability, freedom) > 0
