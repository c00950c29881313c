"""P: quantiles of the chi-square and F distributions, for intervals of variances."""

import math
from collections.abc import Callable
from functools import lru_cache

from tuner.compare import incomplete_beta

ROUNDS = 80  # halvings: a relative error below 1e-15


@lru_cache(maxsize=256)
def chi_square_quantile(probability: float, freedom: float) -> float:
    """The quantile of the chi-square distribution, for 0 < probability < 1.

    Raises:
        ValueError: the probability or the degrees of freedom are out of range.
    """
    _check(probability, freedom)
    return _inverse(lambda x: incomplete_gamma(freedom / 2, x / 2), probability)


@lru_cache(maxsize=256)
def f_quantile(probability: float, above: float, below: float) -> float:
    """The quantile of the F distribution with degrees of freedom above and below the line.

    Raises:
        ValueError: the probability or the degrees of freedom are out of range.
    """
    _check(probability, min(above, below))
    return _inverse(
        lambda x: incomplete_beta(above * x / (above * x + below), above / 2, below / 2),
        probability,
    )


def incomplete_gamma(shape: float, x: float) -> float:
    """The regularised lower incomplete gamma function P(shape, x), by its series."""
    if x <= 0:
        return 0.0
    number, term, total = 0, 1 / shape, 1 / shape
    while term > total * 1e-16:  # it falls from where `number` exceeds x
        number += 1
        term *= x / (shape + number)
        total += term
    return min(1.0, total * math.exp(shape * math.log(x) - x - math.lgamma(shape)))


def _inverse(rises: Callable[[float], float], probability: float) -> float:
    low, high = 0.0, 1.0
    while rises(high) < probability:
        low, high = high, high * 2
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if rises(middle) < probability else (low, middle)
    return high


def _check(probability: float, freedom: float) -> None:
    if not 0 < probability < 1 or freedom <= 0:
        raise ValueError(f"no quantile of {probability} with {freedom} degrees of freedom")
