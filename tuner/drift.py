"""P: whether the traffic or the machine has moved away from what a schedule was decided on.

Two figures of the schedule in force are compared with those recorded at the decision, at equal
batch size and draft length: acceptance length (tokens per request and step) and seconds per step.
A figure has moved when, over the last `windows` windows, the median of its log ratios lies beyond
`move` and their always-valid interval (`tuner.compare`) excludes zero. The median outvotes single
windows; the interval keeps a wide scatter from passing as a move; alpha is small because every new
window is another look at a sliding stretch, which the interval alone does not cover.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tuner.cells import Cell, Cells
from tuner.compare import interval


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What counts as a move; gains as fractions."""

    move: float = 0.10
    windows: int = 8
    alpha: float = 0.002
    min_steps: int = 20  # common steps that make a window


DEFAULT = Rules()


@dataclass(frozen=True, kw_only=True)
class _Figure:
    name: str
    read: Callable[[Cell, int], float | None]  # cell, batch size
    written: Callable[[float], str]


def _acceptance(cell: Cell, batch: int) -> float | None:
    tokens = cell.tokens_per_step
    return tokens / batch if tokens and batch > 0 else None


def _step(cell: Cell, batch: int) -> float | None:
    del batch
    return cell.step_s or None


ACCEPTANCE = _Figure(name="acceptance length", read=_acceptance, written="{:.1f}".format)
STEP = _Figure(name="step time", read=_step, written=lambda value: f"{1000 * value:.1f} ms")


def moved(reference: Cells, windows: Sequence[Cells], rules: Rules = DEFAULT) -> str | None:
    """What moved since the reference was recorded, as a sentence; None when nothing did.

    Windows come oldest first and begin after the reference; only the last ones count.
    """
    for figure in (ACCEPTANCE, STEP):
        found = [seen for window in windows if (seen := _ratio(figure, reference, window, rules))]
        last = found[-rules.windows :]
        if len(last) < rules.windows:
            continue
        ratios = [ratio for ratio, _ in last]
        middle = statistics.median(ratios)
        within = interval(ratios, alpha=rules.alpha)
        # 10 % up and 10 % down are the same distance: ln 1.1
        if abs(middle) > math.log1p(rules.move) and (within.low > 0 or within.high < 0):
            before = statistics.median([value for _, value in last])
            verb = "fell" if middle < 0 else "rose"
            then, now = figure.written(before), figure.written(before * math.exp(middle))
            return f"{figure.name} {verb} from {then} to {now}"
    return None


def _ratio(
    figure: _Figure, reference: Cells, window: Cells, rules: Rules
) -> tuple[float, float] | None:
    """The mean log ratio at common cells, and what the reference was there."""
    weight, ratio, before = 0, 0.0, 0.0
    for key, cell in window.items():
        then = figure.read(reference[key], key[0]) if key in reference else None
        now = figure.read(cell, key[0])
        if then and now:
            # a rich cell of the window must not lean on a reference of a few steps
            steps = min(cell.steps, reference[key].steps)
            weight += steps
            ratio += steps * math.log(now / then)
            before += steps * math.log(then)
    if weight < max(1, rules.min_steps):
        return None
    return ratio / weight, math.exp(before / weight)
