"""P: the goodput of every draft length, from step times and acceptance together.

Goodput per request is tokens per step over seconds per step. Seconds depend on batch size and draft
length, hardly on text; tokens depend on text and draft length, not on batch size. So the seconds of
one bucket are fitted by themselves, and the tokens are taken from all drafts: those of the length
itself, and what longer drafts predict for it (tuner/drafts.py), weighted by their variances. The
prediction's own error is part of its variance: with enough direct steps it counts for nothing.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tuner.buckets import bucket
from tuner.cells import Cells
from tuner.drafts import STEPS_PER_SAMPLE, ByLength, Drafts, predicted, spread

STEP_NOISE = 0.15  # standard deviation of ln seconds of one step, on a machine with other work
SLICE_NOISE = 0.08  # and of what all steps of a slice share: clocks, neighbours, a run of prefills
# of the alternating fit: a few, hundreds where draft lengths hardly met at the same batch sizes
SWEEPS, SETTLED = 500, 1e-5


@dataclass(frozen=True, kw_only=True)
class Belief:
    """Normal belief about ln goodput per request."""

    mean: float
    deviation: float


def beliefs(
    cells: Cells,
    drafts: ByLength,
    number: int,
    *,
    prediction_error: float,
    visits: Mapping[int, int] | None = None,
    recent: Cells | None = None,
) -> dict[int, Belief]:
    """By draft length, for a bucket of batch sizes; only what was visited there has one.

    `visits` says in how many slices each draft length was there; without it their noise is none.
    Tokens are those of the `recent` cells, if given: texts change sooner than step times.
    """
    recent = cells if recent is None else recent
    here = {key: cell for key, cell in cells.items() if bucket(key[0]) == number and cell.step_s}
    seconds = _seconds(here)
    found: dict[int, Belief] = {}
    for k, log_s in seconds.items():
        steps = sum(cell.steps for (_, length), cell in here.items() if length == k)
        tokens = tokens_per_step(k, recent, drafts, prediction_error)
        if tokens is not None:
            shared = 0.0 if visits is None else SLICE_NOISE**2 / max(visits.get(k, 1), 1)
            variance = tokens.deviation**2 + STEP_NOISE**2 / steps + shared
            found[k] = Belief(mean=tokens.mean - log_s, deviation=math.sqrt(variance))
    return found


def _seconds(here: Cells) -> dict[int, float]:
    """Mean ln seconds per step by draft length, as if all had run at the same batch sizes."""
    rows = [
        (b, k, cell.steps, math.log(cell.seconds / cell.steps)) for (b, k), cell in here.items()
    ]
    lengths: dict[int, float] = {}
    batches = {b: 0.0 for b, _ in here}
    for _ in range(SWEEPS):
        before = lengths
        lengths = _means((k, steps, log_s - batches[b]) for b, k, steps, log_s in rows)
        batches = _means((b, steps, log_s - lengths[k]) for b, k, steps, log_s in rows)
        if before and all(abs(lengths[k] - before[k]) < SETTLED for k in lengths):
            break
    return lengths


def _means(rows: Iterable[tuple[int, int, float]]) -> dict[int, float]:
    """Weighted means of the values, by key, from rows (key, weight, value)."""
    weights: dict[int, int] = {}
    sums: dict[int, float] = {}
    for key, weight, value in rows:
        weights[key] = weights.get(key, 0) + weight
        sums[key] = sums.get(key, 0.0) + weight * value
    return {key: sums[key] / weight for key, weight in weights.items()}


def tokens_per_step(
    k: int, cells: Cells, drafts: ByLength, prediction_error: float
) -> Belief | None:
    """Ln tokens per request and step: direct steps and predictions, weighted."""
    parts: list[Belief] = []
    if k == 0:
        return Belief(mean=0.0, deviation=0.0)
    own = drafts.get(k)
    direct, request_steps = _direct(k, cells)
    if direct and own is not None and own.request_steps:
        parts.append(_belief(direct, spread(own), request_steps))
    longer = {length: each for length, each in drafts.items() if length > k}
    weight = sum(each.request_steps for each in longer.values())
    if weight:
        mean = sum(each.request_steps * (predicted(each, k) or 1.0) for each in longer.values())
        variance = sum(each.request_steps * spread(each, k) for each in longer.values())
        seen = _belief(mean / weight, variance / weight, weight)
        deviation = math.hypot(seen.deviation, prediction_error)
        parts.append(Belief(mean=seen.mean, deviation=deviation))
    if not parts:
        return None
    precision = sum(1 / part.deviation**2 for part in parts)
    mean = sum(part.mean / part.deviation**2 for part in parts) / precision
    return Belief(mean=mean, deviation=1 / math.sqrt(precision))


def sampled(drafts: Drafts) -> Belief | None:
    """Ln tokens per request and step at the length that was drafted; None without a step."""
    mean = drafts.tokens_per_step
    return None if mean is None else _belief(mean, spread(drafts), drafts.request_steps)


def _direct(k: int, cells: Cells) -> tuple[float | None, int]:
    """Tokens per request-step at a draft length, and how many request-steps there were."""
    request_steps = sum(
        batch * cell.steps for (batch, length), cell in cells.items() if length == k
    )
    tokens = sum(cell.tokens for (_, length), cell in cells.items() if length == k)
    return (tokens / request_steps if request_steps else None), request_steps


def _belief(mean: float, variance: float, request_steps: int) -> Belief:
    # half a token of variance more: a few equal steps do not prove that there is none
    relative = (variance + 0.5 / max(request_steps, 1)) * STEPS_PER_SAMPLE / request_steps
    return Belief(mean=math.log(mean), deviation=math.sqrt(relative) / mean)


def risk(found: Mapping[int, Belief], choice: int) -> float:
    """Expected loss, as a share of goodput, of the choice against its strongest rival."""
    own = found[choice]
    worst = 0.0
    for k, other in found.items():
        if k == choice:
            continue
        gap = other.mean - own.mean
        deviation = math.hypot(own.deviation, other.deviation)
        if deviation == 0:
            worst = max(worst, gap)
            continue
        z = gap / deviation
        density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        worst = max(worst, gap * (0.5 * math.erfc(-z / math.sqrt(2))) + deviation * density)
    return worst


def confidence(found: Mapping[int, Belief], choice: int, *, indifference: float) -> float:
    """Probability, at least, that nothing beats the choice by more than the indifference."""
    own, limit = found[choice], math.log1p(indifference)
    doubt = 0.0
    for k, other in found.items():
        gap = other.mean - own.mean - limit
        deviation = math.hypot(own.deviation, other.deviation)
        if k != choice:
            doubt += 0.5 * math.erfc(-gap / deviation / math.sqrt(2)) if deviation else gap > 0
    return max(0.0, 1 - doubt)


def best(found: Mapping[int, Belief], *, tie: float) -> int:
    """The draft length with the highest mean; within the tie the shortest one."""
    top = max(belief.mean for belief in found.values())
    return min(k for k, belief in found.items() if belief.mean >= top - math.log1p(tie))
