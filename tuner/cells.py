"""P: what the engine's steps gave, by batch size and draft length."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Pure decode steps of one batch size and draft length: tokens of the whole batch."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0

    @property
    def goodput_tok_s(self) -> float | None:
        """Tokens per second of steps; None without seconds."""
        return self.tokens / self.seconds if self.seconds > 0 else None

    @property
    def step_s(self) -> float | None:
        """Seconds per step; None without steps."""
        return self.seconds / self.steps if self.steps > 0 else None

    @property
    def tokens_per_step(self) -> float | None:
        """Tokens that one step gives to the whole batch; None without steps."""
        return self.tokens / self.steps if self.steps > 0 else None

    def __add__(self, other: "Cell") -> "Cell":
        return Cell(
            steps=self.steps + other.steps,
            tokens=self.tokens + other.tokens,
            seconds=self.seconds + other.seconds,
        )

    def __sub__(self, other: "Cell") -> "Cell":
        return Cell(
            steps=self.steps - other.steps,
            tokens=self.tokens - other.tokens,
            seconds=self.seconds - other.seconds,
        )


Cells: TypeAlias = Mapping[tuple[int, int], Cell]  # (batch size, draft length)

NOTHING = Cell()


def difference(before: Cells, after: Cells) -> dict[tuple[int, int], Cell]:
    """What was added between two readings of the same counters, without cells that stood still."""
    found = {}
    for key, cell in after.items():
        added = cell - before.get(key, NOTHING)
        # a counter that fell began anew with its engine: everything it shows is new
        if added.steps < 0 or added.tokens < 0 or added.seconds < 0:
            added = cell
        if added.steps > 0:
            found[key] = added
    return found


def merge(*parts: Cells) -> dict[tuple[int, int], Cell]:
    """The sum of several readings, cell by cell."""
    found: dict[tuple[int, int], Cell] = {}
    for part in parts:
        for key, cell in part.items():
            found[key] = found.get(key, NOTHING) + cell
    return found


def by_batch(cells: Cells, k: int) -> dict[int, Cell]:
    """The cells of one draft length, by batch size."""
    return {batch: cell for (batch, length), cell in cells.items() if length == k}


def total(cells: Cells) -> Cell:
    """All cells in one."""
    return sum(cells.values(), NOTHING)
