"""Records and windows of traffic."""

import pytest

from profiles.classes import RequestClass
from service.traffic import Record, summarise, union

CODE, CHAT = RequestClass.parse("greedy.balanced"), RequestClass.parse("sampled.balanced")


def record(end, duration=1.0, **fields):
    """A request that ended then and took so long, with 10 tokens."""
    base = {
        "at": end,
        "application": "app",
        "request": CODE,
        "outcome": "ok",
        "prompt_tokens": 20,
        "completion_tokens": 10,
        "output_bytes": 40,
        "ttft_s": 0.1,
        "duration_s": duration,
        "held_s": 0.0,
        "profile": "p",
        "plain": False,
    }
    return Record(**(base | fields))


def raw(**fields):
    """A record as the gateway sends it."""
    base = {
        "seq": 1,
        "at": 10.0,
        "application": "app",
        "request_class": "greedy.balanced",
        "endpoint": "completions",
        "stream": True,
        "status": 200,
        "outcome": "ok",
        "prompt_tokens": 20,
        "completion_tokens": 10,
        "output_bytes": 40,
        "ttft_s": None,
        "duration_s": 2.0,
        "held_s": 0.5,
        "profile": None,
        "engine_token": "t",
        "plain": False,
    }
    return base | fields


def window(*records, now=100.0, span_s=60.0, loads=None):
    return summarise(records, now=now, span_s=span_s, loads=loads)


def test_a_record_is_read_from_json():
    """What the gateway reports arrives, a missing profile as an empty one."""
    found = Record.parse(raw())

    assert (CODE, "", (8.5, 10.0)) == (found.request, found.profile, found.span)


@pytest.mark.parametrize(
    "wrong",
    [{"request_class": ""}, {"request_class": "other.kind"}, {"at": None}, {"duration_s": "x"}],
)
def test_what_is_no_record_of_a_class_is_left_out(wrong):
    """A request without a class, or a malformed record, is not an error."""
    assert Record.parse(raw(**wrong)) is None


def test_a_record_that_lacks_a_key_is_left_out():
    """A gateway of another version does not stop the daemon."""
    given = raw()
    del given["held_s"]

    assert Record.parse(given) is None


def test_tokens_are_counted_or_estimated():
    """The engine's own count wins; without it the bytes have to do."""
    assert 10.0 == record(1.0).tokens
    assert 12.0 == record(1.0, completion_tokens=None, output_bytes=48).tokens


def test_the_time_in_the_hold_is_not_at_the_engine():
    """A held request begins when it was let go; a clock that jumped gives no negative span."""
    assert (95.0, 100.0) == record(100.0, duration=30.0, held_s=25.0).span
    assert (100.0, 100.0) == record(100.0, duration=1.0, held_s=2.0).span


def test_spans_are_merged():
    """Overlapping and touching spans are one; empty ones vanish."""
    assert [(0, 3), (5, 7)] == union([(5, 6), (0, 2), (1, 3), (6, 7), (9, 9)])


def test_an_empty_window_has_no_rate():
    """No traffic is None, never 0 tok/s."""
    found = window()

    assert (0, None, 0.0, None) == (found.requests, found.tok_s, found.busy, found.dominant)


def test_only_recent_and_whole_requests_count():
    """Old ones and failed ones are left out."""
    found = window(
        record(39.0),
        record(41.0),
        record(99.0, outcome="engine_error"),
        record(98.0, outcome="cut"),
    )

    assert 1 == found.requests


def test_the_rate_is_over_busy_seconds():
    """Two overlapping requests of 10 tokens within 3 s: 20 tokens in 3 s, idle time left out."""
    found = window(record(52.0, 2.0), record(53.0, 2.0))

    assert pytest.approx(20 / 3) == found.tok_s
    assert pytest.approx(3 / 60) == found.busy


def test_classes_are_ordered_by_their_tokens():
    """The dominant class is the one with most tokens, not with most requests."""
    found = window(record(90.0), record(91.0), record(95.0, request=CHAT, completion_tokens=80))

    assert ["sampled.balanced.single", "greedy.balanced.single"] == [
        str(c.workload) for c in found.classes
    ]
    assert pytest.approx([0.8, 0.2]) == [c.share for c in found.classes]
    assert found.classes[0] == found.dominant


def test_concurrency_counts_every_class():
    """A class is as concurrent as the engine was while it ran, whoever else ran."""
    four = [record(90.0, 10.0, request=CHAT) for _ in range(4)]
    found = {str(c.workload.request): c for c in window(record(85.0, 5.0), *four).classes}

    assert pytest.approx(5.0) == found["greedy.balanced"].concurrency
    assert pytest.approx(4.5 * 8 / 9, abs=0.5) == found["sampled.balanced"].concurrency
    assert "low" == found["greedy.balanced"].workload.load


def test_a_hold_does_not_look_like_load():
    """Ten requests that waited together and ran one after the other are a load of one."""
    held = [record(60.0 + i, duration=10.0 + i, held_s=9.0 + i) for i in range(10)]

    assert pytest.approx(1.0) == window(*held).classes[0].concurrency


def test_the_load_has_hysteresis():
    """A load near its border keeps the bin that it had."""
    given = [record(90.0, 10.0), record(86.0, 6.0)]  # 1.75 on average, the border is at 1.5
    plain = window(*given).classes[0]
    kept = window(*given, loads={CODE: "single"}).classes[0]

    assert 1.5 < plain.concurrency < 1.8
    assert ("low", "single") == (plain.workload.load, kept.workload.load)


def test_applications_are_counted_in_tokens():
    """Pins look at the tokens of an application."""
    found = window(
        record(90.0, application="a"), record(91.0, application="b", completion_tokens=30)
    )

    assert {"a": 10.0, "b": 30.0} == found.applications
    assert {"a": 10.0, "b": 30.0} == found.classes[0].applications


def test_lengths_are_medians():
    """One giant does not make a class of giants."""
    sizes = [10, 12, 5000]
    found = window(*(record(90.0, prompt_tokens=s, completion_tokens=s) for s in sizes))

    assert (12, 12) == (found.classes[0].prompt_tokens, found.classes[0].output_tokens)
