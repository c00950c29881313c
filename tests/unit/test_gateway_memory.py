"""What the gateway remembers: samples, records and its own words."""

import asyncio
import json
import random

import pytest

from service.gateway.envelopes import envelope, event
from service.gateway.errors import (
    HoldTimeoutError,
    TooLargeError,
    retry_after,
)
from service.gateway.ledger import PER_CALL, Ledger, Record
from service.gateway.reservoir import Reservoir, Sample


def reservoir(**more):
    return Reservoir(**{"per_class": 4, "age_s": 100.0, "rng": random.Random(7), **more})


def sample(number, at=0.0, size=None):
    body = f"{number}".encode() if size is None else b"x" * size
    return Sample(at=at, endpoint="completions", body=body)


def test_every_request_is_equally_likely_to_be_kept():
    """Algorithm R: over many runs each of 20 requests is kept in a fifth of them."""
    kept = [0] * 20
    rng = random.Random(1)
    for _ in range(2000):
        it = reservoir(rng=rng)
        for number in range(20):
            it.offer("c", sample(number))
        for one in it.samples("c", 0):
            kept[int(one.body)] += 1

    assert 2000 * 4 == sum(kept)
    assert all(330 < count < 470 for count in kept)  # 400 +- 4 standard deviations


def test_samples_expire():
    """A sample that is older than its age is forgotten, and its class with it."""
    it = reservoir()
    it.offer("old", sample(1, at=0))
    it.offer("new", sample(2, at=90))

    assert {"new": 1, "old": 1} == it.classes(100)
    assert {"new": 1} == it.classes(101)
    assert [] == it.samples("old", 101)


def test_every_sample_expires_at_its_own_age():
    """One look at the oldest spares a walk through all, and must not hide the next oldest."""
    it = reservoir()
    for at in (30, 0, 20, 10):
        it.offer("c", sample(1, at=at))

    left = [[one.at for one in it.samples("c", now)] for now in (100, 101, 111, 121, 131)]
    assert [[30, 0, 20, 10], [30, 20, 10], [30, 20], [30], []] == left


def test_new_requests_are_kept_again_after_old_ones_expired():
    """An hour of heavy traffic must not make the next hour's requests improbable."""
    it = reservoir()
    for number in range(10_000):
        it.offer("c", sample(number, at=0))
    for number in range(20):
        it.offer("c", sample(number, at=200))

    assert [200.0] * 4 == [one.at for one in it.samples("c", 200)]
    assert it._classes["c"].seen == pytest.approx(20)


def test_memory_is_bounded():
    """One large body is not kept; many small ones push out the oldest."""
    it = reservoir(per_class=100, body_bytes=10, total_bytes=25)
    it.offer("a", sample(0, size=11))
    for at in range(5):
        it.offer("b" if at % 2 else "a", sample(0, at=at, size=8))

    assert [2.0, 3.0, 4.0] == sorted(one.at for name in "ab" for one in it.samples(name, 5))
    assert it._size == 24


def test_nothing_shows_a_prompt():
    """`repr` ends in logs and tracebacks."""
    it = reservoir()
    secret = Sample(at=0, endpoint="completions", body=b"secret")
    it.offer("c", secret)

    assert "secret" not in repr(secret) + repr(it) + str(it.samples("c", 0))


def record(**more):
    base = {
        "at": 1.0, "application": "a", "request_class": "greedy.balanced", "endpoint": "x",
        "stream": False, "status": 200, "outcome": "ok", "prompt_tokens": 1,
        "completion_tokens": 2, "output_bytes": 3, "ttft_s": None, "duration_s": 1.0,
        "held_s": 0.0, "profile": None, "engine_token": None, "plain": False,
    }  # fmt: skip
    return Record(**{**base, **more})


async def test_a_cursor_reads_every_record_once():
    """`next` is the cursor of the next call; one call gives a bounded number."""
    it = Ledger()
    for _ in range(PER_CALL + 5):
        it.add(record())
    first = await it.after(0, 0)
    second = await it.after(first["next"], 0)

    numbers = [one["seq"] for page in (first, second) for one in page["records"]]
    assert list(range(1, PER_CALL + 6)) == numbers
    assert (0, 0) == (first["dropped"], it.dropped)
    assert {"records": [], "next": PER_CALL + 5, "dropped": 0} == await it.after(second["next"], 0)


async def test_records_that_nobody_fetched_in_time_are_counted():
    """The ring forgets the oldest, and says how many were lost to this reader."""
    it = Ledger(ring=3)
    it.add(record())
    await it.after(0, 0)
    for _ in range(5):
        it.add(record())
    page = await it.after(1, 0)

    assert [4, 5, 6] == [one["seq"] for one in page["records"]]
    assert (2, 2) == (page["dropped"], it.dropped)


async def test_a_reader_waits_for_the_next_record():
    """The long poll ends with the record, or empty after its time."""
    it = Ledger()
    waiting = asyncio.create_task(it.after(0, 5))
    await asyncio.sleep(0)
    it.add(record(application="late"))

    assert ["late"] == [one["application"] for one in (await waiting)["records"]]
    assert [] == (await it.after(1, 0.01))["records"]


async def test_a_cursor_of_an_earlier_gateway_starts_anew():
    """A restarted gateway counts from 1; a reader with 900 must not wait for 901."""
    it = Ledger()
    it.add(record())

    assert [1] == [one["seq"] for one in (await it.after(900, 0))["records"]]


@pytest.mark.parametrize(
    ("wait_s", "whole"),
    [(0.0, 1), (-3.0, 1), (0.2, 1), (7.1, 8), (61.0, 60), (1e9, 60), (float("nan"), 5)],
)
def test_retry_after_is_what_the_sdks_honour(wait_s, whole):
    """Whole seconds from 1 to 60."""
    assert whole == retry_after(wait_s)


def test_errors_are_openai_shaped_and_name_their_maker():
    """The envelope of the API, plus `src`."""
    error = HoldTimeoutError(retry_after_s=12.0)
    body = json.loads(error.body())

    assert {"message", "type", "param", "code"} == set(body["error"])
    assert ("tunerd", 503) == (body["src"], body["error"]["code"])
    assert {"Retry-After": "12", "retry-after-ms": "12000", "x-should-retry": "true"} == (
        error.headers()
    )
    assert {} == TooLargeError().headers()


def test_an_error_event_stands_by_itself_after_a_broken_event():
    """The engine may die within a line: the event begins with an empty one."""
    lines = (b'data: {"id": "x", "te' + event("Broken.", kind="cut", code=502)).splitlines()

    assert b"" == lines[1]
    assert json.loads(envelope("Broken.", kind="cut", code=502)) == json.loads(lines[2][6:])
    assert b"" == lines[3]
