"""P: the race of live arms: which draft length (or batch cap) is best for one bucket.

Arms are visited in turn; a round holds one short slice of every arm still in the race. Two arms
are compared inside a round only, at equal batch sizes, so that what changes for all of them (load,
context, clocks) cancels:

    d = sum_b w_b ln(goodput_A,b / goodput_B,b) / sum_b w_b,        w_b = min(steps_A,b, steps_B,b)

An arm leaves for good when the interval of its d against the leader lies below zero. The interval
is the t-mixture of `tuner.compare` with borrowed degrees of freedom. After n rounds with mean m:

    s^2 = (f p^2 + SS) / v          SS: squared deviations of this pair; v = f + n - 1
    R   = ((1 + n g) / a^2)^(1 / (v + 1))
    r   = s sqrt( v (R - 1) / (1 - R / (1 + n g)) / n )

p^2 is the scatter of all pairs together: arms * rounds less one mean per arm and per round leave
(arms - 1)(rounds - 1) degrees of freedom, of which f, at most BORROWED, are lent to a pair. With
ten arms that makes r finite in the second round; a pair alone needs four. With f = 0 and g = 4 it
is `compare.interval`. Lending s^2 is Smyth's moderated t (2004); the mixture for a contrast of a
linear model, v = observations - parameters, valid at every n, is theorem 3.1 and its corollary for
one coefficient in Lindon, Ham, Tingley and Bojinov, arXiv 2210.08589 (from memory: verify).
a = alpha / (arms - 1): the best arm has that many rivals that could throw it out wrongly.

The race ends when nobody left can be better than the leader by more than the indifference, with
the same intervals (the stopping rule of LUCB, Kalyanakrishnan et al., ICML 2012).
Rounds may resemble their neighbours (one text stays for seconds): s^2 grows by (1 + c) / (1 - c)
with c the lag-1 correlation of all differences, if positive. At c = 0.3 one of four equal arms is
thrown out in 7 % of simulated races instead of 12 %; without correlation it costs nothing.
Single slow slices are drawn in to WINSOR robust deviations from the median of their pair.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeAlias

from tuner.cells import Cell
from tuner.compare import Interval

Arm: TypeAlias = int
Round: TypeAlias = Mapping[Arm, Mapping[int, Cell]]  # arm -> batch size -> cell

EFFECT_VARIANCE = 1.0  # g: slices are noisier than the blocks of a trial, so effects are smaller
BORROWED = 20  # degrees of freedom: enough to be early, few enough for an arm's own noise to show
FLOOR = 0.01  # of s: a few equal slices do not prove that there is no noise
WINSOR = 3.0  # robust standard deviations
ECHO = 0.8  # the largest lag-1 correlation believed: beyond it the factor has no bound
ROBUST = 6  # rounds before the median absolute deviation is worth anything


@dataclass(frozen=True, kw_only=True)
class Rules:
    """When an arm leaves and when a race ends; gains as fractions."""

    alpha: float = 0.05
    indifference: float = 0.02
    tie: float = 0.01  # the smaller arm wins (vLLM pull request 49163)
    min_rounds: int = 3  # two rounds can share one disturbance
    max_rounds: int = 200
    min_steps: int = 4  # common steps that make a comparison


DEFAULT = Rules()


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a race stands after its rounds.

    Gains are logarithms against the leader; rounds and slices are those the race used.
    """

    leader: Arm
    survivors: tuple[Arm, ...]
    out: Mapping[Arm, str]
    gains: Mapping[Arm, Interval]
    rounds: int
    slices: int
    decided: bool
    over: bool  # decided, or out of rounds
    confidence: float  # that no arm beats the leader by more than the indifference
    sentence: str


def standing(
    rounds: Iterable[Round],
    arms: Sequence[Arm],
    rules: Rules = DEFAULT,
    *,
    noun: str = "draft length",
) -> Standing:
    """Walk the rounds in order until the race is over; later rounds are not looked at.

    Raises:
        ValueError: there is no arm.
    """
    if not arms:
        raise ValueError("a race needs at least one arm")
    race = _Race(arms, rules, noun)
    for each in rounds:
        if race.over:
            break
        race.add(each)
    return race.standing()


