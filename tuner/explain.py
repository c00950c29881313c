"""P: why a class runs what it runs: rows of the store in, a typed explanation out.

Nothing is decided here. The decision was made by `tuner.promotion` and stands in the store; this
reads back what it was made of, and says what would change it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from profiles import schedule
from profiles.knobs import Knobs
from profiles.profile import Profile
from profiles.records import Promotion, Quarantine
from tuner.noise import Noise, noise
from tuner.objective import DEFAULT, Goals
from tuner.power import MOST_PAIRS, pairs_needed
from tuner.proof import Proof, proof
from tuner.space import Space
from tuner.tried import Row, Tried, tried


class State(StrEnum):
    """Where the decision about a class stands."""

    UNTRIED = "untried"
    OPEN = "open"  # measured, no verdict yet
    PROMOTED = "promoted"
    BARRED = "barred"  # promoted, then quarantined
    KEPT = "kept"  # a search and its promotion left the default where it is


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A draft length that the live loop found for the class, or for a mixture with it."""

    sentence: str
    at: float | None  # None: still learning


@dataclass(frozen=True, kw_only=True)
class Bar:
    """Something that is watched or barred for a time."""

    kind: str  # "probation" or "quarantine"
    sentence: str
    until: float | None  # seconds since the epoch; None: until it is released


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the store and the daemon know."""

    workload: str
    rows: Sequence[Row]  # of the platform, all classes, oldest first
    promotion: Promotion | None  # the latest decision about the class
    profile: Profile | None  # of that decision
    default: Knobs  # the operator's own
    pairs: int  # of a promotion, as configured
    min_gain: float
    goals: Goals = DEFAULT  # what is asked for now
    quarantined: Sequence[Quarantine] = ()  # now, of the platform
    space: Space | None = None  # None: not known now
    probation: Bar | None = None
    mixtures: Sequence[Learned] = ()  # of the running engine


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Everything behind the decision about one class."""

    workload: str
    state: State
    sentence: str  # the answer in one line
    decided_at: float | None
    profile: str | None  # id
    label: str  # of what the class runs
    tried: Tried
    proof: Proof | None
    noise: Noise
    learned: tuple[Learned, ...]
    bars: tuple[Bar, ...]
    change: tuple[str, ...]  # what would change the decision


def explain(facts: Facts) -> Explanation:
    """Why one class runs what it runs."""
    mine = [row for _, row in facts.rows if row.workload == facts.workload]
    found = tried(facts.workload, facts.rows, facts.space, facts.goals)
    profile, promotion = facts.profile, facts.promotion
    bars = _bars(facts)
    barred = profile is not None and any(
        each.knobs == profile.knobs.digest() for each in facts.quarantined
    )
    state = _state(found, promotion, barred=barred)
    pairs = (
        None
        if promotion is None or profile is None
        else proof(mine, promotion, profile.knobs, facts.default, facts.goals)
    )
    level = noise(
        [row for _, row in facts.rows],
        facts.workload,
        facts.default.canonical(),
        pairs=facts.pairs,
        min_gain=facts.min_gain,
    )
    runs = profile.knobs if profile is not None and state is State.PROMOTED else facts.default
    return Explanation(
        workload=facts.workload,
        state=state,
        sentence=_sentence(state, facts, found),
        decided_at=None if promotion is None else promotion.at,
        profile=None if profile is None else profile.id,
        label=runs.label(),
        tried=found,
        proof=pairs,
        noise=level,
        learned=_learned(facts),
        bars=bars,
        change=tuple(_changes(state, facts, found, pairs, level)),
    )


def _state(found: Tried, promotion: Promotion | None, *, barred: bool) -> State:
    if promotion is None:
        return State.OPEN if found.starts else State.UNTRIED
    if promotion.kept_default:
        return State.KEPT
    return State.BARRED if barred else State.PROMOTED


def _sentence(state: State, facts: Facts, found: Tried) -> str:
    said = "" if facts.promotion is None else facts.promotion.sentence
    match state:
        case State.UNTRIED:
            return "nothing was searched for it yet, so it runs your own configuration"
        case State.OPEN:
            return (
                f"{_counted(found.starts, 'engine start')} without a verdict yet; until there is "
                "one it runs your own configuration"
            )
        case State.PROMOTED:
            return f"promoted {said}"
        case State.BARRED:
            return f"promoted {said}, but in quarantine; it runs your own configuration"
        case State.KEPT:
            return said


