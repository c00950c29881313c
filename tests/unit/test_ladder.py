import math
import random
from itertools import pairwise

import pytest

from tuner.drafts import Drafts
from tuner.ladder import MAX_LENGTHS, MAX_STARTS, Model, Rung, believe, climb, tokens_of, worth
from tuner.shapes import shapes

LENGTHS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 15)
PEAK_3 = {0: 0.0, 1: 0.3, 2: 0.5, 3: 0.58, 4: 0.53, 5: 0.46, 6: 0.4, 8: 0.3, 10: 0.2, 13: 0.1}
LOSS = {k: -0.05 * k for k in LENGTHS}


def run(curve, *, seed=0, noise=0.0, **options):
    """A whole ladder on a curve of ln tok/s; the starts in order and the choice."""
    rng = random.Random(seed)
    rungs = []
    while (step := climb(tuple(curve), rungs, **options)).length is not None:
        value = curve[step.length] + rng.gauss(0, noise)
        rungs.append(Rung(length=step.length, score=value))
    return [rung.length for rung in rungs], step.choice


def test_ladder_begins_with_off():
    """Speculation is compared with its absence before anything else."""
    assert 0 == climb(LENGTHS, []).length


def test_ladder_without_off_begins_where_the_shapes_expect_most():
    """Nobody published or allowed off: a short length is the best guess."""
    assert climb((2, 3, 4, 5, 6, 15), []).length in {2, 3, 4, 5}


def test_peak_is_found_with_four_lengths():
    """A curve with one peak is solved, and no fifth length is started for it."""
    starts, choice = run(PEAK_3)

    assert 3 == choice
    assert len(set(starts)) <= MAX_LENGTHS


def test_off_is_chosen_where_every_draft_loses():
    """With noise of 2.5 %, in at least 29 of 30 runs."""
    choices = [run(LOSS, seed=seed, noise=0.025)[1] for seed in range(30)]

    assert choices.count(0) >= 29


@pytest.mark.parametrize("peak", [1, 2, 4, 6, 10, 15])
def test_noise_does_not_hide_a_peak(peak):
    """Wherever the peak is: p90 of the loss over 20 noisy runs is below 3 %."""
    curve = {k: 0.5 - 0.25 * math.log((1 + k) / (1 + peak)) ** 2 for k in LENGTHS}
    lost = sorted(
        max(curve.values()) - curve[run(curve, seed=seed, noise=0.025)[1]] for seed in range(20)
    )

    assert lost[17] < 0.03


def test_candidates_with_gaps_are_enough():
    """A list that jumps from off to 9 is a ladder too."""
    starts, choice = run({0: 0.0, 9: 0.4, 60: 0.3})

    assert 9 == choice
    assert set(starts) <= {0, 9, 60}


@pytest.mark.parametrize(("gain", "expected"), [(0.5, 15), (-0.12, 0)])
def test_two_candidates_are_compared(gain, expected):
    """Off or on."""
    assert expected == run({0: 0.0, 15: gain})[1]


def test_one_candidate_is_started_once():
    """Nothing is to be chosen, so one start is enough."""
    assert ([4], 4) == run({4: 1.0})


def test_no_candidate_is_no_step():
    """A ladder without lengths asks for nothing."""
    step = climb((), [])

    assert (None, None) == (step.length, step.choice)


def test_curve_with_two_peaks_ends_with_a_measured_length():
    """The shapes are wrong here; the answer still is the best of what was measured."""
    curve = {k: 0.3 * (k % 2) - 0.02 * k for k in LENGTHS}
    starts, choice = run(curve)

    assert choice in starts
    assert choice in sorted(set(starts), key=lambda k: -curve[k])[:2]


def test_starts_are_limited():
    """However equal the lengths are, a ladder ends."""
    for seed in range(10):
        starts, _ = run(dict.fromkeys(LENGTHS, 0.0), seed=seed, noise=0.05)

        assert len(starts) <= MAX_STARTS


def test_same_rungs_give_the_same_step():
    """No random number is drawn."""
    rungs = [Rung(length=0, score=0.0), Rung(length=4, score=0.4)]

    assert climb(LENGTHS, rungs) == climb(LENGTHS, list(rungs))