def log_ratio(ours: Mapping[int, Cell], theirs: Mapping[int, Cell], min_steps: int) -> float | None:
    """Mean logarithm of the goodput ratio at common batch sizes; None with too few steps."""
    weight, weighted = 0, 0.0
    for batch, cell in ours.items():
        mine, other = cell.goodput_tok_s, theirs.get(batch, Cell())
        if mine and other.goodput_tok_s:
            steps = min(cell.steps, other.steps)
            weight += steps
            weighted += steps * math.log(mine / other.goodput_tok_s)
    return weighted / weight if weight >= max(1, min_steps) else None


def radius_factor(count: int, freedom: int, alpha: float, g: float = EFFECT_VARIANCE) -> float:
    """The always-valid radius in standard deviations of one difference; infinite when too few."""
    inflation = 1 + count * g
    ratio = (inflation / alpha**2) ** (1 / (freedom + 1))
    if freedom < 1 or ratio >= inflation:
        return math.inf
    return math.sqrt(freedom * (ratio - 1) / (1 - ratio / inflation) / count)


@dataclass(frozen=True, kw_only=True)
class _Summary:
    count: int
    mean: float
    scatter: float  # sum of squared deviations
    lagged: float  # sum of products of neighbouring deviations


def _summary(values: Sequence[float]) -> _Summary:
    if len(values) >= ROBUST:
        middle = statistics.median(values)
        spread = 1.4826 * statistics.median([abs(value - middle) for value in values])
        limit = WINSOR * max(spread, FLOOR)
        values = [min(max(value, middle - limit), middle + limit) for value in values]
    mean = math.fsum(values) / len(values)
    away = [value - mean for value in values]
    return _Summary(
        count=len(away),
        mean=mean,
        scatter=math.fsum(value * value for value in away),
        lagged=math.fsum(value * after for value, after in pairwise(away)),
    )


NO_ROUND = _Summary(count=0, mean=0.0, scatter=0.0, lagged=0.0)


