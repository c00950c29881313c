"""P: deaths of engines: when a profile is given up, and how long the default is left alone."""

from collections import deque
from dataclasses import dataclass, field

from service.modes import Event

MANY, MANY_S = 3, 600.0  # so many deaths within so many seconds: a profile keeps its engine dying
LONG_S = 60.0  # an engine that has served for so long did not die of its start
FIRST_S, MOST_S = 1.0, 60.0  # pauses: 1, 2, 4, ...; a client is told 60 s at most


@dataclass(kw_only=True)
class Deaths:
    """What is remembered of engines that died; times are monotonic."""

    recent: deque[float] = field(default_factory=lambda: deque(maxlen=MANY))
    failures: int = 0  # of the operator's own configuration, in a row
    serves_since: float | None = None

    def serves(self, now: float) -> None:
        """An engine has begun to serve; only its life will tell whether the trouble is over."""
        self._lived(now)
        self.serves_since = now

    def died(self, now: float, *, default: bool) -> Event:
        """What the death of the serving engine is to the daemon."""
        self._lived(now)
        self.serves_since = None
        if default:  # there is nothing else to fall back to
            self.failures += 1
            return Event.ENGINE_DIED if self.failures == 1 else Event.ENGINE_FLAPS
        self.recent.append(now)
        if len(self.recent) < MANY or now - self.recent[0] >= MANY_S:
            return Event.ENGINE_DIED
        self.recent.clear()  # the next profile begins with a clean sheet
        return Event.ENGINE_KEEPS_DYING

    def did_not_start(self) -> None:
        """An engine with the operator's own configuration did not come up."""
        self.failures += 1

    def _lived(self, now: float) -> None:
        if self.serves_since is not None and now - self.serves_since >= LONG_S:
            self.failures = 0

    @property
    def pause_s(self) -> float:
        """Seconds until the operator's own configuration is tried again."""
        # the first death is followed by a start at once, so that the second has the first pause
        return float(min(FIRST_S * 2.0 ** min(max(self.failures - 2, 0), 16), MOST_S))
