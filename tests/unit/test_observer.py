"""The observer: reads records, survives gateways, and keeps a bounded window."""

import asyncio

import pytest

from profiles.errors import UnavailableError
from service import observer as module
from service.observer import Observer
from service.traffic import Record
from tuner.config import PolicyConfig


def raw(seq, at, **fields):
    """A record as the gateway sends it."""
    base = {
        "seq": seq,
        "at": at,
        "application": "app",
        "request_class": "greedy.balanced",
        "outcome": "ok",
        "prompt_tokens": 20,
        "completion_tokens": 10,
        "output_bytes": 40,
        "ttft_s": 0.1,
        "duration_s": 1.0,
        "held_s": 0.0,
        "profile": "p",
        "plain": False,
    }
    return base | fields


class Gateway:
    """Answers `records` from a script; then says nothing more."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []
        self.silent = asyncio.Event()

    async def records(self, after, _wait_s):
        self.asked.append(after)
        if not self.answers:
            self.silent.set()
            await asyncio.Event().wait()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def answer(*records, next_, dropped=0):
    return {"records": list(records), "next": next_, "dropped": dropped}


async def pumped(gateway, monkeypatch, **options):
    """An observer that has read everything that the gateway has to say."""
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    plan = {"window_s": 60.0, "probation_s": 600.0, "min_requests": 1}
    observer = Observer(gateway, PolicyConfig(**(plan | options)))
    pump = asyncio.create_task(observer.pump())
    async with asyncio.timeout(30):
        await gateway.silent.wait()
    pump.cancel()
    await asyncio.gather(pump, return_exceptions=True)
    return observer


async def test_records_are_read_in_order(monkeypatch):
    """The cursor moves on, and records without a class are left out."""
    gateway = Gateway(
        answer(raw(1, 10.0), raw(2, 11.0, request_class=""), next_=2),
        answer(raw(3, 12.0), next_=3),
    )
    observer = await pumped(gateway, monkeypatch)

    assert [0, 2, 3] == gateway.asked[:3]
    assert [10.0, 12.0] == [record.at for record in observer.since(0)]


async def test_a_gateway_that_is_away_is_asked_again(monkeypatch):
    """Nothing is lost while it restarts, and nothing is counted twice."""
    gateway = Gateway(UnavailableError("away"), answer(raw(1, 10.0), next_=1))
    observer = await pumped(gateway, monkeypatch)

    assert [0, 0, 1] == gateway.asked[:3]
    assert 1 == len(observer.since(0))


async def test_a_new_gateway_is_read_from_its_start(monkeypatch):
    """It counts from 0 again: the cursor goes back, and its records are read once."""
    gateway = Gateway(
        answer(raw(7, 10.0), next_=7),
        answer(raw(1, 20.0), next_=1),  # of the new one, which took 7 for a stranger's cursor
        answer(raw(1, 20.0), next_=1),
    )
    observer = await pumped(gateway, monkeypatch)

    assert [0, 7, 0, 1] == gateway.asked[:4]
    assert [10.0, 20.0] == [record.at for record in observer.since(0)]


async def test_what_the_gateway_dropped_is_known(monkeypatch):
    """Records that nobody fetched in time are counted."""
    gateway = Gateway(answer(raw(9, 10.0), next_=9, dropped=8))
    observer = await pumped(gateway, monkeypatch)

    assert 8 == observer.lost


async def test_old_records_are_forgotten(monkeypatch):
    """Kept as long as a probation needs them, and no longer."""
    gateway = Gateway(answer(raw(1, 10.0), raw(2, 50.0), raw(3, 200.0), next_=3))
    observer = await pumped(gateway, monkeypatch, probation_s=160.0)

    assert [50.0, 200.0] == [record.at for record in observer.since(0)]
    assert [50.0] == [record.at for record in observer.since(20.0, 200.0)]


async def test_a_plain_request_is_remembered(monkeypatch):
    """The time of the last request that vLLM refuses while it speculates."""
    gateway = Gateway(answer(raw(1, 10.0, plain=True), raw(2, 50.0), next_=2))
    observer = await pumped(gateway, monkeypatch)

    assert 10.0 == observer.last_plain_at


async def test_the_window_keeps_its_bin_and_what_was_seen(monkeypatch):
    """A load that wobbles at a border keeps its bin; classes stay known after their traffic."""
    low = [raw(1, 90.0, duration_s=10.0), raw(2, 90.0, duration_s=10.0)]
    observer = await pumped(Gateway(answer(*low, next_=2)), monkeypatch)

    assert "low" == observer.window(100.0).classes[0].workload.load
    for wobble in (raw(3, 190.0, duration_s=10.0), raw(4, 186.0, duration_s=3.0)):
        observer.add(Record.parse(wobble))
    later = observer.window(195.0).classes[0]

    assert later.concurrency == pytest.approx(1 + 6 / 13)
    assert "low" == later.workload.load
    assert ["greedy.balanced.low"] == list(observer.seen)
    assert () == observer.window(900.0).classes


async def test_the_last_few_of_a_class_do_not_change_its_load(monkeypatch):
    """Below the minimum of requests a class is shown, but neither its bin nor its sight moves."""
    first = [raw(1, 90.0), raw(2, 91.0)]
    observer = await pumped(Gateway(answer(*first, next_=2)), monkeypatch, min_requests=2)

    observer.window(100.0)
    observer.add(Record.parse(raw(3, 140.0)))
    later = observer.window(160.0)

    assert [1] == [c.requests for c in later.classes]
    assert 2 == observer.seen["greedy.balanced.single"].requests
