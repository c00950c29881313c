"""P: which draft length to start next, and which of the measured ones to use.

The belief about the curve is a mixture: the shapes of tuner/shapes.py, each with the same normal
discrepancy, because no real curve has exactly such a shape. Every start is an observation with
noise; the level is free, so only differences between lengths count. Acceptance counters are
evidence about tokens per step, with their error, and so far only bend the prior: what is chosen was
measured. The next start is the one that is expected to raise the throughput of the final choice
most (knowledge gradient); that may be a second start of a length already measured.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tuner.drafts import Drafts, predicted
from tuner.shapes import Array, Shapes, level_shape, shapes

MAX_LENGTHS, MAX_STARTS = 4, 8  # of one ladder
WORTH = 0.0005  # expected rise of ln tok/s below which one more start is not made
OUTCOMES = np.linspace(-3.0, 3.0, 15)  # standard deviations of what a start may show
NEGLIGIBLE = 1e-4  # weight of a shape, against the heaviest


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is assumed about noise and about how far real curves are from every shape."""

    noise: float = 0.027  # standard deviation of ln tok/s of one start and its blocks
    # a clock, a neighbour, a cold cache: share of starts, and what they lose
    slow_share: float = 0.03
    slowness: float = 0.10
    # departure from a shape: of neighbouring lengths together, how far that reaches, of each alone
    smooth: float = 0.04
    reach: float = 0.7  # in ln(1 + draft length)
    rough: float = 0.03
    tokens_error: float = 0.05  # of ln tokens per step: of the prediction and of the shape
    shaped: bool = True  # False: nothing is known but that neighbours are alike


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One engine start at one draft length."""

    length: int
    log_tok_s: float
    # ln tokens per request and step by draft length: counted at its own, predicted at shorter ones
    tokens: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Belief:
    """What is believed about the curve after some starts."""

    lengths: tuple[int, ...]
    weight: Array  # of the shapes
    mean: Array  # ln tok/s by shape and length
    cover: Array  # covariance between lengths, the same for every shape

    def expected(self) -> dict[int, float]:
        """Ln tok/s by draft length."""
        return dict(zip(self.lengths, (self.weight @ self.mean).tolist(), strict=True))


@dataclass(frozen=True, kw_only=True)
class Step:
    """What to do now: start a length, or none more, and what to use until then."""

    length: int | None
    choice: int | None  # a measured length; None when nothing was measured
    worth: float  # expected rise of ln tok/s by the best further start
    why: str


def tokens_of(drafts: Drafts, length: int, lengths: Collection[int]) -> dict[int, float]:
    """Ln tokens per request and step that one start at a draft length tells about these lengths."""
    found = {k: predicted(drafts, k) for k in lengths if 0 < k <= length}
    return {k: math.log(tokens) for k, tokens in sorted(found.items()) if tokens is not None}


def climb(
    candidates: Collection[int],
    rungs: Sequence[Rung],
    *,
    model: Model | None = None,
    max_lengths: int = MAX_LENGTHS,
    max_starts: int = MAX_STARTS,
    rival: float = -math.inf,
) -> Step:
    """The next start of a ladder of draft lengths; the first one is off, where that can be started.

    `rival` is the ln tok/s of what would be used without this ladder: below it nothing is gained.
    """
    model = model or Model()
    measured = {rung.length for rung in rungs}
    lengths = tuple(sorted({*candidates, *measured}))
    if not rungs:
        first = _first(lengths)
        return Step(length=first, choice=None, worth=math.inf, why="the first of its ladder")
    belief = believe(lengths, rungs, model=model)
    expected = belief.expected()
    choice = min(measured, key=lambda k: (-expected[k], k))
    gains = worth(belief, measured, noise=model.noise, rival=rival)
    full = len(measured) >= max_lengths
    open_ = {k: gain for k, gain in gains.items() if not full or k in measured}
    best = min(open_, key=lambda k: (-open_[k], k))
    if len(rungs) >= max_starts:
        why = f"{len(rungs)} starts of {len(measured)} draft lengths were measured"
        return Step(length=None, choice=choice, worth=open_[best], why=why)
    rise = f"{100 * math.expm1(open_[best]):.2f} %"
    if open_[best] < WORTH:
        why = f"one more start would raise the choice by {rise}"
        return Step(length=None, choice=choice, worth=open_[best], why=why)
    again = "again, " if best in measured else ""
    why = f"{again}expected to raise the choice by {rise}"
    return Step(length=best, choice=choice, worth=open_[best], why=why)


def _first(lengths: tuple[int, ...]) -> int | None:
    """Off, to compare with; without it, what the shapes expect most of."""
    if not lengths or lengths[0] == 0:
        return lengths[0] if lengths else None
    gain = shapes(lengths).gain.mean(axis=0)
    return lengths[int(gain.argmax())]


def believe(lengths: Sequence[int], rungs: Sequence[Rung], *, model: Model) -> Belief:
    """The belief about these lengths.

    Raises:
        ValueError: no rung, or one at a length that is not among the lengths.
    """
    if not rungs or any(rung.length not in lengths for rung in rungs):
        raise ValueError("a belief needs measured lengths among the candidates")
    lengths = tuple(lengths)
    prior = shapes(lengths) if model.shaped else level_shape(lengths)
    starts: dict[int, list[float]] = {}
    for rung in sorted(rungs, key=lambda each: (each.length, each.log_tok_s)):
        starts.setdefault(lengths.index(rung.length), []).append(rung.log_tok_s)
    at = list(starts)
    counts = np.array([len(each) for each in starts.values()])
    values = np.array([math.fsum(each) / len(each) for each in starts.values()])
    own = _discrepancy(lengths, model)
    precision = np.linalg.inv(own[np.ix_(at, at)] + np.diag(model.noise**2 / counts))
    ones = np.ones(len(at))
    free = precision @ ones / (ones @ precision @ ones)  # the level, by least squares
    # none of the starts was slow, or one at this length was
    missed = np.vstack([np.zeros(len(at)), np.diag(-math.log1p(-model.slowness) / counts)])
    odds = np.array([1.0, *(counts * model.slow_share)])
    apart = (values + missed)[:, None, :] - prior.gain[None, :, at]
    level = apart @ free
    apart -= level[:, :, None]
    loss = 0.5 * np.einsum("hsi,ij,hsj->hs", apart, precision, apart)
    loss += _contradicted(prior, lengths, rungs, model)
    weight = (odds[:, None] * np.exp(loss.min() - loss)).ravel()
    reach = own[:, at] @ precision
    left = 1 - reach @ ones
    shaped = prior.gain[None, :, :] + level[:, :, None] + apart @ reach.T
    kept = weight > NEGLIGIBLE * weight.max()
    return Belief(
        lengths=lengths,
        weight=weight[kept] / weight[kept].sum(),
        mean=shaped.reshape(-1, len(lengths))[kept],
        cover=own - reach @ own[at, :] + np.outer(left, left) / (ones @ precision @ ones),
    )


def worth(
    belief: Belief, measured: Collection[int], *, noise: float, rival: float = -math.inf
) -> dict[int, float]:
    """By length: how much one start there is expected to raise ln tok/s of the final choice."""
    at = {length: number for number, length in enumerate(belief.lengths)}
    known = [at[length] for length in sorted(measured)]
    weight, mean = belief.weight, belief.mean
    now = max(rival, float((weight @ mean)[known].max()))
    found = {}
    for length, number in at.items():
        mine = sorted({*known, number})
        spread = math.sqrt(belief.cover[number, number] + noise**2)
        middle = weight @ mean[:, number]
        wide = math.sqrt(spread**2 + weight @ (mean[:, number] - middle) ** 2)
        apart = middle + wide * OUTCOMES[:, None] - mean[None, :, number]
        chance = weight * np.exp(-0.5 * (apart / spread) ** 2)
        pull = belief.cover[mine, number] / spread**2
        after = chance @ mean[:, mine] + (chance * apart).sum(axis=1)[:, None] * pull
        mass = chance.sum(axis=1)
        best = np.maximum(after.max(axis=1), mass * rival if rival > -math.inf else -math.inf)
        found[length] = max(0.0, float(best.sum() / mass.sum()) - now)
    return found


def _discrepancy(lengths: Sequence[int], model: Model) -> Array:
    place = np.log1p(np.asarray(lengths, dtype=np.float64))
    gap = (place[:, None] - place[None, :]) / model.reach
    alone = model.rough**2 * np.eye(len(place))
    return np.asarray(model.smooth**2 * np.exp(-0.5 * gap**2) + alone, dtype=np.float64)


def _contradicted(
    prior: Shapes, lengths: tuple[int, ...], rungs: Sequence[Rung], model: Model
) -> Array:
    """Minus the log likelihood of the acceptance counters, by shape."""
    found: dict[int, list[float]] = {}
    for rung in rungs:
        for k, value in rung.tokens.items():
            if k in lengths and k > 0:
                found.setdefault(k, []).append(value)
    loss = np.zeros(len(prior.tokens))
    for k, values in sorted(found.items()):
        apart = prior.tokens[:, lengths.index(k)] - math.fsum(values) / len(values)
        # what one run says about several lengths shares its errors: together they count as one
        loss += 0.5 * (apart / model.tokens_error) ** 2 / len(found)
    return loss
