"""P: the first starts of a search: the default, off, warm starts and a designed spread."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from profiles.knobs import Knobs
from tuner.space import Space

MAX_WARM = 3  # more warm starts lengthen the tail (facts: simulated, 7.0 against 3.9 % p90 regret)
SMALL, MIDDLE = 3, 8  # draft lengths; 30 of 35 published curves peak at 2-5, block drafters at 8+


@dataclass(frozen=True, kw_only=True)
class Start:
    """A configuration to start with, and why."""

    knobs: Knobs
    why: str


def design(space: Space, default: Knobs, warm: Sequence[Start], *, size: int) -> list[Start]:
    """At most `size` starts: the default first, never a point outside the space, none twice."""
    default = space.start(default)
    chosen = [Start(knobs=default, why="your own configuration, to compare with")]
    gaps = {point: space.distance(point, default) for point in space.points() if point != default}

    def take(start: Start) -> None:
        chosen.append(start)
        del gaps[start.knobs]
        for point, gap in gaps.items():
            gaps[point] = min(gap, space.distance(point, start.knobs))

    accepted = 0
    for start in warm:  # half of the design at most: a bad neighbour must not fill it
        if accepted < min(MAX_WARM, (size - 1) // 2) and start.knobs in gaps:
            take(start)
            accepted += 1
    for drafter, length, why in _spread(space, default):
        if len(chosen) >= size:
            return chosen[:size]
        if any(_drafts(start.knobs, drafter, length) for start in chosen):
            continue
        farthest = _farthest(
            {point: gap for point, gap in gaps.items() if _drafts(point, drafter, length)}
        )
        if farthest is not None:
            take(Start(knobs=farthest, why=why))
    while len(chosen) < size and (farthest := _farthest(gaps)) is not None:
        take(Start(knobs=farthest, why="far from everything tried so far"))
    return chosen[:size]


def _spread(space: Space, default: Knobs) -> Iterator[tuple[str | None, int, str]]:
    if default.speculating:
        yield None, 0, "speculation off"
    lengths = {
        name: sorted({point.draft_tokens for point in space.points() if point.drafter == name})
        for name in space.drafters
    }
    for name in space.live:
        if lengths.get(name):
            yield name, lengths[name][-1], f"draft lengths of {name} are learned inside the engine"
    wanted = (("a small", SMALL), ("a middle", MIDDLE), ("the largest", None))
    for word, target in wanted:  # one drafter after the other, so that a short design sees all
        for name, found in lengths.items():
            if found:
                best = found[-1] if target is None else _nearest(found, target)
                yield name, best, f"{word} draft length of {name}"


def _nearest(lengths: Sequence[int], target: int) -> int:
    return min(lengths, key=lambda k: (abs(k - target), k))


def _drafts(knobs: Knobs, drafter: str | None, length: int) -> bool:
    return knobs.drafter == drafter and knobs.draft_tokens == length


def _farthest(gaps: dict[Knobs, float]) -> Knobs | None:
    """The point farthest from every chosen one; the first of equals, so the least of each knob."""
    return max(gaps, key=lambda point: gaps[point], default=None)
