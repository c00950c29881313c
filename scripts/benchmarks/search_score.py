"""What runs on landscapes amount to: true regret by starts, families as the unit of the sample."""

import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from search_engine import Engine, Noise
from search_landscapes import Landscape
from search_methods import Method

WITHIN = 0.02  # of the best rate
RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Run:
    """One search of one landscape with one seed."""

    landscape: Landscape
    seed: int
    path: tuple[int | None, ...]  # what would be used after each start
    starts: int
    lengths: int  # different ones

    @property
    def choice(self) -> int | None:
        """What the search ends with."""
        return self.path[-1]

    def regret(self, starts: int | None = None) -> float:
        """True regret, at the end or after some starts; a search that has ended stays there."""
        last = len(self.path) if starts is None else min(starts, len(self.path))
        return self.landscape.regret(self.path[last - 1])


def runs(
    method: Method, landscapes: Sequence[Landscape], seeds: int, noise: Noise | None = None
) -> list[Run]:
    """Every landscape with every seed."""
    found = []
    for landscape in landscapes:
        for seed in range(max(2, seeds // 10) if method.dear else seeds):
            engine = Engine(landscape=landscape, seed=seed, noise=noise or Noise())
            path = tuple(method.search(engine, seed))
            lengths = len({each.length for each in engine.readings})
            found.append(
                Run(
                    landscape=landscape,
                    seed=seed,
                    path=path,
                    starts=len(engine.readings),
                    lengths=lengths,
                )
            )
    return found


def quantile(
    values: Sequence[float], share: float, weights: Sequence[float] | None = None
) -> float:
    """The smallest value with at least this share of the weight at or below it."""
    pairs = sorted(zip(values, weights or [1.0] * len(values), strict=True))
    total, sum_ = math.fsum(weight for _, weight in pairs), 0.0
    for value, weight in pairs:
        sum_ += weight
        if sum_ >= share * total * (1 - 1e-12):
            return value
    return pairs[-1][0]


def by_family(found: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each family."""
    parts: dict[str, list[Run]] = {}
    for run in found:
        parts.setdefault(run.landscape.family, []).append(run)
    return parts


def p90(found: Sequence[Run]) -> float:
    """The 90th percentile of true regret over runs."""
    return quantile([run.regret() for run in found], 0.9)


def family_p90(found: Sequence[Run]) -> float:
    """The same with every family counting alike."""
    sizes = {name: len(part) for name, part in by_family(found).items()}
    weights = [1 / sizes[run.landscape.family] for run in found]
    return quantile([run.regret() for run in found], 0.9, weights)


def interval(
    found: Sequence[Run], figure: Callable[[Sequence[Run]], float], resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % of a figure over families drawn with replacement."""
    parts = list(by_family(found).values())
    rng = random.Random(0)
    values = sorted(
        figure([run for part in rng.choices(parts, k=len(parts)) for run in part])
        for _ in range(resamples)
    )
    return values[int(0.025 * resamples)], values[min(resamples - 1, int(0.975 * resamples))]


def within(found: Sequence[Run], starts: int | None = None) -> float:
    """Share of runs whose true regret is at most 2 %."""
    return statistics.fmean(run.regret(starts) <= WITHIN for run in found)


def off_is_best(found: Sequence[Run]) -> list[Run]:
    """The runs on landscapes where speculation should be off."""
    return [run for run in found if run.landscape.best == 0]


def compact(results: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, dict[str, list[int]]]]:
    """By method and landscape the choices and starts by seed; -1 is no choice."""
    found: dict[str, dict[str, dict[str, list[int]]]] = {}
    for method, each in results.items():
        for run in each:
            row = found.setdefault(method, {}).setdefault(
                run.landscape.name, {"choice": [], "starts": []}
            )
            row["choice"].append(-1 if run.choice is None else run.choice)
            row["starts"].append(run.starts)
    return found
