"""Spans and concurrency against brute force on a grid."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.classes import Lengths, RequestClass, Sampling
from service.traffic import Record, summarise, union

GRID = 40
# whole seconds, so that counting them one by one is exact
spans = st.lists(
    st.tuples(st.integers(0, GRID), st.integers(0, GRID)).map(lambda p: (min(p), max(p))),
    max_size=12,
)
requests = st.builds(
    RequestClass, sampling=st.sampled_from(Sampling), lengths=st.just(Lengths.BALANCED)
)


def record(start, end, request, held=0):
    return Record(
        at=float(end),
        application="a",
        request=request,
        outcome="ok",
        prompt_tokens=1,
        completion_tokens=10,
        output_bytes=0,
        ttft_s=None,
        duration_s=float(end - start + held),
        held_s=float(held),
        profile="",
        plain=False,
    )


def level(given, second):
    """How many spans cover this second."""
    return sum(start <= second < end for start, end in given)


@given(spans)
def test_a_union_covers_the_same_seconds(given_spans):
    """Merged spans are disjoint, in order, and cover what the originals cover."""
    merged = union(given_spans)

    covered = [any(start <= s < end for start, end in merged) for s in range(GRID)]
    assert [level(given_spans, s) > 0 for s in range(GRID)] == covered
    assert all(one[1] < other[0] for one, other in pairwise(merged))
    assert all(start < end for start, end in merged)


@given(st.lists(st.tuples(spans, requests), min_size=1, max_size=3), st.integers(0, 30))
def test_concurrency_is_that_of_counting(groups, held):
    """The mean level that a class saw, weighted by time, whatever was held before."""
    given = [
        (start, end, request) for found, request in groups for start, end in found if end > start
    ]
    window = summarise(
        [record(start, end, request, held) for start, end, request in given],
        now=float(GRID),
        span_s=float(GRID),
    )
    everything = [(start, end) for start, end, _ in given]
    for traffic in window.classes:
        own = [(s, e) for s, e, request in given if request == traffic.workload.request]
        seconds = sum(end - start for start, end in own)
        area = sum(level(own, s) * level(everything, s) for s in range(GRID))

        assert pytest.approx(area / seconds) == traffic.concurrency
        busy = sum(level(own, s) > 0 for s in range(GRID))
        assert pytest.approx(10 * len(own) / busy) == traffic.tok_s


@given(st.lists(st.tuples(spans, requests), max_size=3))
def test_a_window_adds_up(groups):
    """Shares sum to one, requests to all, and busy is a share of the span."""
    records = [record(start, end, request) for found, request in groups for start, end in found]
    window = summarise(records, now=float(GRID), span_s=float(GRID))
    busy = sum(level([(r.at - r.duration_s, r.at) for r in records], s) > 0 for s in range(GRID))

    assert len(records) == window.requests == sum(c.requests for c in window.classes)
    assert pytest.approx(1.0 if records else 0.0) == sum(c.share for c in window.classes)
    assert pytest.approx(busy / GRID) == window.busy
    assert all(c.concurrency >= 1 for c in window.classes)
