"""P: the start pairs behind the latest decision about a class, read back from the rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from profiles.knobs import Knobs
from profiles.measurement import Measurement
from profiles.records import Promotion
from tuner.compare import Interval, fixed_interval, interval
from tuner.objective import DEFAULT, Goals, over_blocks
from tuner.promotion import LATENCY_FACTOR, LATENCY_SLACK_S
from tuner.validity import cache_gap

# name of the figure in a block, for people, and the growth that nobody feels
GUARDS = (
    ("ttft_p95_s", "TTFT p95", LATENCY_SLACK_S),
    ("tpot_mean_s", "time per output token", 0.0),
)


@dataclass(frozen=True, kw_only=True)
class PairFigures:
    """One round: a start of either arm; figures are None where a start gave none."""

    number: int
    default: float | None  # in the objective's unit
    candidate: float | None
    difference: float | None  # of the scores: what the interval is made of
    fault: str | None = None  # why the pair is not usable


@dataclass(frozen=True, kw_only=True)
class Guard:
    """A latency with each arm, and the most that it may be with the candidate."""

    name: str
    default_s: float
    candidate_s: float
    limit_s: float

    @property
    def kept(self) -> bool:
        """Whether the candidate stays within the limit."""
        return self.candidate_s <= self.limit_s


@dataclass(frozen=True, kw_only=True)
class Proof:
    """A promotion pair by pair; gains are relative, the mean is that of the differences."""

    candidate: str  # label
    default: str
    unit: str  # of the pairs' figures
    pairs: tuple[PairFigures, ...]
    gain: float | None
    low: float | None  # None: too few pairs for an interval
    high: float | None
    confidence: float
    guards: tuple[Guard, ...]
    failed_requests: int  # of the candidate
    broken: str | None = None  # the limit that the candidate breaks


def proof(
    measurements: Sequence[Measurement],
    promotion: Promotion,
    chosen: Knobs,
    default: Knobs,
    goals: Goals = DEFAULT,
) -> Proof | None:
    """The pairs of the decision; None when it needed none.

    `measurements` are those of one class, oldest first; `chosen` are the knobs of the decision's
    profile, and `default` the operator's own of today.
    """
    rows = _rounds([row for row in measurements if row.started_at <= promotion.at])
    arms = list(dict.fromkeys(row.knobs for row in rows))
    if len(arms) != 2:
        return None
    base = _default_arm(arms, promotion, chosen, default)
    first = [row for row in rows if row.knobs == base]
    second = [row for row in rows if row.knobs != base]
    pairs = tuple(
        _figures(number, _of(first, number), _of(second, number), goals)
        for number in sorted({row.pair for row in rows if row.pair is not None})
    )
    differences = [pair.difference for pair in pairs if pair.difference is not None]
    if promotion.evidence.gain is None and len(differences) == len(pairs):
        return None  # these rows had a decision of their own; the present one is about a search
    alpha = 1 - promotion.evidence.confidence
    found = None
    if differences and promotion.evidence.test == "sequential":
        found = interval(differences, alpha=alpha)
    elif differences:
        found = fixed_interval(differences, confidence=1 - alpha)
    return Proof(
        candidate=Knobs.model_validate_json(next(arm for arm in arms if arm != base)).label(),
        default=Knobs.model_validate_json(base).label(),
        unit=goals.unit,
        pairs=pairs,
        gain=None if found is None else math.expm1(found.mean),
        low=_end(found, "low"),
        high=_end(found, "high"),
        confidence=promotion.evidence.confidence,
        guards=_guards(first, second),
        failed_requests=sum(block.errors for row in second for block in row.blocks),
        broken=goals.broken(second),
    )


def _rounds(rows: Sequence[Measurement]) -> list[Measurement]:
    """The promotion rows of the latest session, if no search came after them."""
    found: list[Measurement] = []
    for row in rows:
        if row.phase == "search":
            found = []
        elif row.phase == "promotion" and row.pair is not None:
            last = found[-1].pair if found else None
            if last is not None and row.pair < last:
                found = []  # a promotion that was cut off begins again
            found.append(row)
    return found


def _default_arm(arms: Sequence[str], promotion: Promotion, chosen: Knobs, default: Knobs) -> str:
    if default.canonical() in arms:
        return default.canonical()
    if promotion.kept_default and chosen.canonical() in arms:
        return chosen.canonical()
    # a schedule that was learned later replaces that of the pairs; its engine is the same
    own = [arm for arm in arms if Knobs.model_validate_json(arm).cold() == chosen.cold()]
    return next((arm for arm in arms if arm not in own), arms[0])


def _of(rows: Sequence[Measurement], number: int) -> Measurement | None:
    return next((row for row in rows if row.pair == number), None)


def _figures(
    number: int, one: Measurement | None, other: Measurement | None, goals: Goals
) -> PairFigures:
    before, after = (None if row is None else goals.score(row) for row in (one, other))
    faults = [fault for row in (other, one) if (fault := _fault(row, goals)) is not None]
    if one is not None and other is not None and (gap := cache_gap(one, other)) is not None:
        faults.append(gap)
    usable = before is not None and after is not None and not faults
    return PairFigures(
        number=number,
        default=None if before is None else goals.figure(before),
        candidate=None if after is None else goals.figure(after),
        difference=after - before if usable and before is not None and after is not None else None,
        fault=faults[0] if faults else None,
    )


def _fault(row: Measurement | None, goals: Goals) -> str | None:
    if row is None:
        return "one of its starts was not measured"
    if row.failure is not None:
        return row.failure.sentence
    if row.invalid is not None:
        return row.invalid
    return goals.missing if goals.score(row) is None else None


def _guards(first: Sequence[Measurement], second: Sequence[Measurement]) -> tuple[Guard, ...]:
    usable = [[row for row in rows if row.usable] for rows in (first, second)]
    found = []
    for field, name, slack_s in GUARDS:
        before, after = (over_blocks(rows, field) for rows in usable)
        if before is not None and after is not None:
            limit = max(before * LATENCY_FACTOR, before + slack_s)
            found.append(Guard(name=name, default_s=before, candidate_s=after, limit_s=limit))
    return tuple(found)


def _end(found: Interval | None, name: str) -> float | None:
    end = math.inf if found is None else getattr(found, name)
    return math.expm1(end) if math.isfinite(end) else None
