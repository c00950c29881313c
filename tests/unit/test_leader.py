import math

import pytest
from searching import (
    measurement,
    row,
)

from profiles.knobs import Knobs
from profiles.measurement import FailureKind
from tuner.leader import estimates, leader, noise
from tuner.observation import Observation


def k(length, name="dflash", **rest):
    return Knobs(drafter=name, draft_length=length, **rest)


def test_nothing_measured_has_no_leader():
    """Failures alone recommend nothing."""
    assert leader([row(1, Knobs(), failure=FailureKind.CRASH)]) is None


def test_tie_goes_to_the_smaller_draft_length():
    """Within 1 % the smaller draft length wins, off included."""
    history = [row(1, k(8), rate=100.5), row(2, k(3), rate=100), row(3, k(5), rate=80)]

    assert k(3) == leader(history)
    assert Knobs() == leader([*history, row(4, Knobs(), rate=99.9)])


def test_single_lucky_start_is_pulled_towards_the_mean():
    """Three starts at +4 % beat one start at +5.5 %: the best observation is not the best guess."""
    history = [
        *(row(n, k(3), rate=104) for n in range(3)),
        row(4, k(8), rate=105.5),
        row(5, Knobs(), rate=100),
        row(6, k(15), rate=100),
    ]
    lucky, steady = (
        next(each for each in estimates(history) if each.knobs == knobs) for knobs in (k(8), k(3))
    )

    assert math.log(105.5) - lucky.score > 2 * (math.log(104) - steady.score)
    assert k(3) == leader(history)


def test_failed_and_limit_breaking_points_never_lead():
    """Speed that crashed once, or that breaks a limit, is not recommended."""
    history = [
        row(1, Knobs(), rate=50),
        row(2, k(3), rate=200, limits={"ttft": 0.1}),
        row(3, k(8), rate=300),
        row(4, k(8), failure=FailureKind.OOM_SERVE),
    ]

    assert Knobs() == leader(history)


def test_noise_pools_repeated_starts_with_the_prior():
    """Without repeats it is the prior; wide repeats raise it."""
    assert 0.025 == pytest.approx(noise([row(1, Knobs(), rate=5)]))
    assert noise([row(1, Knobs(), rate=5), row(2, Knobs(), rate=6)]) > 0.05


def test_observation_of_a_measurement():
    """A stored measurement becomes a row: rate, failure kind, start and knobs."""
    good = Observation.of(measurement("t1", k(3), rate=math.e), trial=4)
    bad = Observation.of(measurement("t2", failure=FailureKind.OOM_LOAD), trial=5)

    assert (4, "t1", k(3), True) == (good.trial, good.start, good.knobs, good.feasible)
    assert 1.0 == pytest.approx(good.score, abs=0.01)
    assert (None, FailureKind.OOM_LOAD, True) == (bad.score, bad.failure, bad.blamed)
