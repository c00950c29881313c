"""What condemns a profile after a switch, and what does not."""

from dataclasses import replace

import pytest

from profiles.classes import RequestClass
from service.probation import ENGINE_FAULTS, MIN_REQUESTS, Trial, regression
from service.traffic import Record

CODE, CHAT = RequestClass.parse("greedy.balanced"), RequestClass.parse("sampled.balanced")
GOOD = Record(
    at=0.0,
    application="a",
    request=CODE,
    outcome="ok",
    prompt_tokens=10,
    completion_tokens=100,
    output_bytes=400,
    ttft_s=0.2,
    duration_s=1.0,
    held_s=0.0,
    profile="p",
    plain=False,
)


def many(count=MIN_REQUESTS, **fields):
    return [replace(GOOD, **fields)] * count


def test_the_same_as_before_is_no_regression():
    """Equal traffic condemns nobody."""
    assert regression(Trial(before=many(), after=many())) is None


@pytest.mark.parametrize("outcome", sorted(ENGINE_FAULTS))
def test_failures_of_the_engine_condemn(outcome):
    """More than one request in a hundred that the engine lost."""
    after = many(98) + many(2, outcome=outcome)

    assert "2 of 100 requests failed at the engine" == regression(Trial(before=[], after=after))


@pytest.mark.parametrize("outcome", ["client_gone", "bad_request", "cut", "hold_timeout"])
def test_failures_of_others_do_not(outcome):
    """A client that leaves, or a hold of ours, says nothing about the profile."""
    after = many(50) + many(50, outcome=outcome)

    assert regression(Trial(before=many(), after=after)) is None


def test_one_failure_in_a_hundred_is_tolerated():
    """The bound is a share, not a count."""
    assert regression(Trial(before=[], after=many(99) + many(1, outcome="timeout"))) is None


def test_a_handful_of_requests_condemns_nobody():
    """Below the minimum on either side nothing is judged."""
    few, slow = MIN_REQUESTS - 1, {"duration_s": 9.0}

    assert regression(Trial(before=many(), after=many(few, outcome="timeout"))) is None
    assert regression(Trial(before=many(few), after=many(**slow))) is None
    assert regression(Trial(before=many(), after=many(few, **slow))) is None


def test_slower_streams_condemn():
    """Fewer than 80 % of the tokens per second and request of before."""
    found = regression(Trial(before=many(), after=many(duration_s=1.3)))

    assert "greedy.balanced streams at 77 tok/s per request, 100 before" == found
    assert regression(Trial(before=many(), after=many(duration_s=1.2))) is None


def test_a_longer_wait_condemns_only_with_slower_tokens():
    """A queue of a busier hour is no regression of the profile."""
    slower = many(ttft_s=0.4, duration_s=1.1)
    queued = many(ttft_s=0.4, duration_s=1.0)

    found = regression(Trial(before=many(), after=slower))
    assert "greedy.balanced waits 0.40 s for its first token, 0.20 before" == found
    assert regression(Trial(before=many(), after=queued)) is None


def test_each_class_is_compared_with_itself():
    """More of a slow class is a change of the mix, not a regression."""
    slow = {"request": CHAT, "duration_s": 5.0}
    before = many(100) + many(**slow)

    assert regression(Trial(before=before, after=many() + many(100, **slow))) is None
    found = regression(Trial(before=before, after=many() + many(request=CHAT, duration_s=9.0)))
    assert "sampled.balanced streams at 11 tok/s per request, 20 before" == found


def test_held_requests_are_left_out():
    """The hold is ours: what waited for the switch is not the profile's fault."""
    held = many(100, duration_s=60.0, held_s=59.0, ttft_s=59.5)

    assert regression(Trial(before=many(), after=many() + held)) is None


def test_streams_without_a_first_token_time_are_compared_by_rate():
    """A request that was not streamed has no TTFT and needs none."""
    before, after = many(ttft_s=None), many(ttft_s=None, duration_s=1.2)

    assert regression(Trial(before=before, after=after)) is None
