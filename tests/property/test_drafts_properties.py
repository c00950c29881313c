from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.drafts import ClassCount, Drafts, pooled, predicted, since, spread

COUNTS = st.lists(st.integers(0, 500), min_size=1, max_size=16).filter(any)
PARTS = st.lists(st.dictionaries(st.integers(0, 5), COUNTS, max_size=4), max_size=5)


def drafts(accepted):
    steps = sum(accepted)
    return Drafts(request_steps=steps, drafts=steps, drafted=0, accepted=tuple(accepted))


@given(COUNTS)
def test_the_ends_are_known(accepted):
    """Without drafts one token per step; with the length that ran what it gave."""
    found, longest = drafts(accepted), len(accepted) - 1

    assert pytest.approx(1.0) == predicted(found, 0)
    assert pytest.approx(found.tokens_per_step) == predicted(found, longest)


@given(COUNTS)
def test_longer_drafts_give_no_fewer_tokens(accepted):
    """Predictions never fall with the draft length, and k + 1 tokens are the most there is."""
    found = [predicted(drafts(accepted), k) for k in range(len(accepted))]

    assert all(after >= before - 1e-9 for before, after in pairwise(found))
    assert all(1 - 1e-9 <= tokens <= k + 1 + 1e-9 for k, tokens in enumerate(found))


@given(COUNTS, st.integers(2, 9), st.integers(0, 15))
def test_only_ratios_mean_something(accepted, times, k):
    """A sample of every second or every ninth step predicts the same."""
    more = drafts([times * n for n in accepted])

    assert pytest.approx(predicted(drafts(accepted), k)) == predicted(more, k)
    assert pytest.approx(spread(drafts(accepted), k)) == spread(more, k)


@given(PARTS)
def test_pooling_loses_no_step(parts):
    """The request-steps of the pool are those of its parts, whatever their histograms' widths."""
    given_parts = [{k: drafts(accepted) for k, accepted in part.items()} for part in parts]
    found = pooled(given_parts)

    assert sum(sum(each) for part in parts for each in part.values()) == sum(
        one.request_steps for one in found.values()
    )
    assert all(sum(one.accepted) == one.request_steps for one in found.values())


@given(st.dictionaries(st.integers(0, 15), COUNTS, max_size=4), st.integers(1, 5))
def test_growth_is_what_was_added(counts, times):
    """A reading, and one in which everything has grown by so many times as much."""
    before = {
        code: ClassCount(by_length={3: drafts(n)}, tokens=0, requests=0)
        for code, n in counts.items()
    }
    after = {
        code: ClassCount(by_length={3: drafts([x * (1 + times) for x in n])}, tokens=0, requests=0)
        for code, n in counts.items()
    }

    assert {code: {3: drafts([times * x for x in n])} for code, n in counts.items()} == since(
        before, after
    )
