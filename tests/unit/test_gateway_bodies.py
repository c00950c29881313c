"""The sum of the bodies of running requests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gateway.bodies import Bodies
from service.gateway.errors import MAX_RETRY_S, BodiesFullError


def test_a_body_that_does_not_fit_is_refused_before_it_comes():
    """What is declared takes nothing: only bytes that came count."""
    bodies = Bodies(limit=10)
    bodies.take(6)

    bodies.check(4)
    with pytest.raises(BodiesFullError):
        bodies.check(5)
    assert 6 == bodies.taken


def test_bytes_beyond_the_limit_are_refused_and_not_counted():
    """The request that sent them gives back what it had, and nothing else."""
    bodies = Bodies(limit=10)
    bodies.take(10)
    with pytest.raises(BodiesFullError):
        bodies.take(1)
    bodies.give(10)

    assert 0 == bodies.taken
    bodies.take(10)


def test_the_refusal_says_when_to_come_again():
    """A 503 that the SDKs honour; the connection ends, for its body was not read."""
    error = BodiesFullError()

    assert (503, True, True) == (error.http_status, error.retryable, error.close)
    assert 0 < int(error.headers()["Retry-After"]) <= MAX_RETRY_S


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 100))
def test_the_limit_holds_for_any_sizes(sizes, limit):
    """Never above it, and back at nothing when all have gone."""
    bodies, kept = Bodies(limit=limit), []
    for size in sizes:
        try:
            bodies.take(size)
        except BodiesFullError:
            if kept:
                bodies.give(kept.pop(0))
        else:
            kept.append(size)
        assert sum(kept) == bodies.taken <= limit
    for size in kept:
        bodies.give(size)

    assert 0 == bodies.taken
