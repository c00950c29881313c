import pytest

from tuner.drafts import (
    NO_DRAFTS,
    ClassCount,
    Drafts,
    pooled,
    predicted,
    since,
    spread,
)

# Replayed acceptance traces of Llama-3.1-8B, SpecDecode-Bench/simulator commit 2fdccbd: how many
# drafts of the longest length had 0, 1, ... tokens accepted, and the tokens per step that the same
# traces gave when they were walked with each draft length.
EAGLE_K15 = (6034, 4203, 2817, 1676, 1180, 671, 431, 356, 239, 114, 70, 27, 8, 1, 0, 1)  # gsm8k
EAGLE = {1: 1.6989, 2: 2.1337, 3: 2.3908, 4: 2.5582, 6: 2.7255, 8: 2.7835, 12: 2.7989, 15: 2.7992}
CODE_EAGLE_K7 = (18476, 10065, 5327, 3004, 2025, 1313, 1139, 4113)  # instructcoder
CODE_EAGLE = {1: 1.6809, 2: 2.095, 3: 2.3483, 4: 2.5154, 5: 2.6254, 6: 2.7025, 7: 2.7602}
CODE_NGRAM_K15 = (
    39190, 1441, 814, 555, 566, 265, 238, 195, 174, 193, 180, 110, 94, 103, 483, 3746,
)  # fmt: skip
CODE_NGRAM_K5 = (39765, 1676, 1538, 692, 883, 12681)
CODE_NGRAM = {
    1: 1.5087, 2: 1.8229, 3: 2.0277, 4: 2.1879, 5: 2.2888, 6: 2.3704, 7: 2.4476, 8: 2.4993,
    10: 2.5726, 12: 2.6336, 14: 2.6906, 15: 2.71,
}  # fmt: skip


def drafts(*accepted, k=None):
    """Request-steps by accepted tokens; every one of them had a whole draft."""
    steps = sum(accepted)
    longest = len(accepted) - 1 if k is None else k
    return Drafts(request_steps=steps, drafts=steps, drafted=longest * steps, accepted=accepted)


def test_tokens_per_step_count_the_bonus_token():
    """Two steps without an accepted token, one with one, one with three: eight tokens in four."""
    assert 2.0 == drafts(2, 1, 0, 1).tokens_per_step
    assert NO_DRAFTS.tokens_per_step is None


@pytest.mark.parametrize(("k", "tokens"), [(0, 1.0), (1, 1.60), (2, 1.75), (3, 2.0)])
def test_worked_example(k, tokens):
    """Of [2, 1, 0, 1]: at k=1 eight tokens in five steps, at k=2 the cut runs, seven in four."""
    assert pytest.approx(tokens) == predicted(drafts(2, 1, 0, 1), k)


def test_nothing_is_predicted_from_nothing():
    """Without a step there is no prediction, and no scatter."""
    assert predicted(NO_DRAFTS, 2) is None
    assert 0.0 == spread(NO_DRAFTS)


@pytest.mark.parametrize(
    ("accepted", "walked", "limit"),
    [
        (EAGLE_K15, EAGLE, 0.022),
        (CODE_EAGLE_K7, CODE_EAGLE, 0.0412),
        (CODE_NGRAM_K15, CODE_NGRAM, 0.0557),
        (CODE_NGRAM_K5, {k: v for k, v in CODE_NGRAM.items() if k <= 5}, 0.0876),
    ],
)
def test_predictions_are_as_good_as_claimed(accepted, walked, limit):
    """Within 4.1 % for a trained drafter and 8.7 % for ngram of what the traces really gave."""
    errors = [predicted(drafts(*accepted), k) / tokens - 1 for k, tokens in walked.items()]

    assert max(map(abs, errors)) <= limit
    assert max(map(abs, errors)) > limit / 2  # the limit is the measured error, not a wide one


def test_run_splitting_is_what_makes_them_so():
    """Cutting the runs alone would be 29 % too low for ngram on code: its runs are long."""
    cut = sum(n * (1 + min(a, 4)) for a, n in enumerate(CODE_NGRAM_K15)) / sum(CODE_NGRAM_K15)

    assert 0.15 < 1 - cut / CODE_NGRAM[4]
    assert 0.05 > 1 - predicted(drafts(*CODE_NGRAM_K15), 4) / CODE_NGRAM[4]


def test_spread_is_the_variance_of_one_step():
    """Tokens 1, 1, 2, 4; with the part beyond k=1 not counted 1, 1, 2, 2."""
    assert pytest.approx(1.5) == spread(drafts(2, 1, 0, 1))
    assert pytest.approx(0.25) == spread(drafts(2, 1, 0, 1), 1)


def test_differences_and_sums_are_by_column():
    """A counter's growth plus what it was is what it is."""
    before, after = drafts(2, 1, 0, 1), drafts(5, 1, 2, 4)

    assert drafts(3, 0, 2, 3) == after - before
    assert after == before + (after - before)


def test_sums_keep_the_longer_histogram():
    """Nothing is lost when a short one meets a long one."""
    assert (3, 1, 0, 1) == (drafts(1) + drafts(2, 1, 0, 1)).accepted
    assert drafts(2, 1) == NO_DRAFTS + drafts(2, 1)


def count(by_length):
    return ClassCount(by_length=by_length, tokens=0, requests=0)


def test_since_is_what_was_added():
    """Classes and draft lengths that stood still are left out, new ones are whole."""
    before = {0: count({2: drafts(2, 1, 0)}), 3: count({2: drafts(1, 1, 1)})}
    after = {
        0: count({2: drafts(5, 2, 1), 4: drafts(1, 0, 0, 0, 2)}),
        3: count({2: drafts(1, 1, 1)}),
        5: count({1: drafts(0, 1)}),
    }

    assert {
        0: {2: drafts(3, 1, 1), 4: drafts(1, 0, 0, 0, 2)},
        5: {1: drafts(0, 1)},
    } == since(before, after)


def test_pooled_adds_by_draft_length():
    """Two classes with the same draft length are one sample of it."""
    found = pooled([{2: drafts(1, 1, 0), 3: drafts(1, 0, 0, 0)}, {2: drafts(0, 0, 2)}])

    assert {2: drafts(1, 1, 2), 3: drafts(1, 0, 0, 0)} == found
    assert {} == pooled([])
