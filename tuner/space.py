"""P: the search space: which configurations the installed vLLM can be started with."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from profiles.errors import ConfigError, InvalidKnobsError
from profiles.knobs import (
    FIXED_LENGTH_METHODS,
    PLAIN_FLAGS,
    SPECULATIVE_FLAG,
    Drafter,
    Knobs,
    required_flags,
    violations,
)
from tuner.config import SpaceConfig

MAX_POINTS = 20_000
OTHER_AXES = (
    "max_num_seqs",
    "max_num_batched_tokens",
    "gpu_memory_utilization",
    "cpu_kv_gib",
    "performance_mode",
)
LIVE_LENGTH = 1 << 16  # on the axis of draft lengths: learned inside the engine
UNSET = "unset"  # name of None on a categorical axis

Value = int | float | str | None


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One knob and its candidate values, in the order that an ordinal axis has."""

    name: str
    values: tuple[Value, ...]
    ordinal: bool = True

    def names(self) -> tuple[str, ...]:
        """The values as categories."""
        return tuple(UNSET if value is None else str(value) for value in self.values)


@dataclass(frozen=True, kw_only=True)
class Space:
    """All configurations of one search, and their coordinates."""

    axes: tuple[Axis, ...]  # those with at least two values
    drafters: tuple[str, ...]  # names; "off" is draft length 0 of each of them
    default: Knobs
    dropped: tuple[str, ...]  # a sentence for everything that is not searched, and why
    ragged: bool  # whether some combination of axis values is no configuration
    candidates: tuple[Knobs, ...] = field(repr=False)
    # drafters whose draft length is learned inside the engine, and their longest one
    live: Mapping[str, int] = field(default_factory=dict)
    _table: Mapping[Knobs, dict[str, int | str]] = field(init=False, repr=False, compare=False)
    _starts: Mapping[Knobs, Knobs] = field(init=False, repr=False, compare=False)

    def points(self) -> tuple[Knobs, ...]:
        """Every configuration, once, in a fixed order."""
        return self.candidates

    def contains(self, knobs: Knobs) -> bool:
        """Whether these knobs are one of the points."""
        return knobs in self._table

    def start(self, knobs: Knobs) -> Knobs:
        """The point whose engine start has these knobs: a learned schedule belongs to one."""
        return self._starts.get(knobs.cold(), knobs) if knobs.live else knobs

    def encode(self, knobs: Knobs) -> dict[str, int | str]:
        """Coordinates of a point: an index on an ordinal axis, a name on the others.

        Raises:
            ValueError: the knobs are no point of this space.
        """
        try:
            return dict(self._table[knobs])
        except KeyError:
            raise ValueError(f"{knobs.label()} is not in the search space") from None

    def encodings(self, knobs: Knobs) -> list[dict[str, int | str]]:
        """All coordinates of a point: off lies at draft length 0 of every drafter."""
        plain = self.encode(knobs)
        if knobs.speculating or "drafter" not in plain:
            return [plain]
        return [{**plain, "drafter": name} for name in self.drafters]

    def decode(self, params: Mapping[str, int | str]) -> Knobs:
        """The knobs at these coordinates; they may be no point when the space is ragged."""
        values: dict[str, Any] = self.default.model_dump()
        for axis in self.axes:
            at = params[axis.name]
            values[axis.name] = axis.values[at if isinstance(at, int) else axis.names().index(at)]
        if "draft_length" in params:
            name = values["drafter"] if "drafter" in params else self.drafters[0]
            values |= _speculation(self.default, self.live, name, values["draft_length"])
        return Knobs.model_validate(values)

    def distance(self, left: Knobs, right: Knobs) -> float:
        """Euclidean distance with every axis scaled to 0-1; 1 between two categories."""
        return min(
            math.hypot(*(self._gap(axis, one, other) for axis in self.axes))
            for one in self.encodings(left)
            for other in self.encodings(right)
        )

    def adjacent(self, left: Knobs, right: Knobs) -> bool:
        """Whether the points differ by at most one step on every ordinal axis and else nowhere."""
        return any(
            all(
                abs(int(one[axis.name]) - int(other[axis.name])) <= 1
                if axis.ordinal
                else one[axis.name] == other[axis.name]
                for axis in self.axes
            )
            for one in self.encodings(left)
            for other in self.encodings(right)
        )

    @staticmethod
    def _gap(axis: Axis, one: Mapping[str, int | str], other: Mapping[str, int | str]) -> float:
        left, right = one[axis.name], other[axis.name]
        if axis.ordinal:
            return (int(left) - int(right)) / (len(axis.values) - 1)
        return float(left != right)

    def __post_init__(self) -> None:
        table = {knobs: self._coordinates(knobs) for knobs in self.candidates}
        object.__setattr__(self, "_table", table)
        starts = {knobs.cold(): knobs for knobs in self.candidates if knobs.live}
        object.__setattr__(self, "_starts", starts)

    def _coordinates(self, knobs: Knobs) -> dict[str, int | str]:
        found: dict[str, int | str] = {}
        for axis in self.axes:
            if axis.name == "drafter":
                found["drafter"] = knobs.drafter or self.drafters[0]
                continue
            value = _length(knobs) if axis.name == "draft_length" else getattr(knobs, axis.name)
            at = axis.values.index(value)
            found[axis.name] = at if axis.ordinal else axis.names()[at]
        return found