class _Race:
    """The walk: the only place where a race changes."""

    def __init__(self, arms: Sequence[Arm], rules: Rules, noun: str) -> None:
        self.arms, self.rules, self.noun = tuple(sorted(set(arms))), rules, noun
        self.left = list(self.arms)
        self.out: dict[Arm, str] = {}
        self.rounds = self.slices = 0
        self.level = rules.alpha / max(1, len(self.arms) - 1)
        self.freedom = 1 - len(self.arms)  # of all pairs together, less one mean per arm
        self.values: dict[tuple[Arm, Arm], list[float]] = {}  # smaller arm first
        self.pairs: dict[tuple[Arm, Arm], _Summary] = {}
        self.pooled = 0.0  # p^2
        self.echo = 0.0  # lag-1 correlation of the differences
        self.decided = len(self.arms) == 1

    @property
    def over(self) -> bool:
        return self.decided or self.rounds >= self.rules.max_rounds

    def add(self, each: Round) -> None:
        compared = set()
        present = [arm for arm in self.left if arm in each]
        for place, first in enumerate(present):
            for second in present[place + 1 :]:
                found = log_ratio(each[first], each[second], self.rules.min_steps)
                if found is not None:
                    compared |= {first, second}
                    self.values.setdefault((first, second), []).append(found)
                    self.pairs[first, second] = _summary(self.values[first, second])
        if not compared:
            return
        self.rounds += 1
        self.slices += len(present)
        self.freedom += len(compared) - 1
        freedom = sum(pair.count - 1 for pair in self.pairs.values())
        scatter = math.fsum(pair.scatter for pair in self.pairs.values())
        self.pooled = scatter / freedom if freedom else 0.0
        echo = math.fsum(pair.lagged for pair in self.pairs.values()) / scatter if scatter else 0.0
        self.echo = min(max(echo, 0.0), ECHO)
        self.eliminate()
        self.decided = self.rounds >= self.rules.min_rounds and self.settled()

    def eliminate(self) -> None:
        top = self.top()
        for arm in [arm for arm in self.left if arm != top]:
            behind = self.gain(arm, top)
            if behind is not None and behind.high < 0:
                self.left.remove(arm)
                self.out[arm] = (
                    f"{self.noun} {arm} is {_percent(behind)} against {top} "
                    f"after {self.pair(arm, top).count} rounds"
                )

    def settled(self) -> bool:
        top = self.top()
        found = [self.gain(arm, top) for arm in self.left if arm != top]
        limit = math.log1p(self.rules.indifference)
        return all(gain is not None and gain.high <= limit for gain in found)

    def pair(self, arm: Arm, other: Arm) -> _Summary:
        """The differences arm less other."""
        if arm < other:
            return self.pairs.get((arm, other), NO_ROUND)
        found = self.pair(other, arm)
        return replace(found, mean=-found.mean)

    def top(self) -> Arm:
        """The best mean against the others that are left."""

        def score(arm: Arm) -> float:
            found = [self.pair(arm, other) for other in self.left if other != arm]
            means = [pair.mean for pair in found if pair.count]
            return math.fsum(means) / len(means) if means else -math.inf

        return max(self.left, key=lambda arm: (score(arm), -arm))

    def leader(self) -> Arm:
        top, tie = self.top(), math.log1p(self.rules.tie)
        return min(
            arm
            for arm in self.left
            if arm == top or (self.pair(arm, top).count and self.pair(arm, top).mean >= -tie)
        )

    def noise(self, pair: _Summary) -> tuple[float, int]:
        """Standard deviation of one difference and its degrees of freedom."""
        own = pair.count - 1
        lent = min(BORROWED, max(0, self.freedom - own))
        variance = (lent * self.pooled + pair.scatter) / (lent + own) if lent + own else 0.0
        variance *= (1 + self.echo) / (1 - self.echo)
        return max(math.sqrt(variance), FLOOR), lent + own

    def gain(self, arm: Arm, other: Arm) -> Interval | None:
        """The interval of arm against other; None before `min_rounds`."""
        pair = self.pair(arm, other)
        if pair.count < self.rules.min_rounds:
            return None
        deviation, freedom = self.noise(pair)
        radius = deviation * radius_factor(pair.count, freedom, self.level)
        return Interval(mean=pair.mean, low=pair.mean - radius, high=pair.mean + radius)

    def doubt(self, arm: Arm, top: Arm) -> float:
        """The always-valid p value of: arm beats top by more than the indifference."""
        pair, limit = self.pair(arm, top), math.log1p(self.rules.indifference)
        if pair.count < self.rules.min_rounds or pair.mean >= limit:
            return 1.0
        deviation, freedom = self.noise(pair)
        if freedom < 1:
            return 1.0
        inflation = 1 + pair.count * EFFECT_VARIANCE
        square = pair.count * ((limit - pair.mean) / deviation) ** 2 / freedom
        evidence = (math.log1p(square) - math.log1p(square / inflation)) * (
            freedom + 1
        ) / 2 - math.log(inflation) / 2
        return math.exp(-max(0.0, evidence))

    def standing(self) -> Standing:
        top, leader = self.top(), self.leader()
        doubts = [self.doubt(arm, top) for arm in self.left if arm != top]
        doubts += [self.level] * len(self.out)
        found = {arm: self.gain(arm, leader) for arm in self.arms if arm != leader}
        return Standing(
            leader=leader,
            survivors=tuple(self.left),
            out=dict(self.out),
            gains={arm: gain for arm, gain in found.items() if gain is not None},
            rounds=self.rounds,
            slices=self.slices,
            decided=self.decided,
            over=self.over,
            confidence=max(0.0, 1 - math.fsum(doubts)),
            sentence=self.sentence(leader),
        )

    def sentence(self, leader: Arm) -> str:
        others = [str(arm) for arm in self.left if arm != leader]
        name, after = f"{self.noun} {leader}", f"after {self.rounds} rounds"
        if not self.rounds and others:
            return f"no two arms of {len(self.arms)} were compared yet"
        if self.decided and not others:
            return f"{name} is the best of {len(self.arms)} {after}"
        if self.decided:
            return f"{name} is as good as any of {len(self.arms)} {after}; equal: " + ", ".join(
                others
            )
        if self.over:
            return f"undecided {after}: {name} leads, not told apart from " + ", ".join(others)
        return f"{name} leads {after}; still in the race: " + ", ".join(others)


def _percent(gain: Interval) -> str:
    mean, low, high = (100 * math.expm1(value) for value in (gain.mean, gain.low, gain.high))
    return f"{mean:+.0f} % [{low:+.0f}, {high:+.0f}]"
