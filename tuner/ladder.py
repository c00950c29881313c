"""P: which draft length to start next, and which of the measured ones to use.

The belief about the curve is a mixture. Most of it are the shapes of tuner/shapes.py, each with a
small normal discrepancy, because no real curve has exactly such a shape; the rest knows only
that neighbouring lengths are alike. Few starts are read by the shapes; where a curve has none of
them, the starts themselves say so. Every start is an observation with noise; the level is free.
Acceptance counters are evidence about tokens per step, with their error: they bend the prior, and
what is chosen was measured. The next start is the one that is expected to raise the throughput of
the final choice most (knowledge gradient); that may be a second start of a measured length.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tuner.drafts import Drafts, predicted
from tuner.shapes import Array, Shapes, shapes

MAX_LENGTHS, MAX_STARTS = 4, 8  # of one ladder
WORTH = 0.0002  # expected rise of ln tok/s below which one more start is not made
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
    shaped: float = 0.8  # belief that the curve is near one of the shapes
    unshaped: float = 0.3  # departure, of neighbouring lengths together, where it is not


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One engine start at one draft length."""

    length: int
    score: float
    # ln tokens per request and step by draft length: counted at its own, predicted at shorter ones
    tokens: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Belief:
    """What is believed about the curve after some starts."""

    lengths: tuple[int, ...]
    weight: Array  # of every shape
    mean: Array  # ln tok/s by shape and length
    part: NDArray[np.int64]  # of every shape: its covariance
    covers: Array  # covariances between lengths

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
    known = shapes(lengths)
    told = _contradicted(known, lengths, rungs, model)
    # what the counters say is no reason to leave the shapes or to stay
    all_told = np.array([-math.log(np.exp(told.min() - told).mean()) + told.min()])
    parts = [
        _part(rungs, model, lengths, known.gain, model.smooth, told),
        _part(rungs, model, lengths, np.zeros((1, len(lengths))), model.unshaped, all_told),
    ]
    odds = (model.shaped, 1 - model.shaped)
    least = min(loss.min() for loss, *_ in parts)
    weights = [
        share * np.exp(least - loss) / len(loss)
        for share, (loss, *_) in zip(odds, parts, strict=True)
    ]
    weight = np.concatenate(weights)
    part = np.repeat([0, 1], [len(each) for each in weights])
    kept = weight > NEGLIGIBLE * weight.max()
    return Belief(
        lengths=lengths,
        weight=weight[kept] / weight[kept].sum(),
        mean=np.concatenate([mean for _, mean, _ in parts])[kept],
        part=part[kept],
        covers=np.stack([cover for *_, cover in parts]),
    )


def _part(
    rungs: Sequence[Rung],
    model: Model,
    lengths: tuple[int, ...],
    gain: Array,
    smooth: float,
    told: Array,
) -> tuple[Array, Array, Array]:
    """Minus the log likelihood, the means by shape, and the covariance, of one half."""
    starts: dict[int, list[float]] = {}
    for rung in sorted(rungs, key=lambda each: (each.length, each.score)):
        starts.setdefault(lengths.index(rung.length), []).append(rung.score)
    at = list(starts)
    counts = np.array([len(each) for each in starts.values()])
    values = np.array([math.fsum(each) / len(each) for each in starts.values()])
    own = _discrepancy(lengths, model, smooth)
    seen = own[np.ix_(at, at)] + np.diag(model.noise**2 / counts)
    precision = np.linalg.inv(seen)
    ones = np.ones(len(at))
    certain = float(ones @ precision @ ones)
    # none of the starts was slow, or one at this length was
    missed = np.vstack([np.zeros(len(at)), np.diag(-math.log1p(-model.slowness) / counts)])
    odds = np.array([1.0, *(counts * max(model.slow_share, 1e-12))])
    apart = (values + missed)[:, None, :] - gain[None, :, at]
    level = apart @ precision @ ones / certain  # by least squares
    apart = apart - level[:, :, None]
    loss = 0.5 * np.einsum("asi,ij,asj->as", apart, precision, apart) + told
    loss += 0.5 * (np.linalg.slogdet(seen)[1] + math.log(certain)) - np.log(odds)[:, None]
    reach = own[:, at] @ precision
    left = 1 - reach @ ones
    mean = gain[None, :, :] + level[:, :, None] + apart @ reach.T
    cover = own - reach @ own[at, :] + np.outer(left, left) / certain
    # a shape is as likely before as any other, however often it is here as a slow start
    return loss.ravel() + math.log(1 / len(odds)), mean.reshape(-1, len(lengths)), cover


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
        spread = np.sqrt(belief.covers[:, number, number] + noise**2)[belief.part]
        middle = weight @ mean[:, number]
        wide = math.sqrt(weight @ (spread**2 + (mean[:, number] - middle) ** 2))
        apart = middle + wide * OUTCOMES[:, None] - mean[None, :, number]
        chance = weight / spread * np.exp(-0.5 * (apart / spread) ** 2)
        pull = belief.covers[:, mine, number][belief.part] / spread[:, None] ** 2
        after = (chance @ mean[:, mine] + (chance * apart) @ pull).max(axis=1)
        mass = chance.sum(axis=1)
        if rival > -math.inf:
            after = np.maximum(after, mass * rival)
        found[length] = max(0.0, float(after.sum() / mass.sum()) - now)
    return found


def _discrepancy(lengths: Sequence[int], model: Model, smooth: float) -> Array:
    place = np.log1p(np.asarray(lengths, dtype=np.float64))
    gap = (place[:, None] - place[None, :]) / model.reach
    alone = model.rough**2 * np.eye(len(place))
    return np.asarray(smooth**2 * np.exp(-0.5 * gap**2) + alone, dtype=np.float64)


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
