"""P: the ladders of a search space: a drafter's draft lengths, at the default's other knobs."""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence

from profiles.knobs import Knobs
from tuner.design import Start
from tuner.ladder import MAX_LENGTHS, MAX_STARTS, Model, Rung, Step, climb, tokens_of
from tuner.leader import noise, scores
from tuner.observation import Observation
from tuner.space import Space

SPECULATION = {"drafter", "draft_length"}  # axes that a ladder is about


def ladders(space: Space) -> dict[str, dict[int, Knobs]]:
    """By drafter its points by draft length, off included; none where lengths are learned live."""
    here = _elsewhere(space, space.start(space.default))
    near = [point for point in space.points() if _elsewhere(space, point) == here]
    found = {
        name: {p.draft_tokens: p for p in near if p.drafter in {name, None} and not p.live}
        for name in space.drafters
        if name not in space.live
    }
    return {name: dict(sorted(points.items())) for name, points in found.items() if points}


def only_lengths(space: Space) -> bool:
    """Whether there is nothing to search but drafters and draft lengths."""
    return {axis.name for axis in space.axes} <= SPECULATION


def next_rung(
    history: Sequence[Observation],
    space: Space,
    allowed: Collection[Knobs],
    *,
    max_starts: int = MAX_STARTS,
) -> Start | None:
    """The start that is worth most on any ladder; None when none is worth its time.

    A length may come a second time: one lucky start must not decide between neighbours. One that
    failed comes again only when the others have been tried.
    """
    good = scores(history)
    means = {knobs: statistics.fmean(values) for knobs, values in good.items()}
    failed = {row.knobs for row in history if row.blamed}
    model = Model(noise=noise(history))
    found = ladders(space)
    for refused in (failed, set[Knobs]()):
        steps: dict[str, Step] = {}
        for name, points in found.items():
            lengths = {
                k for k, p in points.items() if p in good or (p in allowed and p not in refused)
            }
            steps[name] = climb(
                lengths,
                _rungs(history, {p: k for k, p in points.items() if p in good}),
                model=model,
                max_lengths=MAX_LENGTHS,
                max_starts=max_starts,
                rival=max(
                    (mean for knobs, mean in means.items() if knobs not in points.values()),
                    default=-math.inf,
                ),
            )
        open_ = {name: step for name, step in steps.items() if step.length is not None}
        if open_:
            name = min(open_, key=lambda each: (-open_[each].worth, each))
            knobs = found[name][open_[name].length or 0]
            return Start(knobs=knobs, why=f"draft lengths of {name}: {open_[name].why}")
    return None


def _rungs(history: Sequence[Observation], lengths: Mapping[Knobs, int]) -> list[Rung]:
    return [
        Rung(
            length=lengths[row.knobs],
            score=row.score,
            tokens={}
            if row.drafts is None
            else tokens_of(row.drafts, lengths[row.knobs], lengths.values()),
        )
        for row in history
        if row.score is not None and row.measured and row.knobs in lengths
    ]


def _elsewhere(space: Space, knobs: Knobs) -> dict[str, int | str]:
    """Coordinates on the other axes."""
    return {name: at for name, at in space.encode(knobs).items() if name not in SPECULATION}
