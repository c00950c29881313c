"""The gate: who passes, who waits, and that no place is ever lost."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.gateway.errors import HoldFullError, NothingServesError
from service.gateway.gate import Engine, Gate, Limits

FIRST = Engine(socket="a", token="1", profile="p")
SECOND = Engine(socket="b", token="2", profile="q")
SPECULATING = Engine(socket="c", token="3", profile="r", refuses_plain=True)


def gate(requests=4, size=100, **more):
    return Gate(limits=Limits(requests=requests, size=size), **more)


def enter(it, *, size=1, plain=False, now=0.0, woken=None):
    name = object()
    record = [] if woken is None else woken
    ticket = it.enter(size=size, plain=plain, now=now, wake=lambda: record.append(name))
    return ticket, name


def test_requests_are_released_in_the_order_in_which_they_came():
    """First in, first out, also for one that comes back from a dead engine."""
    it, woken = gate(), []
    it.route(is_open=True, engine=FIRST, now=0)
    early, name = enter(it, woken=woken)
    it.route(is_open=False, engine=None, now=0)
    names = [enter(it, woken=woken)[1] for _ in range(3)]
    it.again(early, 1)
    it.route(is_open=True, engine=SECOND, now=2)

    assert [name, *names] == woken
    assert (4, 0) == (it.in_flight, it.held)
    assert (SECOND, 2) == (early.engine, early.sends)


@pytest.mark.parametrize(("requests", "size"), [(1, 100), (4, 10)])
def test_the_queue_is_bounded_by_count_and_bytes(requests, size):
    """The one too many is refused and changes nothing."""
    it = gate(requests, size)
    enter(it, size=6)

    with pytest.raises(HoldFullError):
        enter(it, size=6)
    assert (1, 6) == (it.held, it.held_size)


def test_only_plain_requests_wait_for_an_engine_that_refuses_them():
    """min_p and logit_bias stay; the rest passes; they go when speculation is off."""
    it = gate()
    it.route(is_open=True, engine=SPECULATING, now=0)
    plain, _ = enter(it, plain=True)
    other, _ = enter(it)

    assert (1, 1, 1) == (it.plain_waiting, it.held, it.in_flight)
    assert SPECULATING == other.engine
    it.route(is_open=True, engine=FIRST, now=3)
    assert (FIRST, 3.0) == (plain.engine, plain.held_s)


def test_an_engine_in_doubt_gets_nothing_until_it_is_trusted():
    """New requests wait for it, or for the next one; another's token says nothing."""
    it = gate()
    it.route(is_open=True, engine=FIRST, now=0)

    assert not it.doubt(SECOND.token)
    assert it.doubt(FIRST.token)
    ticket, _ = enter(it)
    it.route(is_open=True, engine=FIRST, now=1)  # tunerd renews its route: that proves nothing
    it.trust(SECOND.token, 1)
    assert ticket.engine is None
    it.trust(FIRST.token, 2)
    assert FIRST == ticket.engine


def test_the_next_engine_is_not_in_doubt():
    """Doubt ends with its engine."""
    it = gate()
    it.route(is_open=True, engine=FIRST, now=0)
    it.doubt(FIRST.token)
    it.route(is_open=True, engine=SECOND, now=0)
    it.route(is_open=True, engine=FIRST, now=0)

    assert it.passing


def test_idle_is_told_when_the_last_request_leaves_the_engine():
    """A drain waits for this; a second goodbye is none."""
    told = []
    it = gate(idle=lambda: told.append(1))
    it.route(is_open=True, engine=FIRST, now=0)
    one, two = enter(it)[0], enter(it)[0]
    it.leave(one, 0)
    assert [] == told
    it.leave(two, 0)
    it.leave(two, 0)
    it.again(two, 0)

    assert ([1], 0) == (told, it.in_flight)


def test_coming_back_to_an_open_gate_means_going_again_at_once():
    """The next engine was there before the request noticed that its own was gone."""
    it, woken = gate(), []
    it.route(is_open=True, engine=FIRST, now=0)
    ticket, name = enter(it, woken=woken)
    it.route(is_open=True, engine=SECOND, now=0)
    it.again(ticket, 0)

    assert ([name], SECOND, 2) == (woken, ticket.engine, ticket.sends)


class GateMachine(RuleBasedStateMachine):
    """Any interleaving of arrivals, departures, routes and doubts."""

    def __init__(self):
        super().__init__()
        self.gate = gate(requests=3, size=20)
        self.now = 0.0
        self.inside = []
        self.woken = []

    @rule(size=st.integers(0, 9), plain=st.booleans())
    def arrive(self, size, plain):
        self.now += 1
        numbers = []
        try:
            ticket = self.gate.enter(
                size=size,
                plain=plain,
                now=self.now,
                wake=lambda: self.woken.append(numbers[0].number),
            )
        except HoldFullError:
            return
        numbers.append(ticket)
        self.inside.append(ticket)

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def depart(self, data):
        ticket = data.draw(st.sampled_from(self.inside))
        self.inside.remove(ticket)
        self.gate.leave(ticket, self.now)
        self.gate.leave(ticket, self.now)

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def lose(self, data):
        self.now += 1
        self.gate.again(data.draw(st.sampled_from(self.inside)), self.now)

    @rule(is_open=st.booleans(), engine=st.sampled_from([None, FIRST, SECOND, SPECULATING]))
    def reroute(self, is_open, engine):
        self.now += 1
        self.woken.clear()
        self.gate.route(is_open=is_open, engine=engine, now=self.now)
        assert sorted(self.woken) == self.woken

    @rule(engine=st.sampled_from([FIRST, SECOND]))
    def doubt(self, engine):
        self.gate.doubt(engine.token)

    @rule(engine=st.sampled_from([FIRST, SECOND]))
    def trust(self, engine):
        self.gate.trust(engine.token, self.now)

    @invariant()
    def everyone_is_counted_once(self):
        waiting = [ticket for ticket in self.inside if ticket.engine is None]
        assert len(waiting) == self.gate.held
        assert sum(ticket.size for ticket in waiting) == self.gate.held_size
        assert len(self.inside) - len(waiting) == self.gate.in_flight

    @invariant()
    def nobody_waits_who_could_go(self):
        if self.gate.passing and not self.gate.engine.refuses_plain:
            assert 0 == self.gate.held

    @invariant()
    def waits_are_never_negative(self):
        assert 0 <= self.gate.cost.s_max <= self.gate.cost.s_total


TestGateMachine = GateMachine.TestCase
TestGateMachine.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


def test_a_gate_that_refuses_lets_nobody_wait():
    """Who comes is refused, who waited is woken to hear it, and who runs may finish."""
    it = gate()
    it.route(is_open=True, engine=FIRST, now=0)
    running, _ = enter(it)
    it.route(is_open=False, engine=None, now=0)
    woken = []
    waiting, name = enter(it, woken=woken)
    it.route(is_open=False, engine=None, now=1, refuses=True)

    assert ([name], None) == (woken, waiting.engine)
    assert FIRST == running.engine
    with pytest.raises(NothingServesError):
        enter(it)
    it.again(running, 2)  # its engine has gone
    assert running.engine is None
    it.leave(waiting, 3)
    it.leave(running, 3)
    it.route(is_open=True, engine=SECOND, now=4)
    assert SECOND == enter(it)[0].engine
