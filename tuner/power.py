"""P: what a promotion can prove at a given noise, by the rule that `tuner.promotion` applies.

With n pairs of starts, mean m and deviation s of their differences, the rule promotes when the
lower end of Student's interval, m - t s / sqrt(n), is above zero and m above the gain asked for.
The chance of that is an integral over s, whose distribution is known for normal noise.
"""

import math
from functools import lru_cache

from tuner.compare import student_quantile

POWER = 0.8  # a gain counts as provable when four of five promotions would find it
GRID = 400  # points of the integral
WIDEST = 6.0  # of s in units of the true deviation
MOST_PAIRS = 12  # more starts than anybody waits for


def chance(
    gain: float, *, deviation: float, pairs: int, min_gain: float, confidence: float = 0.95
) -> float:
    """The chance that a candidate with this true gain is promoted; with gain 0, wrongly.

    `deviation` is that of the log rate of one start; gains are relative.
    """
    if pairs < 2:
        return 0.0
    scale = deviation * math.sqrt(2 / pairs)  # of the mean of the differences
    asked, true = math.log1p(min_gain), math.log1p(gain)
    if scale <= 0:
        return 1.0 if true > asked else 0.0
    quantile = student_quantile((1 + confidence) / 2, pairs - 1)
    return math.fsum(
        weight * _above((max(asked, quantile * ratio * scale) - true) / scale)
        for ratio, weight in _ratios(pairs - 1)
    )


def provable(*, deviation: float, pairs: int, min_gain: float) -> float:
    """The smallest true gain that four of five promotions would find."""
    low, high = 0.0, 1.0
    while chance(high, deviation=deviation, pairs=pairs, min_gain=min_gain) < POWER and high < 1e6:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        found = chance(middle, deviation=deviation, pairs=pairs, min_gain=min_gain) >= POWER
        low, high = (low, middle) if found else (middle, high)
    return high


def pairs_needed(gain: float, *, deviation: float, min_gain: float) -> int | None:
    """The pairs with which four of five promotions would find a gain; None when 12 are too few."""
    for pairs in range(2, MOST_PAIRS + 1):
        if chance(gain, deviation=deviation, pairs=pairs, min_gain=min_gain) >= POWER:
            return pairs
    return None


def _above(x: float) -> float:
    """The chance that a standard normal is above x."""
    return math.erfc(x / math.sqrt(2)) / 2


@lru_cache(maxsize=32)
def _ratios(freedom: int) -> tuple[tuple[float, float], ...]:
    """Values of s over the true deviation, and their weights."""
    front = math.log(2) + freedom / 2 * math.log(freedom / 2) - math.lgamma(freedom / 2)
    step = WIDEST / GRID
    points = [step * (number + 0.5) for number in range(GRID)]
    weights = [
        step * math.exp(front + (freedom - 1) * math.log(u) - freedom * u * u / 2) for u in points
    ]
    total = math.fsum(weights)
    return tuple((u, weight / total) for u, weight in zip(points, weights, strict=True))
