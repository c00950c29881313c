"""What a promotion can prove, against promotions that are played out."""

import math
import random

import pytest
from searching import measurement

from profiles.knobs import Knobs
from tuner.power import chance, pairs_needed, provable
from tuner.promotion import Pair, decide

DFLASH = Knobs(drafter="dflash", draft_length=8)


def played(gain, *, deviation, pairs, runs=1500, seed=5):
    """The share of promotions among simulated ones, by the rule itself."""
    rng = random.Random(seed)
    promoted = 0
    for _ in range(runs):
        made = [
            Pair(
                default=measurement(f"d{n}", rate=1e5 * math.exp(rng.gauss(0, deviation))),
                candidate=measurement(
                    f"c{n}", DFLASH, rate=1e5 * (1 + gain) * math.exp(rng.gauss(0, deviation))
                ),
            )
            for n in range(pairs)
        ]
        promoted += decide(made, min_gain=0.03, planned_pairs=pairs).promote
    return promoted / runs


@pytest.mark.parametrize(
    ("gain", "deviation", "pairs"),
    [(0.0, 0.03, 3), (0.05, 0.02, 3), (0.05, 0.02, 6), (0.2, 0.05, 3), (0.03, 0.001, 3)],
)
def test_the_chance_is_that_of_the_rule(gain, deviation, pairs):
    """The integral agrees with 1500 promotions within three standard errors."""
    told = chance(gain, deviation=deviation, pairs=pairs, min_gain=0.03)
    error = math.sqrt(max(told * (1 - told), 1e-3) / 1500)

    assert told == pytest.approx(played(gain, deviation=deviation, pairs=pairs), abs=3 * error)


def test_false_promotions_are_bounded():
    """Without a gain at most one in forty is promoted, whatever the noise and the pairs."""
    found = [
        chance(0.0, deviation=deviation, pairs=pairs, min_gain=0.0)
        for deviation in (0.001, 0.01, 0.1)
        for pairs in (2, 3, 8)
    ]

    assert [0.025] * 9 == pytest.approx(found, abs=2e-3)


def test_the_provable_gain_is_found_four_times_in_five():
    """At its own chance it is the border, and it never falls below what is asked for."""
    found = provable(deviation=0.01, pairs=3, min_gain=0.03)

    assert 0.8 == pytest.approx(chance(found, deviation=0.01, pairs=3, min_gain=0.03))
    assert 0.03 < found < provable(deviation=0.02, pairs=3, min_gain=0.03)
    assert 0.03 == pytest.approx(provable(deviation=1e-6, pairs=3, min_gain=0.03), abs=1e-4)


def test_great_noise_hides_great_gains():
    """Starts that differ by half need a gain of several times."""
    found = provable(deviation=0.5, pairs=3, min_gain=0.03)

    assert found > 1
    assert 0.8 == pytest.approx(chance(found, deviation=0.5, pairs=3, min_gain=0.03))


def test_more_pairs_find_smaller_gains():
    """The pairs that are named suffice, and one fewer does not."""
    needed = pairs_needed(0.06, deviation=0.02, min_gain=0.03)

    assert 0.8 <= chance(0.06, deviation=0.02, pairs=needed, min_gain=0.03)
    assert 0.8 > chance(0.06, deviation=0.02, pairs=needed - 1, min_gain=0.03)
    assert pairs_needed(0.031, deviation=0.05, min_gain=0.03) is None


@pytest.mark.parametrize(("gain", "expected"), [(0.03, 0.0), (0.04, 1.0)])
def test_without_noise_the_rule_is_a_step(gain, expected):
    """More than what is asked for is always found, and no less."""
    assert expected == chance(gain, deviation=0.0, pairs=3, min_gain=0.03)


def test_one_pair_proves_nothing():
    """It has no spread."""
    assert 0.0 == chance(9.0, deviation=0.01, pairs=1, min_gain=0.0)
