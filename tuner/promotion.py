"""P: whether a candidate replaces the default, from fresh pairs of engine starts."""

import hashlib
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from profiles.knobs import Knobs
from profiles.measurement import Measurement
from profiles.profile import Evidence
from tuner.compare import Interval, fixed_interval

DEFAULT_ARM = "default"
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


def already_best(trials: int) -> Verdict:
    """The verdict when the search itself recommends the default."""
    sentence = f"your configuration is already the best of {trials} tried"
    return Verdict(
        promote=False, evidence=Evidence(trials=trials, sentence=sentence), sentence=sentence
    )


def decide(
    pairs: Sequence[Pair],
    *,
    min_gain: float,
    planned_pairs: int,
    trials: int = 0,
    confidence: float = 0.95,
    latency_factor: float = LATENCY_FACTOR,
) -> Verdict:
    """Promote when all planned pairs are usable, the gain is above the noise and latency holds.

    The number of pairs is fixed beforehand, so it must not depend on what they showed.

    Raises:
        ValueError: more pairs than planned, or two pairs share a candidate start.
    """
    _check(pairs, planned_pairs)
    usable = [pair for pair in pairs if _rate(pair.default) and _rate(pair.candidate)]
    if len(usable) < planned_pairs:
        return _kept(
            f"kept the default: {len(usable)} of {planned_pairs} start pairs gave a usable "
            f"measurement{_why_not(pairs)}",
            Evidence(pairs=len(usable), trials=trials, confidence=confidence),
        )
    found = fixed_interval(
        [pair.candidate.log_rate() - pair.default.log_rate() for pair in usable],
        confidence=confidence,
    )
    evidence = _evidence(usable, found, trials=trials, confidence=confidence)
    refusal = _refusal(usable, found, min_gain=min_gain, latency_factor=latency_factor)
    if refusal is not None:
        return _kept(f"kept the default: {refusal}", evidence)
    label = Knobs.model_validate_json(usable[0].candidate.knobs).label()
    sentence = f"{label}: {_percent(found)} over {len(usable)} start pairs"
    return Verdict(
        promote=True, evidence=evidence.model_copy(update={"sentence": sentence}), sentence=sentence
    )


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
    pairs: Sequence[Pair], found: Interval, *, min_gain: float, latency_factor: float
) -> str | None:
    gain = math.expm1(found.mean)
    errors = sum(block.errors for pair in pairs for block in pair.candidate.blocks)
    if errors:
        return f"{errors} requests failed with the candidate"
    if found.high < 0:
        return f"{_percent(found)} is a loss"
    if found.low <= 0:
        return f"{_percent(found)} is not above the noise"
    if gain <= min_gain:
        return f"{_percent(found)} is not more than the {min_gain:.1%} asked for"
    return _slower("ttft_p95_s", pairs, latency_factor, "TTFT p95", LATENCY_SLACK_S) or _slower(
        "tpot_mean_s", pairs, latency_factor, "time per output token", 0.0
    )


def _slower(
    name: str, pairs: Sequence[Pair], factor: float, label: str, slack_s: float
) -> str | None:
    """Why a latency refuses the candidate; a latency that nobody reported refuses nothing."""
    before = latency([pair.default for pair in pairs], name)
    after = latency([pair.candidate for pair in pairs], name)
    if before is None or after is None or after <= before * factor or after - before <= slack_s:
        return None
    return f"{label} would grow from {before * 1e3:.0f} to {after * 1e3:.0f} ms"


def latency(measurements: Sequence[Measurement], name: str) -> float | None:
    """The median of one latency over all blocks, which one slow block cannot move."""
    values = [getattr(block, name) for each in measurements for block in each.blocks]
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _evidence(
    pairs: Sequence[Pair], found: Interval, *, trials: int, confidence: float
) -> Evidence:
    lengths = [p.candidate.acceptance.mean_length for p in pairs if p.candidate.acceptance]
    joules = [pair.candidate.joule_per_token for pair in pairs]
    return Evidence(
        tok_s=math.exp(statistics.fmean(pair.candidate.log_rate() for pair in pairs)),
        default_tok_s=math.exp(statistics.fmean(pair.default.log_rate() for pair in pairs)),
        gain=math.expm1(found.mean),
        gain_low=math.expm1(found.low),
        gain_high=math.expm1(found.high),
        confidence=confidence,
        pairs=len(pairs),
        trials=trials,
        acceptance_length=_mean(lengths),
        joule_per_token=_mean(joules),
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


def _why_not(pairs: Sequence[Pair]) -> str:
    for pair in pairs:
        for each in (pair.candidate, pair.default):
            if not _rate(each):
                reason = each.failure.sentence if each.failure else each.invalid
                return f" ({(reason or 'no tokens').rstrip('.')})"
    return ""


def _percent(found: Interval) -> str:
    mean, low, high = (100 * math.expm1(x) for x in (found.mean, found.low, found.high))
    return f"{mean:+.1f} % [{low:+.1f}, {high:+.1f}]"
