"""P: what throughput over draft length can look like, before anything was measured.

A shape is ln throughput against speculation off: ln tokens per step minus ln step time. A share r
of the text is easy, where the next draft token is accepted with probability e, the rest is hard,
with h; the drafter itself gets worse by a factor d at every position. A step costs
1 + s + v * k * (1 + q * k) of a step without speculation. The ranges are broad on purpose: they say
that tokens saturate and that time grows, hence one peak, and leave open where it is and how high.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SHAPES = 1024  # points of the prior; twice as many choose the same lengths
EASY, HARD = (0.5, 0.98), (0.02, 0.9)  # e and h: from a guess to a near copy
DECAY = 0.2  # 1 - d at most: a drafter trained for few positions gets lost beyond them
FIXED_COST = 0.6  # s at most: a block drafter's pass, lost graphs; small ones are likelier
TOKEN_COST = (0.004, 0.5)  # v, logarithmic: from idle compute at batch 1 to a saturated card
BEND = 0.15  # q at most: cost per token grows where verification leaves idle compute


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Equally likely shapes at the candidate draft lengths: rows are shapes."""

    tokens: Array  # ln tokens per request and step
    gain: Array  # ln throughput against speculation off


@lru_cache(maxsize=256)
def shapes(lengths: tuple[int, ...], count: int = SHAPES) -> Shapes:
    """The prior at these draft lengths; the same for the same lengths."""
    r, e, h, d, s, v, q = _spread(count, 7)
    easy = EASY[0] + (EASY[1] - EASY[0]) * e
    hard = HARD[0] + (HARD[1] - HARD[0]) * h
    decay = 1 - DECAY * d**2
    fixed = FIXED_COST * s**2
    token = TOKEN_COST[0] * (TOKEN_COST[1] / TOKEN_COST[0]) ** v
    bend = BEND * q**2
    j = np.arange(1, max(lengths, default=0) + 1)
    mixed = r[:, None] * easy[:, None] ** j + (1 - r[:, None]) * hard[:, None] ** j
    survival = mixed * decay[:, None] ** (j * (j - 1) / 2)
    per_step = np.concatenate([np.ones((count, 1)), 1 + np.cumsum(survival, axis=1)], axis=1)
    k = np.asarray(lengths, dtype=np.float64)[None, :]
    seconds = 1 + (k > 0) * fixed[:, None] + token[:, None] * k * (1 + bend[:, None] * k)
    tokens = np.log(per_step[:, list(lengths)])
    return Shapes(tokens=tokens, gain=tokens - np.log(seconds))


def _spread(count: int, dimensions: int) -> Array:
    """Points that fill a unit cube evenly, one row per dimension: no random number is needed."""
    root = 2.0  # the generalised golden ratio: root^(n+1) = root + 1
    for _ in range(64):
        root = (1 + root) ** (1 / (dimensions + 1))
    steps = root ** -np.arange(1, dimensions + 1)
    points: Any = 0.5 + np.arange(1, count + 1)[None, :] * steps[:, None]
    return np.asarray(points % 1.0, dtype=np.float64)
