import math
import random

import pytest

from tuner.compare import fixed_interval, incomplete_beta, interval, student_quantile

# published table of Student's t, two-sided 95 % and 99 %
TABLE = {
    (0.975, 1): 12.7062,
    (0.975, 2): 4.3027,
    (0.975, 3): 3.1824,
    (0.975, 4): 2.7764,
    (0.975, 7): 2.3646,
    (0.975, 30): 2.0423,
    (0.995, 2): 9.9248,
    (0.995, 5): 4.0321,
    (0.95, 2): 2.9200,
    (0.95, 10): 1.8125,
}


@pytest.mark.parametrize(("case", "expected"), TABLE.items())
def test_student_quantile_matches_the_table(case, expected):
    """Four decimals of the printed table."""
    assert expected == pytest.approx(student_quantile(*case), abs=5e-5)


def test_student_quantile_is_symmetric():
    """The lower tail is the mirror of the upper one."""
    assert -student_quantile(0.9, 3) == pytest.approx(student_quantile(0.1, 3))
    assert student_quantile(0.5, 3) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("probability", "freedom"), [(0, 3), (1, 3), (0.5, 0)])
def test_student_quantile_out_of_range_is_refused(probability, freedom):
    """There is no quantile of certainty, nor without degrees of freedom."""
    with pytest.raises(ValueError, match="no t quantile"):
        student_quantile(probability, freedom)


def test_incomplete_beta_has_known_values():
    """I_x(1, 1) = x, I_x(2, 1) = x^2, and the ends are exact."""
    assert incomplete_beta(0.3, 1, 1) == pytest.approx(0.3)
    assert incomplete_beta(0.8, 2, 1) == pytest.approx(0.64)
    assert (0.0, 1.0) == (incomplete_beta(0, 2, 3), incomplete_beta(1, 2, 3))


def test_always_valid_interval_matches_the_formula():
    """Worked by hand for n = 5, g = 4, alpha 0.05: R = (21/0.0025)^(1/5) = 6.0933."""
    differences = [0.01, 0.02, 0.03, 0.04, 0.05]
    ratio = (21 / 0.0025) ** 0.2
    radius = math.sqrt(0.00025 / 5) * math.sqrt(4 * (ratio - 1) / (1 - ratio / 21))

    found = interval(differences)

    assert ratio == pytest.approx(6.0933, abs=1e-3)
    assert 0.03 == pytest.approx(found.mean)
    assert 0.03 - radius == pytest.approx(found.low)
    assert 0.03 + radius == pytest.approx(found.high)


def test_three_pairs_say_nothing_always_valid():
    """At alpha 0.05 the interval is infinite up to three pairs and finite from four."""
    assert math.isinf(interval([0.1, 0.11, 0.12]).high)
    assert math.isfinite(interval([0.1, 0.11, 0.12, 0.13]).high)
    assert math.isinf(interval([0.1]).low)


def test_fixed_interval_of_three_pairs():
    """Mean 2 %, s = 1 %, n = 3: the radius is 4.3027 x 0.01 / sqrt 3."""
    found = fixed_interval([0.01, 0.02, 0.03])

    assert 0.02 - 4.3027 * 0.01 / math.sqrt(3) == pytest.approx(found.low, abs=1e-6)
    assert math.isinf(fixed_interval([0.02]).high)


@pytest.mark.parametrize("estimate", [interval, fixed_interval])
def test_no_difference_no_interval(estimate):
    """An empty promotion is a defect of the caller."""
    with pytest.raises(ValueError, match="at least one"):
        estimate([])


def test_fixed_interval_covers_at_its_level():
    """Coverage of 95 % over 1500 simulated promotions of 4 pairs: within 3 standard errors."""
    rng = random.Random(5)
    runs = 1500
    covered = 0
    for _ in range(runs):
        found = fixed_interval([rng.gauss(0.03, 0.02) for _ in range(4)])
        covered += found.low <= 0.03 <= found.high

    assert abs(covered / runs - 0.95) <= 3 * math.sqrt(0.95 * 0.05 / runs)


def test_always_valid_interval_survives_peeking():
    """Looking after each of 30 pairs, an A/A comparison is called a gain in at most 3 % of runs."""
    rng = random.Random(6)
    runs = 300
    fooled = 0
    for _ in range(runs):
        differences: list[float] = []
        for _ in range(30):
            differences.append(rng.gauss(0, 0.02))
            if len(differences) > 3 and interval(differences).low > 0:
                fooled += 1
                break

    assert fooled / runs <= 0.03
