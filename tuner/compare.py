"""P: intervals for paired differences of log tok/s."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

EFFECT_VARIANCE = 4.0  # g: variance of the effect size, in units of the noise, under the mixture


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean difference of logarithms and the interval that covers the true one."""

    mean: float
    low: float
    high: float


def interval(
    differences: Sequence[float], *, alpha: float = 0.05, g: float = EFFECT_VARIANCE
) -> Interval:
    """Always valid: covers the true mean at every number of pairs at once (t-mixture).

    Infinite while there are too few pairs: up to 3 at alpha 0.05.
    """
    count, mean = _checked(differences)
    inflation = 1 + count * g
    ratio = (inflation / alpha**2) ** (1 / count)
    if count < 2 or ratio >= inflation:
        return _around(mean, math.inf)
    spread = (count - 1) * (ratio - 1) / (1 - ratio / inflation)
    return _around(mean, statistics.stdev(differences) * math.sqrt(spread / count))


def fixed_interval(differences: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Student's t: valid only for a number of pairs that was fixed before the first one.

    Infinite for a single pair.
    """
    count, mean = _checked(differences)
    if count < 2:
        return _around(mean, math.inf)
    quantile = student_quantile((1 + confidence) / 2, count - 1)
    return _around(mean, quantile * statistics.stdev(differences) / math.sqrt(count))


@lru_cache(maxsize=64)  # a promotion asks for the same one again and again
def student_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t distribution, for 0 < probability < 1.

    Raises:
        ValueError: the probability or the degrees of freedom are out of range.
    """
    if not 0 < probability < 1 or freedom < 1:
        raise ValueError(f"no t quantile of {probability} with {freedom} degrees of freedom")
    if probability < 0.5:
        return -student_quantile(1 - probability, freedom)
    tail = 2 * (1 - probability)  # both tails together
    low, high = 0.0, 1.0
    while _both_tails(high, freedom) > tail:
        high *= 2
    for _ in range(200):  # until the two are neighbouring floats
        middle = (low + high) / 2
        if middle in {low, high}:
            break
        low, high = (middle, high) if _both_tails(middle, freedom) > tail else (low, middle)
    return high


def _both_tails(t: float, freedom: int) -> float:
    return incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    front = math.exp(
        a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    )
    # the continued fraction converges fast only on this side of the mean
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(x, a, b) / a
    return 1 - front * _fraction(1 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of the incomplete beta function by Lentz's method."""
    tiny = 1e-300
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1), tiny)
    value = d
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _away(1 + term * d, tiny)
            c = _away(1 + term / c, tiny)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def _away(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny


def _checked(differences: Sequence[float]) -> tuple[int, float]:
    if not differences:
        raise ValueError("an interval needs at least one difference")
    return len(differences), statistics.fmean(differences)


def _around(mean: float, radius: float) -> Interval:
    return Interval(mean=mean, low=mean - radius, high=mean + radius)