def test_close_neighbours_are_started_again():
    """Two lengths within the noise: one lucky start must not decide."""
    rungs = [Rung(length=k, score=v) for k, v in ((0, 0.0), (3, 0.5), (4, 0.5), (2, 0.45))]
    step = climb(LENGTHS, rungs)

    assert step.length in {2, 3, 4}
    assert step.why.startswith("again, ")


def test_a_strong_rival_ends_a_ladder():
    """Where another drafter is far ahead, more starts of this one are worth nothing."""
    rungs = [Rung(length=0, score=0.0), Rung(length=4, score=-0.5)]

    assert climb(LENGTHS, rungs).length is not None
    assert climb(LENGTHS, rungs, rival=1.0).length is None


def test_acceptance_moves_the_expectation_of_lengths_not_measured():
    """Equal rates at 0 and 15; where a draft of 15 gives two tokens, 3 is thought to be faster.

    With two tokens from 15 the first few drafted ones must give nearly all of them.
    """
    expected = []
    for tokens in ({15: math.log(2.0)}, {15: math.log(9.0)}):
        rungs = [Rung(length=0, score=0.0), Rung(length=15, score=0.0, tokens=tokens)]
        expected.append(believe(LENGTHS, rungs, model=Model()).expected())

    assert abs(expected[0][3] - expected[1][3]) > 0.03


def test_acceptance_never_chooses_by_itself():
    """A prediction for a shorter length is evidence; the choice was measured."""
    tokens = {k: math.log(1 + 0.3 * k) for k in (1, 2, 4, 8)}
    rungs = [Rung(length=0, score=0.0), Rung(length=8, score=-0.3, tokens=tokens)]

    assert climb(LENGTHS, rungs).choice in {0, 8}


def test_one_slow_start_is_doubted():
    """A start 15 % below its neighbours on both sides is believed less than it says."""
    rungs = [Rung(length=k, score=v) for k, v in ((0, 0.0), (2, 0.4), (3, 0.3), (4, 0.45))]
    belief = believe(LENGTHS, rungs, model=Model()).expected()

    assert belief[3] > 0.33


def test_belief_needs_a_measured_candidate():
    """A belief about nothing has no level."""
    with pytest.raises(ValueError, match="measured lengths"):
        believe(LENGTHS, [], model=Model())
    with pytest.raises(ValueError, match="among the candidates"):
        believe((0, 1), [Rung(length=2, score=0.0)], model=Model())


def test_worth_is_never_negative():
    """A further start may be ignored, so it cannot harm."""
    belief = believe(LENGTHS, [Rung(length=0, score=0.0)], model=Model())

    assert all(gain >= 0 for gain in worth(belief, {0}, noise=0.03).values())


def test_tokens_are_those_of_the_estimator():
    """The worked example: 2, 1, 0, 1 drafts with 0 to 3 accepted tokens."""
    drafts = Drafts(request_steps=4, drafts=4, drafted=12, accepted=(2, 1, 0, 1))

    assert {1: math.log(1.6), 2: math.log(1.75), 3: math.log(2.0)} == pytest.approx(
        tokens_of(drafts, 3, LENGTHS)
    )


def test_shapes_saturate_in_tokens_and_are_measured_against_off():
    """Tokens per step grow with the draft, by ever less than one, and off gains nothing."""
    found = shapes(tuple(range(16)))
    tokens = [[math.exp(x) for x in row] for row in found.tokens.tolist()]

    assert all(0 == row[0] for row in found.gain.tolist())
    assert all(0 <= b - a <= 1 for row in tokens for a, b in pairwise(row))


def test_shapes_have_their_peaks_everywhere():
    """The prior is broad: off, short, middle and longest lengths are each best in 2 % or more."""
    best = shapes(tuple(range(16))).gain.argmax(axis=1).tolist()
    share = [sum(k in group for k in best) / len(best) for group in ({0}, {1, 2}, {3, 4, 5}, {15})]

    assert min(share) >= 0.02
