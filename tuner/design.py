"""P: the first starts of a search: the default, off, warm starts and a designed spread.

Those that the others are compared with are anchors. The spread is for what the ladders of
tuner/ladders.py leave: other knobs, and draft lengths together with them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from profiles.knobs import Knobs
from tuner.space import Space

MAX_WARM = 3  # more warm starts lengthen the tail (facts: simulated, 7.0 against 3.9 % p90 regret)
SMALL, MIDDLE = 3, 8  # draft lengths; 30 of 35 published curves peak at 2-5, block drafters at 8+


@dataclass(frozen=True, kw_only=True)
class Start:
    """A configuration to start with, and why."""

    knobs: Knobs
    why: str
    anchor: bool = False  # comes before the ladders of draft lengths


def design(space: Space, default: Knobs, warm: Sequence[Start], *, size: int) -> list[Start]:
    """At most `size` starts: the default first, never a point outside the space, none twice."""
    default = space.start(default)
    own = "your own configuration, to compare with"
    chosen = [Start(knobs=default, why=own, anchor=True)]
    gaps = {point: space.distance(point, default) for point in space.points() if point != default}

    def take(start: Start) -> None:
        chosen.append(start)
        del gaps[start.knobs]
        for point, gap in gaps.items():
            gaps[point] = min(gap, space.distance(point, start.knobs))

    accepted = 0
    for start in warm:  # half of the design at most: a bad neighbour must not fill it
        if accepted < min(MAX_WARM, (size - 1) // 2) and start.knobs in gaps:
            take(replace(start, anchor=True))
            accepted += 1
    for drafter, length, why, anchor in _spread(space, default):
        if len(chosen) >= size:
            return chosen[:size]
        if any(_drafts(start.knobs, drafter, length) for start in chosen):
            continue
        farthest = _farthest(
            {point: gap for point, gap in gaps.items() if _drafts(point, drafter, length)}
        )
        if farthest is not None:
            take(Start(knobs=farthest, why=why, anchor=anchor))
    while len(chosen) < size and (farthest := _farthest(gaps)) is not None:
        take(Start(knobs=farthest, why="far from everything tried so far"))
    return chosen[:size]


def _spread(space: Space, default: Knobs) -> Iterator[tuple[str | None, int, str, bool]]:
    if default.speculating:
        yield None, 0, "speculation off", True
    lengths = {
        name: sorted({point.draft_tokens for point in space.points() if point.drafter == name})
        for name in space.drafters
    }
    for name in space.live:
        if lengths.get(name):
            why = f"draft lengths of {name} are learned inside the engine"
            yield name, lengths[name][-1], why, True
    wanted = (("a small", SMALL), ("a middle", MIDDLE), ("the largest", None))
    for word, target in wanted:  # one drafter after the other, so that a short design sees all
        for name, found in lengths.items():
            if found:
                best = found[-1] if target is None else _nearest(found, target)
                yield name, best, f"{word} draft length of {name}", False


def _nearest(lengths: Sequence[int], target: int) -> int:
    return min(lengths, key=lambda k: (abs(k - target), k))


def _drafts(knobs: Knobs, drafter: str | None, length: int) -> bool:
    return knobs.drafter == drafter and knobs.draft_tokens == length


def _farthest(gaps: dict[Knobs, float]) -> Knobs | None:
    """The point farthest from every chosen one; the first of equals, so the least of each knob."""
    return max(gaps, key=lambda point: gaps[point], default=None)
