"""P: which tried configuration a search recommends, and how sure the scores are.

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

PRIOR_NOISE = 0.025  # standard deviation of the score between starts before any was repeated
PRIOR_FREEDOM = 4
TIE = math.log(1.01)  # within 1 % the smaller draft length wins (vLLM pull request 49163)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The shrunk mean of the score of one configuration."""

    knobs: Knobs
    score: float
    starts: int
    deviation: float  # of the belief in the score


def scores(history: Sequence[Observation]) -> dict[Knobs, list[float]]:
    """Scores of every configuration that never failed and keeps the limits on average.

    A measurement that is void because too many requests failed has no score, but its margin counts.
    """
    failed = {row.knobs for row in history if row.blamed}
    found: dict[Knobs, list[float]] = {}
    margins: dict[Knobs, dict[str, list[float]]] = {}
    for row in history:
        if row.score is not None and row.measured and row.knobs not in failed:
            found.setdefault(row.knobs, []).append(row.score)
        for name, margin in row.limits.items():
            margins.setdefault(row.knobs, {}).setdefault(name, []).append(margin)
    return {
        knobs: values
        for knobs, values in found.items()
        if all(statistics.fmean(seen) <= 0 for seen in margins.get(knobs, {}).values())
    }


def noise(history: Sequence[Observation]) -> float:
    """Standard deviation of the score of one start."""
    repeated = [values for values in scores(history).values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in repeated)
    scatter = sum(statistics.variance(values) * (len(values) - 1) for values in repeated)
    return math.sqrt((PRIOR_FREEDOM * PRIOR_NOISE**2 + scatter) / (PRIOR_FREEDOM + freedom))


def estimates(history: Sequence[Observation]) -> list[Estimate]:
    """Estimates of all feasible configurations, best first."""
    found = scores(history)
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
            score=grand + (mean - grand) * between / (between + start / len(found[knobs])),
            starts=len(found[knobs]),
            deviation=math.sqrt(1 / (1 / between + len(found[knobs]) / start)),
        )
        for knobs, mean in means.items()
    ]
    return sorted(shrunk, key=lambda each: (-each.score, each.knobs.canonical()))


def leader(history: Sequence[Observation]) -> Knobs | None:
    """The configuration to recommend; None when nothing feasible was measured."""
    ranked = estimates(history)
    tied = [each for each in ranked if each.score >= ranked[0].score - TIE]
    best = min(
        tied,
        key=lambda each: (each.knobs.draft_tokens, -each.score, each.knobs.canonical()),
        default=None,
    )
    return None if best is None else best.knobs
