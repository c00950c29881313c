"""P: shorter drafts for some classes of a mixed batch.

The whole batch has one draft length k, but the scheduler may verify less of a class's drafts. With
shares q_c of the requests, tokens A_c(l) of a class verified to l, and a step of a + g * (verified
tokens per request) seconds, the limits l_c <= k maximise

    sum q_c A_c(l_c) / (a + g * sum q_c (l_c + 1))

which is a ratio of sums over classes, so Dinkelbach's iteration solves it exactly: for a goodput R
each class takes the l with the most A_c(l) - R g (l + 1), and R is what that gives. Trimming saves
verifying, not drafting, so where drafting costs much g is too high and the proposal too short: it
is a question for a race, never an answer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tuner.buckets import bucket
from tuner.cells import Cells
from tuner.drafts import ByLength, pooled, predicted

LEAST_GAIN = 0.03  # expected, below which no race is worth its visits
LEAST_STEPS = 300  # request-steps of a class before its acceptance means anything
ITERATIONS = 50


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Longest verified draft by class code; classes that are not named keep the batch's length."""

    longest: Mapping[int, int] = field(default_factory=dict)
    gain: float = 0.0  # expected against none, as a fraction


NONE = Limits()


@dataclass(frozen=True, kw_only=True)
class Line:
    """Seconds of a step by verified tokens of one request: base + slope * tokens."""

    base: float
    slope: float


def proposed(by_class: Mapping[int, ByLength], times: Cells, k: int, batch: int) -> Limits:
    """The limits that promise most at this draft length and batch size; none when little."""
    steps = {
        code: sum(drafts.request_steps for drafts in lengths.values())
        for code, lengths in by_class.items()
    }
    known = {code: n for code, n in steps.items() if n >= LEAST_STEPS}
    line = step_line(times, bucket(batch))
    if len(known) < 2 or k == 0 or line is None:
        return NONE
    whole = sum(known.values())
    shares = {code: n / whole for code, n in known.items()}
    tables = {code: _tokens(by_class[code], k) for code in shares}
    if any(len(table) <= k for table in tables.values()):
        return NONE
    everything = dict.fromkeys(shares, k)
    plain = _goodput(everything, shares, tables, line)
    rate, chosen = plain, everything
    for _ in range(ITERATIONS):
        price = rate * line.slope
        chosen = {code: _longest(table[: k + 1], price) for code, table in tables.items()}
        found = _goodput(chosen, shares, tables, line)
        if found <= rate * (1 + 1e-9):
            break
        rate = found
    gain = rate / plain - 1
    longest = {code: limit for code, limit in chosen.items() if limit < k}
    return Limits(longest=longest, gain=gain) if longest and gain >= LEAST_GAIN else NONE


def step_line(times: Cells, number: int) -> Line | None:
    """Least squares through the mean step times of a bucket; None when longer is not slower."""
    by_length: dict[int, list[float]] = {}
    for (batch, k), cell in times.items():
        if bucket(batch) == number and cell.step_s:
            by_length.setdefault(k, []).append(cell.step_s)
    points = [(k + 1, sum(found) / len(found)) for k, found in by_length.items() if k]
    if len(points) < 2:
        return None
    middle = sum(x for x, _ in points) / len(points)
    height = sum(y for _, y in points) / len(points)
    width = math.fsum((x - middle) ** 2 for x, _ in points)
    slope = math.fsum((x - middle) * (y - height) for x, y in points) / width
    base = height - slope * middle
    return Line(base=base, slope=slope) if slope > 0 and base > 0 else None


def grown(old: Mapping[int, ByLength], more: Mapping[int, ByLength]) -> dict[int, ByLength]:
    """Drafts by class, added up."""
    return {code: pooled([old.get(code, {}), more.get(code, {})]) for code in {*old, *more}}


def _tokens(lengths: ByLength, k: int) -> list[float]:
    """Tokens of a class by how far its drafts are verified, from 0 as far as is known."""
    found = [1.0]
    for limit in range(1, k + 1):
        longer = [
            (drafts.request_steps, tokens)
            for length, drafts in lengths.items()
            if length >= limit and (tokens := predicted(drafts, limit)) is not None
        ]
        if not longer:
            break
        weight = sum(steps for steps, _ in longer)
        found.append(math.fsum(steps * tokens for steps, tokens in longer) / weight)
    return found


def _longest(table: Sequence[float], price: float) -> int:
    """The limit with the most tokens at a price per verified token, the shortest of equals."""
    worth = [tokens - price * (limit + 1) for limit, tokens in enumerate(table)]
    return worth.index(max(worth))


def _goodput(
    limits: Mapping[int, int],
    shares: Mapping[int, float],
    tables: Mapping[int, list[float]],
    line: Line,
) -> float:
    tokens = math.fsum(share * tables[code][limits[code]] for code, share in shares.items())
    verified = math.fsum(share * (limits[code] + 1) for code, share in shares.items())
    return tokens / (line.base + line.slope * verified)
