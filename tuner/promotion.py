"""P: whether a candidate replaces the default, from fresh pairs of engine starts."""

import hashlib
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from profiles.knobs import Knobs
from profiles.measurement import Measurement
from profiles.profile import Evidence
from tuner.compare import Interval, fixed_interval, interval
from tuner.objective import DEFAULT, Goals, over_blocks
from tuner.observation import Observation
from tuner.validity import cache_gap

DEFAULT_ARM = "default"
MIN_PAIRS = 4  # the always-valid interval is infinite up to three
Test: TypeAlias = Literal["planned", "sequential"]
LATENCY_FACTOR = 1.25  # TTFT p95 and mean TPOT may grow by this; p95 of few requests is noisy
LATENCY_SLACK_S = 0.05  # and a smaller growth of TTFT is felt by nobody


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One round of a promotion: an engine start of each arm, measured for one class."""

    default: Measurement
    candidate: Measurement


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer of a promotion."""

    promote: bool
    evidence: Evidence
    sentence: str


def schedule_pairs(rounds: int, arms: Sequence[str], seed: int) -> list[tuple[str, ...]]:
    """Order of engine starts: each round has the default and every arm once, shuffled by seed."""
    if DEFAULT_ARM in arms or len(set(arms)) != len(arms):
        raise ValueError(f"arms must be distinct and not {DEFAULT_ARM!r}: {', '.join(arms)}")

    def shuffled(number: int) -> tuple[str, ...]:
        return tuple(
            sorted(
                (DEFAULT_ARM, *arms),
                key=lambda arm: hashlib.sha256(f"{seed}:{number}:{arm}".encode()).digest(),
            )
        )

    return [shuffled(number) for number in range(rounds)]


def already_best(trials: int, goals: Goals = DEFAULT) -> Verdict:
    """The verdict when the search itself recommends the default."""
    sentence = f"your configuration is already the best of {trials} tried"
    return _kept(sentence, _asked(goals, trials=trials))


def nothing_fits(history: Sequence[Observation], goals: Goals = DEFAULT) -> Verdict:
    """The verdict when a search recommends nothing at all, not even the default."""
    kinds = Counter(str(row.failure) for row in history if row.failure is not None)
    failed = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common())
    broken = sorted({name for row in history for name, margin in row.limits.items() if margin > 0})
    if not any(row.measured for row in history) and not broken:
        why = f"none of {len(history)} trials gave a usable measurement"
        why += f" ({failed or goals.missing}); `tuner trials` has the reasons"
    else:
        limits = ", ".join(f"tuning.limits.{name}" for name in broken)
        why = f"none of {len(history)} trials worked and kept {limits or 'working'}"
        why += f" ({failed})" if failed else ""
    return _kept(f"kept the default: {why}", _asked(goals, trials=len(history)))


def decide(
    pairs: Sequence[Pair],
    *,
    min_gain: float,
    planned_pairs: int,
    trials: int = 0,
    confidence: float = 0.95,
    latency_factor: float = LATENCY_FACTOR,
    goals: Goals = DEFAULT,
    sequential: bool = False,
) -> Verdict:
    """Promote when all planned pairs are usable, the gain is above the noise and limits hold.

    The number of pairs is fixed beforehand, so it must not depend on what they showed; unless it
    is `sequential`: then the interval holds however often it was looked at, and is wider.

    Raises:
        ValueError: more pairs than planned, or two pairs share a candidate start.
    """
    _check(pairs, planned_pairs)
    usable, differences = _compared(pairs, goals)
    test: Test = "sequential" if sequential else "planned"
    if len(usable) < (MIN_PAIRS if sequential else planned_pairs):
        return _kept(
            f"kept the default: {len(usable)} of {planned_pairs} start pairs gave a usable "
            f"measurement{_why_not(pairs, goals)}",
            _asked(goals, pairs=len(usable), trials=trials, confidence=confidence, test=test),
        )
    found = (
        interval(differences, alpha=1 - confidence)
        if sequential
        else fixed_interval(differences, confidence=confidence)
    )
    evidence = _evidence(usable, found, goals, trials=trials, confidence=confidence, test=test)
    refusal = _refusal(usable, found, goals=goals, min_gain=min_gain, latency_factor=latency_factor)
    if refusal is not None:
        own = goals.broken([pair.default for pair in usable])
        also = "" if own is None else f"; your configuration itself: {own}"
        return _kept(f"kept the default: {refusal}{also}", evidence)
    label = Knobs.model_validate_json(usable[0].candidate.knobs).label()
    sentence = f"{label}: {goals.change(found)} over {len(usable)} start pairs"
    return Verdict(
        promote=True, evidence=evidence.model_copy(update={"sentence": sentence}), sentence=sentence
    )


