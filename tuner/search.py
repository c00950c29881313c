"""The next configuration to start: a function of the rows alone, so that a search resumes anywhere.

`kill -9` at any point loses at most the trial in flight: the same rows and seed give the same
suggestion.
"""

import hashlib
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from profiles.knobs import Knobs
from tuner.cones import Cones
from tuner.design import Start
from tuner.ladder import MAX_STARTS
from tuner.ladders import ladders, next_rung, only_lengths
from tuner.leader import TIE, estimates, noise, scores
from tuner.observation import Observation, failed_starts
from tuner.space import Space
from tuner.study import Row, suggest

MAX_ATTEMPTS = 3  # of one configuration whose starts say nothing about it
PATIENCE = 8  # trials without an improvement above the noise, from trial 12 on
PATIENCE_FROM = 12
ALIVE = "alive"  # constraint: +1 for a crash


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a search may cost, in engine starts."""

    trials: int
    failures: int


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """The next configuration to start, and why."""

    knobs: Knobs
    why: str
    workload: str | None = None  # the class it was chosen for; the start serves all of them


@dataclass(frozen=True, kw_only=True)
class Stop:
    """The search is over."""

    reason: str


def next_candidate(
    history: Sequence[Observation],
    space: Space,
    design: Sequence[Start],
    *,
    seed: int,
    budget: Budget,
    elsewhere: Sequence[Observation] = (),
    gaussian: bool | None = None,
) -> Candidate | Stop:
    """The next start of one class; `elsewhere` are rows of other classes, used for crashes only.

    `gaussian` is for choosing the sampler by hand; None takes the best that is installed.
    """
    reason = _finished(history, budget)
    if reason is not None:
        return Stop(reason=reason)
    cones = Cones.of(history, elsewhere)
    attempts = Counter(row.knobs for row in history)
    measured = {row.knobs for row in history if row.measured or row.breaks}
    allowed = {
        point: None
        for point in space.points()
        if point not in measured
        and attempts[point] < MAX_ATTEMPTS
        and cones.excludes(point) is None
    }
    if failed_starts(history) >= budget.failures:
        good = list(scores(history))
        allowed = {
            point: None for point in allowed if any(space.adjacent(point, one) for one in good)
        }
    if not allowed:
        return Stop(reason=_exhausted(history, space, budget))
    anchors = [start for start in design if start.anchor]
    found = _designed(history, anchors, allowed, attempts) or _climbed(
        history, space, allowed, budget
    )
    if found is not None:
        return found
    designed = _designed(history, design, allowed, attempts)
    if designed is not None:
        return designed
    return _modelled(
        history, space, allowed, seed=seed, crashes=bool(cones.failures), gaussian=gaussian
    )


def next_for_classes(
    histories: Mapping[str, Sequence[Observation]],
    space: Space,
    design: Sequence[Start],
    *,
    seed: int,
    budget: Budget,
) -> Candidate | Stop:
    """The next start when every start is measured for several classes: they choose in turn."""
    names = sorted(histories)
    starts = len({row.start for rows in histories.values() for row in rows})
    turn = starts % len(names) if names else 0
    reasons: dict[str, str] = {}
    for name in names[turn:] + names[:turn]:
        others = [row for other in names if other != name for row in histories[other]]
        found = next_candidate(
            histories[name], space, design, seed=seed, budget=budget, elsewhere=others
        )
        if isinstance(found, Candidate):
            return replace(found, workload=name)
        reasons[name] = found.reason
    if not reasons:
        return Stop(reason="no class to search for")
    if len(set(reasons.values())) == 1:
        return Stop(reason=next(iter(reasons.values())))
    return Stop(reason="; ".join(f"{name}: {reasons[name]}" for name in names))


def _climbed(
    history: Sequence[Observation], space: Space, allowed: Mapping[Knobs, None], budget: Budget
) -> Candidate | Stop | None:
    """The next start on a ladder; the end where nothing but draft lengths is searched."""
    alone = only_lengths(space)
    # half of the budget where there are other knobs to search
    starts = MAX_STARTS if alone else min(MAX_STARTS, max(2, budget.trials // 2))
    rung = next_rung(history, space, allowed, max_starts=starts)
    if rung is not None:
        return Candidate(knobs=rung.knobs, why=rung.why)
    if alone and ladders(space) and any(row.measured for row in history):
        return Stop(reason="no other draft length is expected to be worth a start")
    return None


def _finished(history: Sequence[Observation], budget: Budget) -> str | None:
    starts = len({row.start for row in history})
    spent = len({row.start for row in history if row.conclusive})
    failed = failed_starts(history)
    if spent >= budget.trials:
        return f"all {budget.trials} trials of the budget are spent"
    if starts >= MAX_ATTEMPTS * budget.trials:
        return f"{starts - spent} of {starts} starts were interrupted or invalid"
    if failed >= 2 * budget.failures:
        return f"{failed} starts failed, the last ones next to configurations that worked"
    if _settled(history):
        return "the three best are within 1 % of each other and each was measured twice"
    if _stalled(history):
        return f"no improvement above the noise in the last {PATIENCE} trials"
    return None


def _settled(history: Sequence[Observation]) -> bool:
    top = estimates(history)[:3]
    return (
        len(top) == 3
        and all(each.starts > 1 for each in top)
        and top[0].score - top[2].score <= TIE
    )


def _stalled(history: Sequence[Observation]) -> bool:
    told = [row for row in history if row.conclusive]
    good = [
        [row.score for row in part if row.feasible and row.score is not None]
        for part in (told[:-PATIENCE], told[-PATIENCE:])
    ]
    if len(told) < PATIENCE_FROM + PATIENCE or not good[0]:
        return False
    return max(good[1], default=-float("inf")) <= max(good[0]) + noise(history)


def _exhausted(history: Sequence[Observation], space: Space, budget: Budget) -> str:
    failed = failed_starts(history)
    if failed >= budget.failures and not scores(history):
        return f"{failed} starts failed and none worked"
    if failed >= budget.failures:
        return f"{failed} starts failed and every neighbour of what works was tried"
    return f"all {len(space.points())} configurations were tried or are known to fail"


def _designed(
    history: Sequence[Observation],
    design: Sequence[Start],
    allowed: Mapping[Knobs, None],
    attempts: Mapping[Knobs, int],
) -> Candidate | None:
    pending = [start for start in design if start.knobs in allowed]
    if not pending:
        return None
    # the default again at once, because all is compared with it; the others after fresh ones
    first = min(pending, key=lambda s: (s.knobs != design[0].knobs, attempts[s.knobs]))
    if attempts[first.knobs] == 0:
        return Candidate(knobs=first.knobs, why=first.why)
    last = max(row.trial for row in history if row.knobs == first.knobs)
    return Candidate(
        knobs=first.knobs, why=f"{first.why}; once more, trial {last} may say nothing about it"
    )


def _modelled(
    history: Sequence[Observation],
    space: Space,
    allowed: Mapping[Knobs, None],
    *,
    seed: int,
    crashes: bool,
    gaussian: bool | None,
) -> Candidate:
    told = [row for row in history if space.contains(row.knobs) and row.conclusive]
    mixed = int.from_bytes(hashlib.sha256(f"{seed}:{len(history)}".encode()).digest()[:4])
    if len(allowed) == 1:
        return Candidate(knobs=next(iter(allowed)), why="the last one that was not tried")
    if not any(row.measured for row in told):
        return Candidate(knobs=_drawn(allowed, mixed), why="drawn at random: nothing worked yet")
    rows = _rows(told, alive=crashes or space.ragged)
    found = suggest(space, rows, seed=mixed, refuse=_refusal(rows, allowed), gaussian=gaussian)
    if not found.settled:
        return Candidate(
            knobs=found.knobs, why=f"the model expects most of it after {len(told)} trials"
        )
    if not space.contains(found.knobs):
        return Candidate(knobs=_drawn(allowed, mixed), why="drawn at random: the model is stuck")
    nearest = min(allowed, key=lambda point: space.distance(point, found.knobs))
    return Candidate(
        knobs=nearest, why=f"the model's best is {found.knobs.label()}; this is next to it"
    )


def _drawn(allowed: Mapping[Knobs, None], seed: int) -> Knobs:
    """A seeded draw that does not depend on the order of the points."""
    return min(
        allowed, key=lambda point: hashlib.sha256(f"{seed}:{point.canonical()}".encode()).digest()
    )


def _rows(told: Sequence[Observation], *, alive: bool) -> list[Row]:
    """What Optuna is told: a crash has the worst feasible value and a broken constraint."""
    values = [row.score for row in told if row.feasible and row.score is not None]
    worst = min(values or [row.score for row in told if row.score is not None])
    seen: dict[str, list[float]] = {}
    for row in told:
        for name, margin in row.limits.items():
            seen.setdefault(name, []).append(margin)
    # a limit that nobody breaks would cost a Gaussian process and say nothing
    neutral = {n: statistics.median(m) for n, m in sorted(seen.items()) if max(m) > 0}
    rows = []
    for row in told:
        constraints = {name: row.limits.get(name, middle) for name, middle in neutral.items()}
        if alive:
            constraints[ALIVE] = 1.0 if row.blamed else -1.0
        measured = row.measured and row.score is not None
        value = row.score if measured and row.score is not None else worst
        rows.append(Row(knobs=row.knobs, value=value, constraints=constraints))
    return rows


def _refusal(
    rows: Sequence[Row], allowed: Mapping[Knobs, None]
) -> Callable[[Knobs], tuple[float, Mapping[str, float]] | None]:
    worst = min(row.value for row in rows)
    broken = {name: 1.0 if name == ALIVE else 0.0 for name in rows[0].constraints}

    def refuse(knobs: Knobs) -> tuple[float, Mapping[str, float]] | None:
        if knobs in allowed:
            return None
        known = [row for row in rows if row.knobs == knobs]
        if known:  # told again as it was: the model learns nothing is left to learn there
            value = statistics.fmean(row.value for row in known)
            return value, known[0].constraints
        return worst, broken

    return refuse
