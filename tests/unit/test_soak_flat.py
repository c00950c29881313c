"""Whether a line through floors tells a leak from noise."""

import random

import pytest
from soaking.flat import LEAST_S, WARM_UP_S, line


def readings(slope, noise, seconds=600, seed=1):
    """A walk around a line, above a floor, as memory under traffic is."""
    draw = random.Random(seed)
    times = [float(at) for at in range(seconds)]
    return times, [100.0 + slope * at + draw.expovariate(1 / noise) for at in times]


@pytest.mark.parametrize("seed", range(10))
def test_noise_alone_does_not_grow(seed):
    """Traffic of several MiB up and down is flat."""
    found = line(*readings(0.0, 8.0, seed=seed))

    assert not found.grows(1.0)


@pytest.mark.parametrize("seed", range(10))
def test_a_leak_grows_through_the_noise(seed):
    """6 MiB in ten minutes are surely more than 3 below noise of 2."""
    found = line(*readings(0.01, 2.0, seed=seed))

    assert found.grows(3.0)
    assert found.slope_per_h == pytest.approx(36.0, rel=0.25)


def test_the_start_is_not_counted():
    """What a process allocates once, at its beginning, is no slope."""
    times = [float(at) for at in range(600)]
    values = [50.0 + min(at, 100.0) for at in times]
    found = line(times, values)

    assert 150.0 == found.first
    assert 0.0 == found.surely
    assert not found.grows(0.0)


@pytest.mark.parametrize("times", [[], [0.0], [float(at) for at in range(int(LEAST_S))]])
def test_a_short_life_says_nothing(times):
    """Below the least time after the warm-up there is no line."""
    assert line(times, [1.0] * len(times)) is None


def test_readings_with_a_gap_are_readings():
    """A machine that was too busy to look leaves blocks empty."""
    times = [float(at) for at in range(int(WARM_UP_S + LEAST_S) * 4) if not 200 < at < 300]
    found = line(times, [1.0] * len(times))

    assert (1.0, 1.0, 0.0) == (found.first, found.last, found.slope_per_h)