def clear(
    pairs: Sequence[Pair], *, min_gain: float, confidence: float = 0.95, goals: Goals = DEFAULT
) -> bool:
    """Whether a sequential promotion needs no more pairs: gained enough, or cannot any more."""
    usable, differences = _compared(pairs, goals)
    if len(usable) < MIN_PAIRS:
        return False
    found, asked = interval(differences, alpha=1 - confidence), math.log1p(min_gain)
    return (found.low > 0 and found.mean > asked) or found.high < asked


def _compared(pairs: Sequence[Pair], goals: Goals) -> tuple[list[Pair], list[float]]:
    """The pairs that can be compared, and the differences of their scores."""
    usable, differences = [], []
    for pair in pairs:
        one, other = goals.score(pair.default), goals.score(pair.candidate)
        alike = cache_gap(pair.default, pair.candidate) is None
        if alike and one is not None and other is not None:
            usable.append(pair)
            differences.append(other - one)
    return usable, differences


def _check(pairs: Sequence[Pair], planned: int) -> None:
    if planned < 2:
        raise ValueError("a promotion needs at least two start pairs")
    if len(pairs) > planned:
        raise ValueError(f"{len(pairs)} pairs, but {planned} were planned")
    for arm in ("default", "candidate"):
        starts = [each.engine_token for pair in pairs if _rate(each := getattr(pair, arm))]
        if len(set(starts)) != len(starts):
            raise ValueError(f"two pairs share a start of the {arm}: blocks are no replicates")


def _refusal(
    pairs: Sequence[Pair],
    found: Interval,
    *,
    goals: Goals,
    min_gain: float,
    latency_factor: float,
) -> str | None:
    gain, change = math.expm1(found.mean), goals.change(found)
    errors = sum(block.errors for pair in pairs for block in pair.candidate.blocks)
    if errors:
        return f"{errors} requests failed with the candidate"
    broken = goals.broken([pair.candidate for pair in pairs])
    if broken is not None:
        return f"with the candidate {broken}"
    if found.high < 0:
        return f"{change} is a loss"
    if found.low <= 0:
        return f"{change} is not above the noise"
    if gain <= min_gain:
        return f"{change} is not more than the {min_gain:.1%} asked for"
    return _slower("ttft_p95_s", pairs, latency_factor, "TTFT p95", LATENCY_SLACK_S) or _slower(
        "tpot_mean_s", pairs, latency_factor, "time per output token", 0.0
    )


def _slower(
    name: str, pairs: Sequence[Pair], factor: float, label: str, slack_s: float
) -> str | None:
    """Why a latency refuses the candidate; a latency that nobody reported refuses nothing."""
    before = over_blocks([pair.default for pair in pairs], name)
    after = over_blocks([pair.candidate for pair in pairs], name)
    if before is None or after is None or after <= before * factor or after - before <= slack_s:
        return None
    return f"{label} would grow from {before * 1e3:.0f} to {after * 1e3:.0f} ms"


def _asked(goals: Goals, **known: Any) -> Evidence:
    """Evidence that names what was asked for."""
    return Evidence(objective=goals.objective, limits=dict(goals.limits), **known)


def _evidence(pairs: Sequence[Pair], found: Interval, goals: Goals, **known: Any) -> Evidence:
    tuned, default = [p.candidate for p in pairs], [p.default for p in pairs]
    lengths = [each.acceptance.mean_length for each in tuned if each.acceptance]
    return _asked(
        goals,
        tok_s=math.exp(statistics.fmean(each.log_rate() for each in tuned)),
        default_tok_s=math.exp(statistics.fmean(each.log_rate() for each in default)),
        gain=math.expm1(found.mean),
        gain_low=math.expm1(found.low),
        gain_high=math.expm1(found.high),
        pairs=len(pairs),
        acceptance_length=_mean(lengths),
        joule_per_token=_mean([each.joule_per_token for each in tuned]),
        default_joule_per_token=_mean([each.joule_per_token for each in default]),
        latency_p95_s=over_blocks(tuned, "latency_p95_s"),
        default_latency_p95_s=over_blocks(default, "latency_p95_s"),
        **known,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _kept(sentence: str, evidence: Evidence) -> Verdict:
    return Verdict(
        promote=False,
        evidence=evidence.model_copy(update={"sentence": sentence}),
        sentence=sentence,
    )


def _rate(measurement: Measurement) -> float:
    return measurement.tok_s or 0.0


def _why_not(pairs: Sequence[Pair], goals: Goals) -> str:
    for pair in pairs:
        for each, whose in ((pair.candidate, ""), (pair.default, "your configuration: ")):
            if goals.score(each) is None:
                reason = each.failure.sentence if each.failure else each.invalid
                return f" ({whose}{(reason or goals.missing).rstrip('.')})"
    gaps = [cache_gap(pair.default, pair.candidate) for pair in pairs]
    return next((f" ({gap.rstrip('.')})" for gap in gaps if gap is not None), "")