def build_space(
    config: SpaceConfig,
    drafters: Mapping[str, Drafter],
    flags: frozenset[str],
    default: Knobs,
    *,
    choices: Mapping[str, Sequence[str]] | None = None,
    live: bool = False,
) -> Space:
    """The space that the operator's lists and the installed vLLM leave.

    With `live` a drafter is one point, started for its longest draft: its draft lengths are
    learned inside the engine. The operator's own draft length stays a point of its own.

    Raises:
        InvalidKnobsError: the default configuration itself cannot be started.
        ConfigError: the lists multiply to more points than a search can hold.
    """
    _check_default(default, drafters, flags)
    dropped: list[str] = []
    if drafters and SPECULATIVE_FLAG not in flags:
        dropped.append(
            f"Speculation is not searched: the installed vLLM does not accept {SPECULATIVE_FLAG}."
        )
        drafters = {}
    able = {
        name: drafter.max_draft_length
        for name, drafter in drafters.items()
        if live and drafter.method not in FIXED_LENGTH_METHODS
    }
    if default.live and (own_drafter := drafters.get(default.drafter or "")):
        able[own_drafter.name] = default.draft_tokens  # started for its own longest draft
    own = (default.draft_tokens,) if default.speculating and not default.live else ()
    lengths: dict[str, tuple[int, ...]] = {}
    for name in sorted(drafters):
        found = _lengths(config, drafters[name], default)
        if live and name in able:
            found = own if default.drafter == name else ()
        if name in able:
            found = (*found, LIVE_LENGTH)
        if found:
            lengths[name] = found
    others = tuple(
        _axis(name, config, flags, default, choices or {}, dropped) for name in OTHER_AXES
    )
    size = (1 + sum(map(len, lengths.values()))) * math.prod(len(a.values) for a in others)
    if size > MAX_POINTS:
        raise ConfigError(
            f"The search space has {size} configurations, more than {MAX_POINTS}.",
            hint="Shorten the lists under [tuning.space].",
        )
    combinations = _combinations(lengths, others, default, able)
    points = [knobs for knobs in combinations if not violations(knobs, drafters)]
    speculation = (
        Axis(name="drafter", values=tuple(lengths), ordinal=False),
        Axis(name="draft_length", values=(0, *sorted({k for ks in lengths.values() for k in ks}))),
    )
    return Space(
        axes=tuple(axis for axis in (*speculation, *others) if len(axis.values) > 1),
        drafters=tuple(lengths),
        default=default,
        dropped=tuple(dropped),
        ragged=len(points) < size or len(set(lengths.values())) > 1,
        candidates=tuple(points),
        live=able,
    )


def _length(knobs: Knobs) -> int:
    return LIVE_LENGTH if knobs.live else knobs.draft_tokens


def _check_default(default: Knobs, drafters: Mapping[str, Drafter], flags: frozenset[str]) -> None:
    broken = violations(default, drafters)
    broken += [
        f"The installed vLLM does not accept {flag}."
        for flag in sorted(required_flags(default) - flags)
    ]
    if broken:
        raise InvalidKnobsError(
            f"The default configuration cannot be started. {' '.join(broken)}",
            hint="Correct [engine.default].",
        )


def _lengths(config: SpaceConfig, drafter: Drafter, default: Knobs) -> tuple[int, ...]:
    wanted = set(config.draft_lengths)
    if default.drafter == drafter.name:
        wanted.add(default.draft_tokens)
    return tuple(sorted(k for k in wanted if k <= drafter.max_draft_length))


def _axis(
    name: str,
    config: SpaceConfig,
    flags: frozenset[str],
    default: Knobs,
    choices: Mapping[str, Sequence[str]],
    dropped: list[str],
) -> Axis:
    values: list[Value] = list(getattr(config, name))
    own: Value = getattr(default, name)
    flag = PLAIN_FLAGS.get(name)  # None: an environment variable, nothing to ask vLLM about
    if values and flag is not None and flag not in flags:
        dropped.append(f"{name} is not searched: the installed vLLM does not accept {flag}.")
        values = []
    accepted = choices.get(flag or "")
    if name == "performance_mode" and accepted:
        for value in [value for value in values if value not in accepted]:
            dropped.append(
                f'{name} "{value}" is not searched: the installed vLLM does not know it.'
            )
            values.remove(value)
    ordered = {value for value in (*values, own) if isinstance(value, int | float)}
    named = tuple(dict.fromkeys(value for value in (own, *values) if isinstance(value, str)))
    # vLLM's own default is not known here; it lies at the generous end of what people list
    unset = () if own is not None else (None,)
    return Axis(
        name=name, values=(*sorted(ordered), *named, *unset), ordinal=name != "performance_mode"
    )


def _speculation(
    default: Knobs, live: Mapping[str, int], name: str | None, length: int
) -> dict[str, Any]:
    """The knobs of a drafter at a place on the axis of draft lengths."""
    if length == 0:
        return {"drafter": None, "draft_length": "off", "live": False, "draft_schedule": None}
    if length == LIVE_LENGTH:  # a drafter without live knobs is no point there
        return {
            "drafter": name,
            "draft_length": live.get(name or "", LIVE_LENGTH),
            "live": True,
            "draft_schedule": None,
        }
    own = not default.live and (default.drafter, default.draft_tokens) == (name, length)
    ranges = default.draft_schedule if own else None
    return {"drafter": name, "draft_length": length, "live": False, "draft_schedule": ranges}


def _combinations(
    lengths: Mapping[str, Sequence[int]],
    others: Sequence[Axis],
    default: Knobs,
    live: Mapping[str, int],
) -> Iterator[Knobs]:
    caps = {"max_active_seqs": default.max_active_seqs}
    caps["max_scheduled_tokens"] = default.max_scheduled_tokens
    speculation = [{**_speculation(default, live, None, 0), **caps}]
    speculation += [
        {**_speculation(default, live, name, k), **caps}
        for name, found in lengths.items()
        for k in found
    ]
    for choice, *values in product(speculation, *(axis.values for axis in others)):
        rest = dict(zip((axis.name for axis in others), values, strict=True))
        yield Knobs.model_validate({**choice, **rest})
