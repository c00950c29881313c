"""P: who may go to the engine now, who waits and who need not; the one owner of both counts."""

import bisect
from collections.abc import Callable
from dataclasses import dataclass, field

from service.gateway.errors import HoldFullError, NothingServesError


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Where requests go."""

    socket: str
    token: str
    profile: str
    # our profile turned speculation on: vLLM would answer 400 to min_p and logit_bias
    refuses_plain: bool = False


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What may wait at once."""

    requests: int
    size: int  # bytes of their bodies together


@dataclass(eq=False, kw_only=True, slots=True)
class Ticket:
    """One request on its way; it waits while `engine` is None."""

    number: int  # order of arrival
    size: int  # bytes
    plain: bool
    wake: Callable[[], None]  # called when it may go after it had to wait
    engine: Engine | None = None
    sends: int = 0  # how often it was given to an engine
    held_s: float = 0.0  # of waits that are over
    waiting_since: float | None = None
    gone: bool = False


@dataclass(kw_only=True)
class Held:
    """What holding has cost so far."""

    total: int = 0  # waits
    s_total: float = 0.0
    s_max: float = 0.0


@dataclass(kw_only=True)
class Gate:
    """Open, holding or refusing; waiting requests are released in order of arrival."""

    limits: Limits
    idle: Callable[[], None] = lambda: None  # called when the last request leaves the engine
    is_open: bool = False
    refuses: bool = False  # nothing serves for now, and nobody waits for it
    engine: Engine | None = None
    suspect: str | None = None  # token of an engine that does not answer
    in_flight: int = 0
    cost: Held = field(default_factory=Held)
    _waiting: list[Ticket] = field(default_factory=list)
    _numbers: int = 0

    @property
    def passing(self) -> bool:
        """Whether a request that the engine accepts would go now."""
        return self.is_open and self.engine is not None and self.engine.token != self.suspect

    @property
    def held(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    @property
    def held_size(self) -> int:
        """Bytes of their bodies."""
        return sum(ticket.size for ticket in self._waiting)

    @property
    def plain_waiting(self) -> int:
        """Waiting requests that vLLM refuses while it speculates."""
        return sum(ticket.plain for ticket in self._waiting)

    def has_room(self, size: int) -> bool:
        """Whether one more request of this size may wait."""
        return self.held < self.limits.requests and self.held_size + size <= self.limits.size

    def enter(self, *, size: int, plain: bool, now: float, wake: Callable[[], None]) -> Ticket:
        """Let a new request go or wait.

        Raises:
            NothingServesError: nobody waits now.
            HoldFullError: it would have to wait and there is no room.
        """
        if self.refuses:
            raise NothingServesError
        self._numbers += 1
        ticket = Ticket(number=self._numbers, size=size, plain=plain, wake=wake)
        if self._admits(ticket):
            self._start(ticket)
        elif self.has_room(size):
            self._hold(ticket, now)
        else:
            raise HoldFullError
        return ticket

    def again(self, ticket: Ticket, now: float) -> None:
        """Put a request whose engine went away back in its place; its memory is spent already."""
        if ticket.gone or ticket.engine is None:
            return
        self._finish(ticket)
        if self._admits(ticket):
            self._start(ticket)
            ticket.wake()
        else:
            self._hold(ticket, now)
            if self.refuses:
                ticket.wake()

    def leave(self, ticket: Ticket, now: float) -> None:
        """The request is over, wherever it was; a second call changes nothing."""
        if ticket.gone:
            return
        ticket.gone = True
        if ticket.engine is None:
            self._waiting.remove(ticket)
            self._count(ticket, now)
        else:
            self._finish(ticket)

    def route(
        self, *, is_open: bool, engine: Engine | None, now: float, refuses: bool = False
    ) -> None:
        """Put a route in force and release whom it lets go, or wake all to hear that it does not.

        Who is woken without an engine has to leave.
        """
        self.is_open = is_open
        self.refuses = refuses
        self.engine = engine
        if engine is not None and engine.token != self.suspect:
            self.suspect = None
        if refuses:
            for ticket in self._waiting:
                ticket.wake()
        self._release(now)

    def doubt(self, token: str) -> bool:
        """Hold requests for an engine that does not answer; False when it is not the current."""
        if self.engine is None or self.engine.token != token:
            return False
        self.suspect = token
        return True

    def trust(self, token: str, now: float) -> None:
        """The engine answers again."""
        if self.suspect == token:
            self.suspect = None
            self._release(now)

    def _admits(self, ticket: Ticket) -> bool:
        return self.passing and not (
            ticket.plain and self.engine is not None and self.engine.refuses_plain
        )

    def _start(self, ticket: Ticket) -> None:
        ticket.engine = self.engine
        ticket.sends += 1
        self.in_flight += 1

    def _finish(self, ticket: Ticket) -> None:
        ticket.engine = None
        self.in_flight -= 1
        if self.in_flight == 0:
            self.idle()

    def _hold(self, ticket: Ticket, now: float) -> None:
        ticket.waiting_since = now
        bisect.insort(self._waiting, ticket, key=lambda other: other.number)

    def _count(self, ticket: Ticket, now: float) -> None:
        since = now if ticket.waiting_since is None else ticket.waiting_since
        waited_s = max(now - since, 0.0)
        ticket.waiting_since = None
        ticket.held_s += waited_s
        self.cost.total += 1
        self.cost.s_total += waited_s
        self.cost.s_max = max(self.cost.s_max, ticket.held_s)

    def _release(self, now: float) -> None:
        free = [ticket for ticket in self._waiting if self._admits(ticket)]
        if not free:
            return
        self._waiting = [ticket for ticket in self._waiting if not self._admits(ticket)]
        for ticket in free:
            self._count(ticket, now)
            self._start(ticket)
            ticket.wake()
