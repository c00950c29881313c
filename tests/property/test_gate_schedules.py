"""F21: ten thousand orders in which requests and a change of engine can come."""

import random
from dataclasses import dataclass, field

import pytest

from service.gateway.errors import NothingServesError
from service.gateway.gate import Engine, Gate, Limits, Ticket

SCHEDULES, CLIENTS, STEPS = 10_000, 5, 500
LIMITS = Limits(requests=CLIENTS, size=CLIENTS)
# an engine's end: tunerd holds, waits until it has no request, and ends it; or it dies by itself
ENDS = [
    [*gate, *drain]
    for gate in (["hold"], ["refuse", "hold"])
    for drain in (["idle", "end"], ["cut", "idle", "end"])
] + [["die", "hold"], ["die", "refuse", "hold"], ["die"]]


@dataclass(eq=False)
class Client:
    """One request: it arrives, maybe waits, is answered after some steps, or leaves."""

    arrives: int  # step
    ticket: Ticket | None = None
    asleep: bool = False  # until it is woken, as in the relay
    left: int = 0  # steps until its engine has answered
    end: str = ""

    @property
    def waits(self) -> bool:
        return self.ticket is not None and not self.end and self.ticket.engine is None

    @property
    def served(self) -> bool:
        return self.ticket is not None and not self.end and self.ticket.engine is not None

    def wake(self) -> None:
        self.asleep = False


@dataclass
class Play:
    """A gate, its requests, and a tunerd that changes engines; one step is one event."""

    dice: random.Random
    gate: Gate = field(default_factory=lambda: Gate(limits=LIMITS))
    engines: int = 0
    dead: set[str] = field(default_factory=set)  # tokens; some requests may still be at them
    doubted: set[str] = field(default_factory=set)  # tokens of those that were found dead
    ended: set[str] = field(default_factory=set)  # tokens of those that tunerd ended
    now: int = 0

    def __post_init__(self) -> None:
        self.clients = [Client(self.dice.randrange(30)) for _ in range(CLIENTS)]
        self.plan: list[str] = []
        for _ in range(self.dice.randint(1, 3)):
            self.plan += ["open", *self.dice.choice(ENDS)]
        self.plan.append("open")

    @property
    def over(self) -> bool:
        return not self.plan and all(client.end for client in self.clients)

    def step(self) -> None:
        """One event of somebody who can have one."""
        self.now += 1
        able = [client for client in self.clients if self._able(client)]
        if self.plan and (not able or self.dice.random() < 0.2):
            self._tunerd(self.plan[0])
        elif able:
            self._client(self.dice.choice(able))

    def check(self) -> None:
        """What holds between any two events."""
        served = [client.ticket for client in self.clients if client.served]
        waiting = [client for client in self.clients if client.waits]
        assert (len(served), len(waiting)) == (self.gate.in_flight, self.gate.held)
        assert not any(ticket.engine.token in self.ended for ticket in served)
        assert not (waiting and self.gate.passing)
        assert not (
            self.gate.refuses and any(client.waits and client.asleep for client in self.clients)
        )
        assert not (self.gate.passing and self.gate.engine.token in self.doubted)

    def _able(self, client: Client) -> bool:
        return not (client.end or client.asleep) and self.now >= client.arrives

    def _tunerd(self, act: str) -> None:
        if act == "idle" and self.gate.in_flight:
            return
        del self.plan[0]
        current = self.gate.engine
        if act == "open":
            self.engines += 1
            current = Engine(socket="/e", token=str(self.engines), profile="p")
        if act in {"open", "hold", "refuse"}:
            self.gate.route(
                is_open=act == "open", engine=current, now=self.now, refuses=act == "refuse"
            )
        elif act == "cut":
            for client in self.clients:
                if client.served:
                    self._again(client)
        elif act == "die":
            self.dead.add(current.token)
        elif act == "end":
            self.ended.add(current.token)

    def _client(self, client: Client) -> None:
        if client.ticket is None:
            self._arrive(client)
        elif self.dice.random() < 0.03:
            self._leave(client, "gone")
        elif client.waits:  # woken, and not let go
            if self.gate.refuses:
                self._leave(client, "refused")
            else:
                client.asleep = True
        elif client.ticket.engine.token in self.dead:
            if self.gate.doubt(client.ticket.engine.token):
                self.doubted.add(client.ticket.engine.token)
            self._again(client)
        elif client.left:
            client.left -= 1
        else:
            self._leave(client, "answered")

    def _arrive(self, client: Client) -> None:
        client.left = self.dice.randrange(4)
        try:
            client.ticket = self.gate.enter(size=1, plain=False, now=self.now, wake=client.wake)
        except NothingServesError:
            client.end = "refused"
        else:
            client.asleep = client.waits

    def _leave(self, client: Client, end: str) -> None:
        self.gate.leave(client.ticket, self.now)
        client.end = end

    def _again(self, client: Client) -> None:
        client.left = self.dice.randrange(4)
        client.asleep = True
        self.gate.again(client.ticket, self.now)


def played(seed: int) -> Play:
    """A schedule to its end, which it has to have."""
    play = Play(random.Random(seed))
    while not play.over:
        play.step()
        play.check()
        assert play.now < STEPS, "somebody waits for ever"
    return play


@pytest.mark.timeout(600)
def test_no_order_of_events_loses_a_request_or_ends_an_engine_below_one():
    """Each is answered, refused or gone, and an engine that tunerd has ended has none.

    llama-swap lost requests that came just after the decision to unload (its issue 946).
    """
    ends = {"answered": 0, "refused": 0, "gone": 0}
    waits = 0
    for seed in range(SCHEDULES):
        play = played(seed)
        assert (0, 0) == (play.gate.in_flight, play.gate.held), seed
        waits += play.gate.cost.total
        for client in play.clients:
            ends[client.end] += 1

    # it was a test: many of each kind, and most had to wait for an engine
    assert ends["answered"] > 3 * SCHEDULES
    assert min(ends["refused"], ends["gone"]) > SCHEDULES // 4
    assert waits > SCHEDULES
