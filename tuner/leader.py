"""P: which tried configuration a search recommends, and how sure the rates are.

The estimator is a shrunk mean (empirical Bayes): with n starts of a configuration, mean m, grand
mean M over configurations, spread T between configurations and noise S of one start,

    estimate = M + (m - M) * T^2 / (T^2 + S^2 / n)

so that a single lucky start is pulled down more than a repeated one. S pools the scatter between
starts of equal knobs with a prior of 2.5 %, worth 4 degrees of freedom; T is at least S.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from profiles.knobs import Knobs
from tuner.observation import Observation

PRIOR_NOISE = 0.025  # standard deviation of log tok/s between starts before any was repeated
PRIOR_FREEDOM = 4
TIE = math.log(1.01)  # within 1 % the smaller draft length wins (vLLM pull request 49163)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The shrunk mean of log tok/s of one configuration."""

    knobs: Knobs
    log_tok_s: float
    starts: int
    deviation: float  # of the belief in log_tok_s


def rates(history: Sequence[Observation]) -> dict[Knobs, list[float]]:
    """Log rates of every configuration that never failed and keeps the limits on average."""
    failed = {row.knobs for row in history if row.blamed}
    found: dict[Knobs, list[float]] = {}
    margins: dict[Knobs, dict[str, list[float]]] = {}
    for row in history:
        if row.log_tok_s is not None and row.measured and row.knobs not in failed:
            found.setdefault(row.knobs, []).append(row.log_tok_s)
            for name, margin in row.limits.items():
                margins.setdefault(row.knobs, {}).setdefault(name, []).append(margin)
    return {
        knobs: values
        for knobs, values in found.items()
        if all(statistics.fmean(seen) <= 0 for seen in margins.get(knobs, {}).values())
    }


def noise(history: Sequence[Observation]) -> float:
    """Standard deviation of log tok/s of one start."""
    repeated = [values for values in rates(history).values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in repeated)
    scatter = sum(statistics.variance(values) * (len(values) - 1) for values in repeated)
    return math.sqrt((PRIOR_FREEDOM * PRIOR_NOISE**2 + scatter) / (PRIOR_FREEDOM + freedom))


def estimates(history: Sequence[Observation]) -> list[Estimate]:
    """Estimates of all feasible configurations, best first."""
    found = rates(history)
    if not found:
        return []
    means = {knobs: statistics.fmean(values) for knobs, values in found.items()}
    grand = statistics.fmean(means.values())
    start = noise(history) ** 2
    observed = statistics.variance(means.values()) if len(means) > 1 else 0.0
    within = start * statistics.fmean(1 / len(values) for values in found.values())
    between = max(observed - within, start)
    shrunk = [
        Estimate(
            knobs=knobs,
            log_tok_s=grand + (mean - grand) * between / (between + start / len(found[knobs])),
            starts=len(found[knobs]),
            deviation=math.sqrt(1 / (1 / between + len(found[knobs]) / start)),
        )
        for knobs, mean in means.items()
    ]
    return sorted(shrunk, key=lambda each: (-each.log_tok_s, each.knobs.canonical()))


def leader(history: Sequence[Observation]) -> Knobs | None:
    """The configuration to recommend; None when nothing feasible was measured."""
    ranked = estimates(history)
    tied = [each for each in ranked if each.log_tok_s >= ranked[0].log_tok_s - TIE]
    best = min(
        tied,
        key=lambda each: (each.knobs.draft_tokens, -each.log_tok_s, each.knobs.canonical()),
        default=None,
    )
    return None if best is None else best.knobs
