"""Whether something grows: a line through the floors of a process's readings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

BLOCKS = 10
LEAST_S = 90.0  # of a life after its warm-up, below it a line says nothing
WARM_UP = 0.25  # of a life, and at least so long:
WARM_UP_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Line:
    """First and last floor, the slope per hour, and what it surely grew within the time seen."""

    first: float
    last: float
    slope_per_h: float
    surely: float  # lower end of the one-sided 99 % interval of the growth over the time
    span_s: float

    def grows(self, allowance: float) -> bool:
        """Whether it surely grew by more than that."""
        return self.surely > allowance


def line(times: Sequence[float], values: Sequence[float]) -> Line | None:
    """The line after the warm-up; None for a life that was too short.

    Readings beside each other are alike, and traffic makes them jump. So the minimum of each of
    ten blocks is taken: a leak raises the floor, traffic only what is above it, and ten floors
    are far enough apart for an honest interval.
    """
    if not times:
        return None
    start = times[0] + max((times[-1] - times[0]) * WARM_UP, WARM_UP_S)
    span_s = times[-1] - start
    if span_s < LEAST_S:
        return None
    floors: list[float] = [math.inf] * BLOCKS
    for at, value in zip(times, values, strict=True):
        if at >= start:
            block = min(int((at - start) / span_s * BLOCKS), BLOCKS - 1)
            floors[block] = min(floors[block], value)
    points = [(i, floor) for i, floor in enumerate(floors) if math.isfinite(floor)]
    if len(points) < 4:
        return None
    found = stats.linregress([i for i, _ in points], [floor for _, floor in points])
    reach = float(stats.t.ppf(0.99, len(points) - 2)) * float(found.stderr)
    if len({floor for _, floor in points}) == 1:
        reach = 0.0  # exactly flat: scipy's error is no number then
    return Line(
        first=points[0][1],
        last=points[-1][1],
        slope_per_h=float(found.slope) * BLOCKS / span_s * 3600,
        surely=(float(found.slope) - reach) * (BLOCKS - 1),
        span_s=span_s,
    )
