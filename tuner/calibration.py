"""P: how noisy a platform is: variance components of log tok/s between starts and between blocks.

Nothing is started for it: a promotion measures the default again in every round, so equal knobs
are measured at several starts anyway. With y of block b in start j of configuration i,

    y = configuration_i + start_ij + block_ijb

the blocks within a start give the variance between blocks, and the means of the starts of one
configuration that between starts. A replicate is a start: what counts for a promotion is the
spread of the rate of one start, which holds both.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from profiles.measurement import Measurement
from tuner.quantiles import chi_square_quantile, f_quantile

PHASES = frozenset({"search", "promotion"})  # a replayed load; live traffic has its own changes
ENOUGH = 2  # degrees of freedom; with one, the interval spans a factor of 70
ALPHA = 0.05

Starts = Mapping[str, Sequence[float]]  # by engine start: log tok/s of its blocks


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A standard deviation of log tok/s (0.012 is 1.2 %) with its 95 % interval."""

    deviation: float
    low: float
    high: float
    freedom: int  # degrees of freedom behind it


@dataclass(frozen=True, kw_only=True)
class SameAgain:
    """How far starts of equal knobs are apart, as relative differences of their rates."""

    starts: int
    mean: float
    largest: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The noise of a platform; None where too little was repeated to say."""

    configurations: int  # measured at two starts or more
    starts: int  # of those configurations
    between_blocks: Spread | None  # within one start
    between_starts: Spread | None  # what a restart adds to that
    one_start: Spread | None  # of the rate of a start: both together

    @property
    def sentence(self) -> str:
        """The figures for people."""
        if self.one_start is None:
            return f"not known yet ({_counted(self.starts, 'repeated start')})"
        parts = [f"the rate of one start varies by {_shown(self.one_start)}"]
        if self.between_starts is not None:
            parts.append(f"a restart alone by {_shown(self.between_starts)}")
        if self.between_blocks is not None:
            parts.append(f"a block within a start by {_shown(self.between_blocks)}")
        repeated = _counted(self.configurations, "configuration")
        return f"{', '.join(parts)}; from {self.starts} starts of {repeated}"


def calibrate(measurements: Iterable[Measurement]) -> Calibration:
    """The components over everything that was measured with equal knobs under an equal load."""
    groups = [starts for starts in _groups(measurements).values() if len(starts) > 1]
    means = [[statistics.fmean(blocks) for blocks in starts.values()] for starts in groups]
    freedom = sum(len(each) - 1 for each in means)
    one = _spread(sum(_scatter(each) for each in means), freedom)
    blocks = [blocks for starts in groups for blocks in starts.values()]
    inner = sum(len(each) - 1 for each in blocks)
    between_blocks = _spread(sum(_scatter(each) for each in blocks), inner)
    between_starts = None
    if one is not None and between_blocks is not None:
        share = statistics.fmean(1 / len(each) for each in blocks)
        between_starts = _outer(one, between_blocks, share)
    return Calibration(
        configurations=len(groups),
        starts=sum(len(starts) for starts in groups),
        between_blocks=between_blocks,
        between_starts=between_starts,
        one_start=one,
    )


def same_again(measurements: Iterable[Measurement], knobs: str) -> SameAgain | None:
    """The A/A differences of one configuration of one class, by canonical JSON of its knobs.

    The starts of the load that was measured most often count; None with fewer than two.
    """
    mine = [row for row in measurements if row.knobs == knobs]
    rates = [
        [statistics.fmean(blocks) for blocks in starts.values()]
        for starts in _groups(mine).values()
    ]
    most = max(rates, key=len, default=[])
    away = [math.expm1(abs(one - other)) for one, other in combinations(most, 2)]
    if not away:
        return None
    return SameAgain(starts=len(most), mean=statistics.fmean(away), largest=max(away))


def _groups(measurements: Iterable[Measurement]) -> dict[tuple[str, str, int, str], Starts]:
    """Blocks by start, by what was measured and how."""
    groups: dict[tuple[str, str, int, str], dict[str, list[float]]] = defaultdict(dict)
    for row in measurements:
        if row.phase not in PHASES or not row.usable or min(b.tok_s for b in row.blocks) <= 0:
            continue
        key = (row.workload, row.knobs, row.concurrency, row.samples)
        blocks = groups[key].setdefault(row.engine_token, [])
        blocks += [math.log(block.tok_s) for block in row.blocks]
    return dict(groups)


def _scatter(values: Sequence[float]) -> float:
    mean = statistics.fmean(values)
    return math.fsum((value - mean) ** 2 for value in values)


def _spread(scatter: float, freedom: int) -> Spread | None:
    if freedom < ENOUGH:
        return None
    low, high = (chi_square_quantile(p, freedom) for p in (ALPHA / 2, 1 - ALPHA / 2))
    return Spread(
        deviation=math.sqrt(scatter / freedom),
        low=math.sqrt(scatter / high),
        high=math.sqrt(scatter / low),
        freedom=freedom,
    )


def _outer(one: Spread, block: Spread, share: float) -> Spread:
    """What starts add beyond their blocks, with the interval of Williams (Biometrika 49, 1962)."""
    total, inner = one.deviation**2, block.deviation**2 * share

    def bound(probability: float) -> float:
        quantile = f_quantile(probability, one.freedom, block.freedom)
        rest = total - inner * quantile
        scale = one.freedom / chi_square_quantile(probability, one.freedom)
        return math.sqrt(max(0.0, rest * scale))

    return Spread(
        deviation=math.sqrt(max(0.0, total - inner)),
        low=bound(1 - ALPHA / 2),
        high=bound(ALPHA / 2),
        freedom=one.freedom,
    )


def _shown(spread: Spread) -> str:
    middle, low, high = (100 * x for x in (spread.deviation, spread.low, spread.high))
    return f"{middle:.1f} % [{low:.1f}, {high:.1f}]"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