def _bars(facts: Facts) -> tuple[Bar, ...]:
    """The probation of its profile, and quarantines of what was measured for the class."""
    labels = {}
    for _, row in facts.rows:
        if row.workload == facts.workload:
            knobs = Knobs.model_validate_json(row.knobs)
            labels[knobs.digest()] = knobs.label()
    if facts.profile is not None:
        labels[facts.profile.knobs.digest()] = facts.profile.knobs.label()
    found = [] if facts.probation is None else [facts.probation]
    for each in facts.quarantined:
        if each.knobs in labels:
            times = "" if each.count == 1 else f", for the {each.count}. time"
            sentence = f"{labels[each.knobs]} is barred{times}: {each.reason}"
            found.append(Bar(kind="quarantine", sentence=sentence, until=each.until))
    return tuple(found)


def _learned(facts: Facts) -> tuple[Learned, ...]:
    mine = [row for _, row in facts.rows if row.workload == facts.workload and row.usable]
    rows = [row for row in mine if row.phase == "live"]
    if not rows:
        return tuple(facts.mixtures)
    knobs = Knobs.model_validate_json(rows[-1].knobs)
    shown = schedule.label(knobs.lengths)
    times = "once" if len(rows) == 1 else f"{len(rows)} times, the last"
    stored = Learned(
        sentence=f"draft length {shown} was settled on live traffic ({times})",
        at=rows[-1].started_at,
    )
    return (stored, *facts.mixtures)


def _changes(
    state: State, facts: Facts, found: Tried, pairs: Proof | None, level: Noise
) -> list[str]:
    again = f"`tuner tune {facts.workload}`"
    match state:
        case State.UNTRIED:
            return [f"{again} searches now"]
        case State.OPEN:
            return [f"{again} goes on from the rows that are there"]
        case State.BARRED:
            return ["the end of the quarantine: it is used again and put on probation"]
        case State.PROMOTED:
            return [
                "a regression on real traffic during its probation takes it back",
                f"{again} compares again; another GPU, driver, vLLM or model starts from nothing",
            ]
        case State.KEPT:
            return [*_missing(found, pairs, level), f"{again} searches again, with fresh starts"]


def _missing(found: Tried, pairs: Proof | None, level: Noise) -> list[str]:
    """What a class that kept its default lacks."""
    said = []
    if pairs is None:
        if found.open:
            said.append(f"a winner among the {found.open} configurations that were not tried")
    else:
        said += _refusals(pairs, level)
    if level.provable_gain is not None:
        said.append(
            f"a gain of at least {_percent(level.provable_gain)}: {level.pairs} pairs prove it at "
            "this noise in four of five promotions"
        )
    return said


def _refusals(pairs: Proof, level: Noise) -> list[str]:
    said = [f"pair {each.number} without its fault: {each.fault}"
            for each in pairs.pairs if each.fault is not None]  # fmt: skip
    said += [
        f"{each.name} within {each.limit_s * 1e3:.0f} ms (it was {each.candidate_s * 1e3:.0f})"
        for each in pairs.guards
        if not each.kept
    ]
    if pairs.broken is not None:
        said.append(f"a candidate that keeps the limits: {pairs.broken}")
    if pairs.failed_requests:
        said.append("no failed request with the candidate")
    if pairs.gain is None or pairs.gain <= 0:
        return said
    if pairs.gain <= level.min_gain:
        said.append(
            f"less asked for: tuning.min_gain is {_percent(level.min_gain)}, "
            f"{_percent(pairs.gain)} was seen"
        )
    elif (pairs.low or 0.0) <= 0 and level.calibration.one_start is not None:
        deviation = level.calibration.one_start.deviation
        needed = pairs_needed(pairs.gain, deviation=deviation, min_gain=level.min_gain)
        said.append(
            f"more than {MOST_PAIRS} pairs: fewer do not prove {_percent(pairs.gain)} at this noise"
            if needed is None
            else f"tuning.pairs = {needed}, if the {_percent(pairs.gain)} that was seen is true"
        )
    return said


def _percent(gain: float) -> str:
    return f"{100 * gain:.1f} %"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
