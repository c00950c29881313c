"""P: what a search has tried for one class, what failed, and what was not tried because of it."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from profiles.knobs import Knobs
from profiles.measurement import Measurement
from tuner.cones import Cones
from tuner.leader import estimates
from tuner.objective import DEFAULT, Goals
from tuner.observation import Observation
from tuner.space import Space

Row: TypeAlias = tuple[int | None, Measurement]  # the number of its trial; None: no trial

TOP = 4  # configurations that are shown
EXAMPLES = 3  # labels of one reason not to try


@dataclass(frozen=True, kw_only=True)
class Believed:
    """A configuration that was measured, and what is believed of it after all starts."""

    label: str
    figure: float  # the shrunk mean, which the leader is chosen by, in the objective's unit
    unit: str
    deviation: float  # of that belief, relative
    best: float  # of its luckiest start
    starts: int


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A trial that gave nothing."""

    trial: int | None
    label: str
    kind: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """Configurations that were not tried, for one reason."""

    sentence: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Tried:
    """The search of one class so far."""

    starts: int = 0
    configurations: int = 0
    top: tuple[Believed, ...] = ()
    failed: tuple[Failed, ...] = ()
    excluded: tuple[Excluded, ...] = ()
    open: int | None = None  # configurations that nothing speaks against; None: space unknown
    invalid: Mapping[str, int]  # measurements that do not count, by reason


def tried(workload: str, rows: Sequence[Row], space: Space | None, goals: Goals = DEFAULT) -> Tried:
    """What the rows of a platform say about the search of one class; oldest row first."""
    mine = [(trial, row) for trial, row in rows if row.workload == workload]
    searched = [(trial, row) for trial, row in mine if row.phase == "search"]
    history = [_observation(trial, row, space, goals) for trial, row in searched]
    others = [
        _observation(trial, row, space, goals)
        for trial, row in rows
        if row.workload != workload and row.phase == "search"
    ]
    excluded = not_tried(history, others, space)
    known = {each.knobs for each in history if each.measured or each.blamed}
    points = () if space is None else space.points()
    return Tried(
        starts=len({each.start for each in history}),
        configurations=len({each.knobs for each in history}),
        top=_top(history, goals),
        failed=tuple(
            Failed(
                trial=trial,
                label=Knobs.model_validate_json(row.knobs).label(),
                kind=str(row.failure.kind),
                sentence=row.failure.sentence,
            )
            for trial, row in mine
            if row.failure is not None
        ),
        excluded=excluded,
        open=None
        if space is None
        else sum(point not in known for point in points) - sum(each.count for each in excluded),
        invalid=dict(Counter(row.invalid for _, row in mine if row.invalid is not None)),
    )


def not_tried(
    history: Sequence[Observation], elsewhere: Sequence[Observation], space: Space | None
) -> tuple[Excluded, ...]:
    """The points that crashes rule out, by reason; the reason that rules out most comes first."""
    cones = Cones.of(history, elsewhere)
    known = {each.knobs for each in history if each.measured or each.blamed}
    labels: dict[str, list[str]] = {}
    for point in () if space is None else space.points():
        reason = None if point in known else cones.excludes(point)
        if reason is not None:
            labels.setdefault(reason, []).append(point.label())
    found = [
        Excluded(sentence=reason, count=len(names), examples=tuple(names[:EXAMPLES]))
        for reason, names in labels.items()
    ]
    return tuple(sorted(found, key=lambda each: (-each.count, each.sentence)))


def _observation(
    trial: int | None, row: Measurement, space: Space | None, goals: Goals
) -> Observation:
    found = Observation.of(row, trial=trial or 0, goals=goals)
    return found if space is None else replace(found, knobs=space.start(found.knobs))


def _top(history: Sequence[Observation], goals: Goals) -> tuple[Believed, ...]:
    best: dict[Knobs, float] = {}
    for each in history:
        if each.score is not None and each.measured:
            best[each.knobs] = max(each.score, best.get(each.knobs, -math.inf))
    return tuple(
        Believed(
            label=each.knobs.label(),
            figure=goals.figure(each.score),
            unit=goals.unit,
            deviation=each.deviation,
            best=goals.figure(best[each.knobs]),
            starts=each.starts,
        )
        for each in estimates(history)[:TOP]
    )
