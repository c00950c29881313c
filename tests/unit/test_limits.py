import itertools
import math
import random

import pytest
from live_model import SURVIVAL, shares

from tuner.cells import Cell
from tuner.drafts import Drafts
from tuner.limits import LEAST_STEPS, NONE, Line, grown, proposed, step_line

GOOD, BAD = 1, 5  # class codes
HOPELESS = tuple(0.1 * 0.3**place for place in range(15))
EASY = tuple(0.9 * 0.9**place for place in range(15))
TIMES = {
    (8, k): Cell(steps=100, tokens=800, seconds=100 * (0.02 + 0.004 * (k + 1)))
    for k in (0, 1, 3, 6, 15)
}


def drafts(survival, k=6, steps=100_000):
    counts = tuple(round(steps * share) for share in shares(k, survival))
    whole = sum(counts)
    return {k: Drafts(request_steps=whole, drafts=whole, drafted=k * whole, accepted=counts)}


def tokens(survival, limit):
    return 1 + sum(survival[:limit])


def goodput(limits, kinds, line):
    share = 1 / len(kinds)
    made = sum(share * tokens(kinds[code], limit) for code, limit in limits.items())
    return made / (line.base + line.slope * sum(share * (n + 1) for n in limits.values()))


def test_step_line_is_fitted_to_lengths_that_draft():
    """K = 0 runs no drafter and is no point of the line."""
    line = step_line(TIMES | {(8, 0): Cell(steps=100, tokens=800, seconds=0.1)}, 3)

    assert (0.02, 0.004) == (pytest.approx(line.base), pytest.approx(line.slope))
    assert step_line({key: cell for key, cell in TIMES.items() if key[1] < 2}, 3) is None
    assert step_line(TIMES, 0) is None


def test_longer_steps_that_are_not_slower_have_no_line():
    """Where verifying is free there is nothing to save."""
    flat = {(8, k): Cell(steps=100, tokens=800, seconds=2.0 - k / 100) for k in (1, 3, 6)}

    assert step_line(flat, 3) is None


def test_class_whose_drafts_fail_is_trimmed():
    """Its drafts are not verified at all; the other class keeps the length of the batch."""
    found = proposed({GOOD: drafts(EASY), BAD: drafts(HOPELESS)}, TIMES, 6, 8)

    assert {BAD: 0} == dict(found.longest)
    assert found.gain > 0.1


def test_proposal_is_the_best_of_all_combinations():
    """Dinkelbach's iteration against trying every pair of limits, on random classes."""
    rng = random.Random(3)
    for _ in range(30):
        kinds = {
            code: tuple(level * decay**place for place in range(15))
            for code, level, decay in (
                (GOOD, rng.uniform(0.5, 0.95), rng.uniform(0.6, 0.95)),
                (BAD, rng.uniform(0.05, 0.9), rng.uniform(0.2, 0.9)),
            )
        }
        by_class = {code: drafts(survival) for code, survival in kinds.items()}
        found = proposed(by_class, TIMES, 6, 8)
        line = Line(base=0.02, slope=0.004)
        every = [
            goodput(dict(zip(kinds, pair, strict=True)), kinds, line)
            for pair in itertools.product(range(7), repeat=2)
        ]
        ours = {code: found.longest.get(code, 6) for code in kinds}
        if found is NONE:
            assert max(every) < goodput(ours, kinds, line) * 1.04
        else:
            assert goodput(ours, kinds, line) == pytest.approx(max(every), rel=0.01)


@pytest.mark.parametrize(
    "by_class",
    [
        {},
        {GOOD: drafts(EASY)},
        {GOOD: drafts(EASY), BAD: drafts(HOPELESS, steps=LEAST_STEPS // 2)},
        {GOOD: drafts(EASY), BAD: drafts(EASY)},
        {GOOD: drafts(EASY), BAD: drafts(HOPELESS, k=3)},
    ],
    ids=["nobody", "one class", "too few steps", "alike", "drafts too short to tell"],
)
def test_nothing_is_proposed_without_a_reason(by_class):
    """One class, classes alike, or too little known: no limits, and no race."""
    assert NONE == proposed(by_class, TIMES, 6, 8)


def test_nothing_is_proposed_without_drafts():
    """A batch that drafts nothing has nothing to trim."""
    assert NONE == proposed({GOOD: drafts(EASY), BAD: drafts(HOPELESS)}, TIMES, 0, 8)


def test_drafts_by_class_add_up():
    """Windows are pooled class by class and length by length."""
    one, two = drafts(SURVIVAL, steps=1000), drafts(EASY, k=3, steps=1000)
    whole = grown(grown({}, {GOOD: one}), {GOOD: {**one, **two}, BAD: two})

    assert {GOOD, BAD} == set(whole)
    assert 2 * one[6].request_steps == whole[GOOD][6].request_steps
    assert two[3] == whole[GOOD][3] == whole[BAD][3]
    assert math.isclose(2, whole[GOOD][6].drafts / one[6].drafts)
