from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tuner.buckets import assemble, bucket, span

BEST = st.dictionaries(st.integers(0, 9), st.integers(0, 16), max_size=8)
CEILING = st.integers(1, 600)


def length_at(ranges, batch):
    return next(k for low, high, k in ranges if low <= batch <= high)


@given(st.integers(1, 10**6))
def test_a_bucket_spans_its_batch(batch):
    """Every batch size lies in its own bucket, and spans follow one another without a gap."""
    number = bucket(batch)
    low, high = span(number)

    assert low <= batch <= high
    assert high + 1 == span(number + 1)[0]


@given(BEST, CEILING, st.integers(0, 16))
def test_ranges_cover_every_batch_once(best, ceiling, fallback):
    """From 1 to the ceiling, contiguous, and no two neighbours alike."""
    ranges = assemble(best, ceiling=ceiling, fallback=fallback)

    assert (1, ceiling) == (ranges[0][0], ranges[-1][1])
    assert all(low <= high for low, high, _ in ranges)
    assert [high + 1 for _, high, _ in ranges[:-1]] == [low for low, _, _ in ranges[1:]]
    assert all(a[2] != b[2] for a, b in pairwise(ranges))


@given(BEST, CEILING)
def test_what_was_learned_is_kept(best, ceiling):
    """A learned bucket gets its own k, and an unlearned one a k that somebody learned."""
    ranges = assemble(best, ceiling=ceiling, fallback=99)

    for batch in range(1, ceiling + 1):
        k = length_at(ranges, batch)
        assert k == best.get(bucket(batch), k)
        assert k in (set(best.values()) or {99})


@given(BEST, CEILING)
def test_an_untried_batch_never_gets_a_longer_draft(best, ceiling):
    """Not longer than at the nearest smaller batch that was learned."""
    ranges = assemble(best, ceiling=ceiling, fallback=0)

    for batch in range(1, ceiling + 1):
        below = [number for number in best if number < bucket(batch)]
        if bucket(batch) not in best and below:
            assert length_at(ranges, batch) <= best[max(below)]
