"""The noise of a platform, recovered from data whose noise is known."""

import math
import random
import statistics

import pytest

from profiles.knobs import Knobs
from profiles.measurement import Block, Measurement
from tuner.calibration import calibrate, same_again

START, BLOCK = 0.02, 0.01


def start(token, blocks, *, knobs=None, **fields):
    """A measurement with these log rates of its blocks, far enough from whole tokens."""
    made = [Block(seconds=1000, output_tokens=round(1e6 * math.exp(x)), requests=9) for x in blocks]
    return Measurement(
        platform="p",
        workload="greedy.balanced.low",
        knobs=(knobs or Knobs()).canonical(),
        started_at=0.0,
        engine_token=token,
        blocks=tuple(made),
        **fields,
    )


def simulated(rng, *, configurations=2, starts=5, blocks=3, between=START, within=BLOCK):
    """Starts of several configurations with known components."""
    rows = []
    for number in range(configurations):
        knobs = Knobs(drafter="ngram", draft_length=number + 1)
        for each in range(starts):
            away = number * 0.3 + rng.gauss(0, between)
            rates = [away + rng.gauss(0, within) for _ in range(blocks)]
            rows.append(start(f"{number}-{each}", rates, knobs=knobs))
    return rows


def test_known_components_are_recovered():
    """Over 200 data sets the mean variances are those that made them, within 6 %."""
    rng = random.Random(1)
    found = [calibrate(simulated(rng)) for _ in range(200)]

    assert BLOCK**2 == pytest.approx(
        statistics.fmean(c.between_blocks.deviation**2 for c in found), rel=0.06
    )
    assert START**2 == pytest.approx(
        statistics.fmean(c.between_starts.deviation**2 for c in found), rel=0.06
    )
    assert START**2 + BLOCK**2 / 3 == pytest.approx(
        statistics.fmean(c.one_start.deviation**2 for c in found), rel=0.06
    )
    assert {(2, 10, 8, 20)} == {
        (c.configurations, c.starts, c.one_start.freedom, c.between_blocks.freedom) for c in found
    }


@pytest.mark.parametrize(
    ("name", "true"),
    [("one_start", math.hypot(START, BLOCK / math.sqrt(3))), ("between_starts", START),
     ("between_blocks", BLOCK)],
)  # fmt: skip
def test_intervals_cover_the_truth(name, true):
    """95 % intervals hold the true deviation in 92 to 98 % of 500 data sets."""
    rng = random.Random(2)
    found = [getattr(calibrate(simulated(rng)), name) for _ in range(500)]
    covered = statistics.fmean(each.low <= true <= each.high for each in found)

    assert 0.92 <= covered <= 0.98


def test_without_a_restart_effect_none_is_claimed():
    """A/A within one kind of noise: the interval of the restart's share begins at zero."""
    rng = random.Random(3)
    found = [calibrate(simulated(rng, between=0.0)).between_starts for _ in range(200)]

    assert 0.95 <= statistics.fmean(each.low == 0 for each in found)


def test_too_few_repeats_are_not_known_yet():
    """One configuration at two starts has one degree of freedom: no figure is better."""
    found = calibrate([start("a", [0.0, 0.01]), start("b", [0.02, 0.03])])

    assert (None, None, 2) == (found.one_start, found.between_starts, found.starts)
    assert "not known yet (2 repeated starts)" == found.sentence
    assert "not known yet (0 repeated starts)" == calibrate([]).sentence


def test_single_blocks_say_nothing_about_blocks():
    """The rate of a start is known, its parts are not."""
    found = calibrate(
        [start(token, [x]) for token, x in zip("abc", (0.0, 0.01, 0.02), strict=True)]
    )

    assert 0.01 == pytest.approx(found.one_start.deviation, rel=1e-3)
    assert (None, None) == (found.between_blocks, found.between_starts)
    assert found.sentence.startswith("the rate of one start varies by 1.0 % [0.5, 6.3]; from 3")


@pytest.mark.parametrize(
    "other",
    [{"concurrency": 9}, {"phase": "live"}, {"samples": "synthetic"}, {"invalid": "throttled"},
     {"knobs": Knobs(cpu_kv_gib=1)}],
    ids=str,
)  # fmt: skip
def test_only_equal_measurements_are_repeats(other):
    """Other knobs, another load, live traffic or an invalid row are no A/A."""
    rows = [start(token, [0.0, 0.01]) for token in "abc"]
    odd = start("d", [5.0, 5.0], **other)

    assert calibrate(rows) == calibrate([*rows, odd])


def test_two_rows_of_one_start_are_one_start():
    """A replicate is a start: measuring it twice gives more blocks, not more starts."""
    rows = [start(token, [0.0, 0.01]) for token in "abc"]

    found = calibrate([*rows, start("a", [0.02])])
    assert (3, 2) == (found.starts, found.one_start.freedom)
    assert 4 == found.between_blocks.freedom


def test_a_block_without_tokens_is_left_out():
    """Its logarithm does not exist."""
    rows = [start(token, [0.0]) for token in "abc"]
    empty = rows[0].model_copy(
        update={"engine_token": "e", "blocks": (Block(seconds=1, output_tokens=0, requests=0),)}
    )

    assert calibrate(rows) == calibrate([*rows, empty])


def test_starts_of_the_default_against_each_other():
    """Three starts make three differences: their mean and the largest."""
    rows = [start(token, [x]) for token, x in zip("abc", (0.0, 0.01, 0.03), strict=True)]
    found = same_again(rows, Knobs().canonical())

    assert 3 == found.starts
    assert math.expm1(0.03) == pytest.approx(found.largest, rel=1e-3)
    assert 0.0202 == pytest.approx(found.mean, rel=1e-2)


def test_a_single_start_has_no_difference():
    """Nor have starts of other knobs."""
    rows = [start("a", [0.0]), start("b", [0.0], knobs=Knobs(cpu_kv_gib=1))]

    assert same_again(rows, Knobs().canonical()) is None
