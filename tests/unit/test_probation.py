"""What condemns a profile after a switch, and what does not."""

from dataclasses import replace

import pytest

from profiles.classes import RequestClass
from profiles.knobs import Knobs
from profiles.profile import Origin, Profile
from service.probation import ENGINE_FAULTS, MIN_REQUESTS, Trial, promised, regression
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


def judged(traffic, promised=CODE):
    return regression(Trial(**traffic, promised=promised))


def many(count=MIN_REQUESTS, **fields):
    return [replace(GOOD, **fields)] * count


def test_the_same_as_before_is_no_regression():
    """Equal traffic condemns nobody."""
    assert judged({"before": many(), "after": many()}) is None


@pytest.mark.parametrize("outcome", sorted(ENGINE_FAULTS))
def test_failures_of_the_engine_condemn(outcome):
    """More than one request in a hundred that the engine lost."""
    after = many(98) + many(2, outcome=outcome)

    assert "2 of 100 requests failed at the engine" == judged({"before": [], "after": after})


@pytest.mark.parametrize("outcome", ["client_gone", "bad_request", "cut", "hold_timeout"])
def test_failures_of_others_do_not(outcome):
    """A client that leaves, or a hold of ours, says nothing about the profile."""
    after = many(50) + many(50, outcome=outcome)

    assert judged({"before": many(), "after": after}) is None


def test_one_failure_in_a_hundred_is_tolerated():
    """The bound is a share, not a count."""
    assert judged({"before": [], "after": many(99) + many(1, outcome="timeout")}) is None


def test_a_handful_of_requests_condemns_nobody():
    """Below the minimum on either side nothing is judged."""
    few, slow = MIN_REQUESTS - 1, {"duration_s": 9.0}

    assert judged({"before": many(), "after": many(few, outcome="timeout")}) is None
    assert judged({"before": many(few), "after": many(**slow)}) is None
    assert judged({"before": many(), "after": many(few, **slow)}) is None


def test_slower_streams_condemn():
    """Fewer than 80 % of the tokens per second and request of before."""
    found = judged({"before": many(), "after": many(duration_s=1.3)})

    assert "greedy.balanced streams at 77 tok/s per request, 100 before" == found
    assert judged({"before": many(), "after": many(duration_s=1.2)}) is None


def test_a_longer_wait_condemns_only_with_slower_tokens():
    """A queue of a busier hour is no regression of the profile."""
    slower = many(ttft_s=0.4, duration_s=1.1)
    queued = many(ttft_s=0.4, duration_s=1.0)

    found = judged({"before": many(), "after": slower})
    assert "greedy.balanced waits 0.40 s for its first token, 0.20 before" == found
    assert judged({"before": many(), "after": queued}) is None


def test_only_the_class_that_was_promised_is_judged():
    """A profile made for code may be slower on chat; more chat is a change of the mix."""
    before = many() + many(request=CHAT)
    slow_chat = many() + many(100, request=CHAT, duration_s=5.0)

    assert judged({"before": before, "after": slow_chat}) is None
    found = judged({"before": before, "after": slow_chat}, promised=CHAT)
    assert "sampled.balanced streams at 20 tok/s per request, 100 before" == found


def test_what_somebody_wanted_is_not_judged_by_its_speed():
    """Back to the default after a faster profile, or for min_p, is no regression."""
    slow = {"before": many(), "after": many(duration_s=9.0)}

    assert judged(slow, promised=None) is None
    assert "20 of 20 requests failed at the engine" == judged(
        {"before": many(), "after": many(outcome="timeout")}, promised=None
    )


@pytest.mark.parametrize(
    ("origin", "workload", "expected"),
    [
        (Origin.SEARCH, "greedy.balanced.mid", CODE),
        (Origin.SEARCH, "any", None),
        (Origin.IMPORT, "greedy.balanced.mid", None),
        (Origin.DEFAULT, "greedy.balanced.mid", None),
    ],
)
def test_only_what_won_a_promotion_here_promises_speed(origin, workload, expected):
    """The operator's configuration and an import promise nothing."""
    profile = Profile(knobs=Knobs(), platform="p", workload=workload, origin=origin)

    assert expected == promised(profile)


def test_held_requests_are_left_out():
    """The hold is ours: what waited for the switch is not the profile's fault."""
    held = many(100, duration_s=60.0, held_s=59.0, ttft_s=59.5)

    assert judged({"before": many(), "after": many() + held}) is None


def test_streams_without_a_first_token_time_are_compared_by_rate():
    """A request that was not streamed has no TTFT and needs none."""
    before, after = many(ttft_s=None), many(ttft_s=None, duration_s=1.2)

    assert judged({"before": before, "after": after}) is None
