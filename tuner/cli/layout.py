"""P: pairs and tables as rich renderables that fit any width."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

NARROW = 60  # columns; below, a table becomes one block per row
GAP = 2  # columns between cells


def pairs(rows: Sequence[tuple[str, str | Text]]) -> RenderableType:
    """Labels with their text beside them; long text wraps under itself."""
    grid = Table.grid(padding=(0, GAP, 0, 0))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(Text(label), value if isinstance(value, Text) else Text(value))
    return grid


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, width: int, empty: str
) -> RenderableType:
    """Rows below headers; blocks of pairs where the terminal is too narrow for them."""
    if not rows:
        return Text(empty)
    natural = sum(
        max(len(cell) for cell in column) + GAP for column in zip(headers, *rows, strict=True)
    )
    if width < NARROW < natural:
        blocks = [pairs(list(zip(headers, row, strict=True))) for row in rows]
        spaced = [part for block in blocks for part in (block, Text(""))]
        return Group(*spaced[:-1])
    grid = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    for number, header in enumerate(headers):
        last = number == len(headers) - 1  # only the sentence at the end may wrap
        grid.add_column(header, no_wrap=not last, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    return grid
