"""What the live loop knows about one mixture of request classes."""

from collections import deque
from dataclasses import dataclass, field

from profiles.schedule import Schedule
from service.live_limits import LimitQuestion
from service.visits import goodput
from tuner.allowance import Allowance
from tuner.learner import Learner, Visit
from tuner.stretch import NO_TRAFFIC, Stretch

REFINE_S = 15.0  # busy seconds between rounds once the choice is expected to be right
KEPT_WINDOWS = 64


@dataclass(kw_only=True)
class Mixture:
    """What is known about one mixture of request classes in the running engine."""

    name: str
    learner: Learner
    allowance: Allowance
    schedule: Schedule | None = None  # in force for it once something is known
    settled_at: float | None = None
    reference: Stretch = NO_TRAFFIC  # what the decision knew when it was settled
    windows: deque[Stretch] = field(default_factory=lambda: deque(maxlen=KEPT_WINDOWS))
    window: Stretch = NO_TRAFFIC  # that is still growing
    traffic_s: float = 0.0  # busy seconds until it was settled
    reopened: int = 0
    moved: str = ""  # why it was opened again, the last time
    why: str = ""
    since_round_s: float = 0.0  # busy seconds since the last round
    since_heard_s: float = 0.0  # and since drafts were last listened to while none are made
    heard: deque[Stretch] = field(default_factory=lambda: deque(maxlen=KEPT_WINDOWS))
    over: bool = False  # every race is: more rounds would tell nothing
    limits: LimitQuestion = field(default_factory=LimitQuestion)

    @property
    def due(self) -> bool:
        """Whether a round may be spent: at once while learning, now and then to make sure."""
        if self.settled_at is None:
            return True
        return not self.over and self.since_round_s >= REFINE_S

    def account(self, visit: Visit) -> None:
        """Charge a visit with what it lost."""
        cell = goodput(visit)
        paid = self.allowance.earn(cell.seconds, cell.tokens)
        self.allowance = paid.spend(
            cell.seconds, probe_tok_s=cell.goodput_tok_s, schedule_tok_s=self.usual(visit)
        )

    def usual(self, visit: Visit) -> float | None:
        """Goodput of the best that is known, at the batch sizes of the visit."""
        known = self.learner.cells()
        weighted = steps = 0.0
        for (batch, k), cell in visit.cells.items():
            if k != visit.arm:
                continue
            rates = [
                other.goodput_tok_s or 0.0
                for (b, _), other in known.items()
                if b == batch and other.steps >= cell.steps
            ]
            if rates:
                weighted += max(rates) * cell.steps
                steps += cell.steps
        return weighted / steps if steps else None
