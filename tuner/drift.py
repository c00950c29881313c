"""P: whether the traffic or the machine has moved away from what a schedule was decided on.

Acceptance: tokens per request and step in the last 1, 2, 4, ... windows against what the decision
knew about the same draft length, and against the windows before them. With their standard errors
(tuner/blend.py) that is a z value; it must exceed `alarm`, and the ratio must exceed `move`. The
errors assume that a few neighbouring steps resemble each other; where whole requests differ,
windows scatter more than that, so the scatter of the older windows widens the error by as much as
it was seen to be too small.

Step time: over the last `windows` stretches of at least `min_steps` steps, at equal batch size and
draft length, the median log ratio to the oldest windows must exceed `step_move` and the
always-valid interval (`tuner.compare`) exclude zero: a slow neighbour is no drift until it stays.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tuner.blend import Belief, sampled, tokens_per_step
from tuner.cells import Cells
from tuner.compare import interval
from tuner.stretch import Stretch, joined

SPANS = (1, 2, 4, 8, 16)  # windows
BASE = 16  # windows whose step times are those of the decision
PRIOR_WINDOWS = 10  # that count as scattering as expected, before any was seen


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What counts as a move; gains as fractions."""

    move: float = 0.10
    alarm: float = 4.0  # z
    # a machine that is slower for every length changes no choice; only large moves are looked into
    step_move: float = 0.20
    windows: int = 8
    alpha: float = 0.002  # every new window is another look at a sliding stretch
    min_steps: int = 20  # common steps that make a stretch for step times


DEFAULT = Rules()


@dataclass(frozen=True, kw_only=True)
class Move:
    """What has moved."""

    figure: str  # "acceptance length" or "step time"
    sentence: str
    windows: int  # so many of the last windows are of the new kind


def moved(
    reference: Stretch,
    windows: Sequence[Stretch],
    *,
    prediction_error: float,
    rules: Rules = DEFAULT,
) -> Move | None:
    """What moved since the reference was recorded; None when nothing did.

    Windows come oldest first and begin after the reference.
    """
    move = _acceptance(reference, windows, prediction_error, rules)
    if move is None and len(windows) >= 2 * SPANS[-1]:
        # a decision may have been made while the text changed: then only its windows tell
        older, recent = windows[: -SPANS[-1]], windows[-SPANS[-1] :]
        move = _acceptance(joined(older), recent, prediction_error, rules)
    if move is None and len(windows) > BASE:
        # visits are too few and too short to say what a step takes in the long run
        move = _step_time(joined(windows[:BASE]), windows[BASE:], rules)
    return move


def _acceptance(
    reference: Stretch, windows: Sequence[Stretch], prediction_error: float, rules: Rules
) -> Move | None:
    known = {
        k: belief
        for k in {k for window in windows for k in window.drafts if k}
        if (belief := tokens_per_step(k, reference.cells, reference.drafts, prediction_error))
    }
    gaps = [_gap(known, window) for window in windows]
    for span in SPANS:
        if span > len(windows):
            break
        recent = _gap(known, joined(windows[-span:]))
        if recent is None:
            continue
        older = [gap.mean / gap.deviation for gap in gaps[:-span] if gap is not None]
        scatter = (sum(z * z for z in older) + PRIOR_WINDOWS) / (len(older) + PRIOR_WINDOWS)
        z = recent.mean / (recent.deviation * math.sqrt(max(scatter, 1.0)))
        if abs(z) > rules.alarm and abs(recent.mean) > math.log1p(rules.move):
            used = [k for k in joined(windows[-span:]).drafts if k in known]
            before = statistics.fmean(math.exp(known[k].mean) for k in used)
            verb = "fell" if recent.mean < 0 else "rose"
            now = before * math.exp(recent.mean)
            sentence = f"acceptance length {verb} from {before:.1f} to {now:.1f}"
            return Move(figure="acceptance length", sentence=sentence, windows=span)
    return None


def _gap(known: dict[int, Belief], window: Stretch) -> Belief | None:
    """Ln tokens per request and step less what was known, over the lengths in the window."""
    weight, mean, variance = 0, 0.0, 0.0
    for k, drafts in window.drafts.items():
        now = sampled(drafts)
        if k not in known or now is None:
            continue
        weight += drafts.request_steps
        mean += drafts.request_steps * (now.mean - known[k].mean)
        # what was known about two lengths comes from the same drafts: errors add up
        variance += drafts.request_steps * (now.deviation**2 + known[k].deviation ** 2)
    if not weight:
        return None
    return Belief(mean=mean / weight, deviation=math.sqrt(variance / weight))


def _step_time(reference: Stretch, windows: Sequence[Stretch], rules: Rules) -> Move | None:
    found: list[tuple[float, float]] = []
    waiting: list[Stretch] = []
    for window in reversed(windows):  # the newest must not wait for a partner
        waiting.append(window)
        seen = _ratio(reference.cells, joined(waiting).cells, rules)
        if seen is not None:
            found.append(seen)
            waiting = []
        if len(found) == rules.windows:
            break
    else:
        return None
    ratios = [ratio for ratio, _ in found]
    middle = statistics.median(ratios)
    within = interval(ratios, alpha=rules.alpha)
    # 20 % up and 20 % down are the same distance: ln 1.2
    if abs(middle) <= math.log1p(rules.step_move) or within.low <= 0 <= within.high:
        return None
    before = statistics.median([value for _, value in found])
    verb, now = ("fell" if middle < 0 else "rose"), before * math.exp(middle)
    sentence = f"step time {verb} from {1000 * before:.1f} ms to {1000 * now:.1f} ms"
    return Move(figure="step time", sentence=sentence, windows=rules.windows)


def _ratio(reference: Cells, window: Cells, rules: Rules) -> tuple[float, float] | None:
    """The mean log ratio of step times at common cells, and what the reference was there."""
    weight, ratio, before = 0, 0.0, 0.0
    for key, cell in window.items():
        then = reference[key].step_s if key in reference else None
        if then and cell.step_s:
            # a rich cell of the window must not lean on a reference of a few steps
            steps = min(cell.steps, reference[key].steps)
            weight += steps
            ratio += steps * math.log(cell.step_s / then)
            before += steps * math.log(then)
    if weight < max(1, rules.min_steps):
        return None
    return ratio / weight, math.exp(before / weight)
