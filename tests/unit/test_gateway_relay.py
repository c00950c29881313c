"""The wait at the gate, from the request's side."""

import asyncio
from types import SimpleNamespace

import pytest

from service.gateway import errors
from service.gateway.gate import Engine, Gate, Limits
from service.gateway.relay import Relay

ENGINE = Engine(socket="/e", token="e", profile="p")


@pytest.fixture
def gate():
    """A gate that holds."""
    return Gate(limits=Limits(requests=9, size=9))


@pytest.fixture
def relay(gate):
    router = SimpleNamespace(gate=gate, retry_after_s=1.0, left_s=None)
    return Relay(router=router, pool=None, hold_s=30.0, write_s=1.0)


@pytest.fixture
def call(gate):
    """A request that waits, and may be a moment late to hear what happened."""
    awake = asyncio.Event()
    ticket = gate.enter(size=1, plain=False, now=0.0, wake=awake.set)
    return SimpleNamespace(awake=awake, ticket=ticket)


async def test_who_was_busy_while_the_gate_refused_goes_on_waiting(relay, gate, call):
    """Refused and held again within the writing of a comment, it heard of a stop that was none."""
    gate.route(is_open=False, engine=None, now=0.0, refuses=True)
    gate.route(is_open=False, engine=None, now=0.0)
    granted = asyncio.create_task(relay._granted(call))
    await asyncio.sleep(0.05)
    assert not granted.done()
    gate.route(is_open=True, engine=ENGINE, now=0.0)

    assert ENGINE == await granted


async def test_who_waits_hears_a_refusal_and_a_stop(relay, gate, call):
    """Each in its own words."""
    gate.route(is_open=False, engine=None, now=0.0, refuses=True)
    with pytest.raises(errors.NothingServesError):
        await relay._granted(call)

    gate.route(is_open=False, engine=None, now=0.0)
    relay.stopping = True
    with pytest.raises(errors.StoppingError):
        await relay._granted(call)


async def test_a_wait_ends(gate, call):
    """After `hold_s`, in words of its own."""
    router = SimpleNamespace(gate=gate, retry_after_s=1.0, left_s=None)
    relay = Relay(router=router, pool=None, hold_s=0.01, write_s=1.0)
    with pytest.raises(errors.HoldTimeoutError):
        await relay._granted(call)
