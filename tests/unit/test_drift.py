import math
import random

from tuner.cells import Cell
from tuner.drift import Rules, moved

NOISE = 0.05  # per window


def window(rng, acceptance=3.3, step_s=0.020, noise=NOISE):
    """Two batch sizes at k = 3, about 60 steps."""
    return {
        (batch, 3): Cell(
            steps=steps,
            tokens=round(batch * steps * acceptance * math.exp(rng.gauss(0, noise))),
            seconds=steps * step_s * math.exp(rng.gauss(0, noise)),
        )
        for batch, steps in ((7, 20), (8, 40))
    }


REFERENCE = {
    (batch, 3): Cell(steps=1000, tokens=round(batch * 1000 * 3.3), seconds=20.0) for batch in (7, 8)
}


def first_alarm(seed, looks, **moved_to):
    """After how many windows of the new regime something was said."""
    rng = random.Random(seed)
    seen = [window(rng) for _ in range(8)]
    for look in range(1, looks + 1):
        seen = [*seen, window(rng, **moved_to)]
        said = moved(REFERENCE, seen)
        if said:
            return look, said
    return None


def test_fall_of_acceptance_is_said():
    """The sentence has both figures, so that `tuner status` needs nothing else."""
    windows = [window(random.Random(seed), acceptance=2.1, noise=0.001) for seed in range(8)]

    assert "acceptance length fell from 3.3 to 2.1" == moved(REFERENCE, windows)


def test_rise_of_step_time_is_said():
    """A machine that throttles is noticed although acceptance stands."""
    windows = [window(random.Random(seed), step_s=0.026, noise=0.001) for seed in range(8)]

    assert "step time rose from 20.0 ms to 26.0 ms" == moved(REFERENCE, windows)


def test_too_few_windows_say_nothing():
    """Seven of eight windows are silence, whatever they show."""
    windows = [window(random.Random(seed), acceptance=1.1) for seed in range(7)]

    assert moved(REFERENCE, windows) is None


def test_thin_windows_do_not_count():
    """Windows with fewer common steps than the rule asks for are passed over."""
    windows = [window(random.Random(seed), acceptance=1.1) for seed in range(8)]

    assert moved(REFERENCE, windows, Rules(min_steps=61)) is None


def test_other_cells_are_not_compared():
    """A larger batch has a longer step without anything having drifted."""
    windows = [{(32, 3): Cell(steps=100, tokens=3000, seconds=9.0)}] * 12

    assert moved(REFERENCE, windows) is None


def test_cell_without_tokens_is_passed_over():
    """A window in which nothing was emitted has no acceptance, and no logarithm."""
    windows = [{(8, 3): Cell(steps=100, tokens=0, seconds=2.0)}] * 12

    assert moved(REFERENCE, windows) is None


def test_three_wild_windows_are_outvoted():
    """The median looks past a few windows of another kind of text."""
    rng = random.Random(5)
    windows = [window(rng, acceptance=1.5 if place in {2, 4, 7} else 3.3) for place in range(8)]

    assert moved(REFERENCE, windows) is None


def test_wide_scatter_is_not_a_move():
    """A median beyond the limit with windows on both sides of zero says nothing."""
    rng = random.Random(1)
    falls = (1.8, 1.9, 2.0, 2.1, 2.2, 6.0, 7.0, 8.0)
    windows = [window(rng, acceptance=each, noise=0.01) for each in falls]

    assert moved(REFERENCE, windows) is None


def test_no_alarm_without_drift():
    """A/A: at most 1 % of simulated runs of 100 windows say anything."""
    alarms = [seed for seed in range(100) if first_alarm(seed, 100)]

    assert len(alarms) <= 1


def test_quarter_is_noticed_within_ten_windows():
    """A move by 25 % of either figure is said by the tenth window in 95 % of simulated runs."""
    for change in ({"acceptance": 3.3 * 0.75}, {"step_s": 0.025}):
        noticed = [seed for seed in range(100) if first_alarm(seed, 10, **change)]

        assert len(noticed) >= 95
