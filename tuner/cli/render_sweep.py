"""P: the answer of /v1/sweep as a chart that fits a terminal, as tables and as one line."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tuner import sweep_report
from tuner.cli import layout
from tuner.cli.text import MISSING, counted, number, safe, sentence, span
from tuner.sweep_report import Item, Row, known, rate

COLUMN = 36  # columns at least of one block where several stand side by side
INTERVALS = 58  # columns of a block from which there is room for intervals
RATE = 7  # columns of a rate
INTERVAL = 17  # columns of an interval
MARK = 6  # columns of the mark behind the best
DOT = " · "
BLOCKS = " ▏▎▍▌▋▊▉█"
STEPS = "▁▂▃▄▅▆▇█"


def chart(answer: Item, *, width: int, height: int, unicode: bool = True) -> RenderableType:
    """Bars per concurrency, side by side where they are too high; else a line for each."""
    head = [head_line(answer), sentence(answer, "")]
    lines = [_fitted(Text(line, style="bold"), width) for line in head if line]
    room = height - len(lines) - 1  # the cursor stands below
    every = sweep_report.concurrencies(answer)
    for columns in range(1, len(every) + 1):
        each = (width - layout.GAP * (columns - 1)) // columns
        if columns > 1 and each < COLUMN:
            break
        blocks = [_block(answer, at, each, unicode=unicode) for at in every]
        ranks = [blocks[start : start + columns] for start in range(0, len(blocks), columns)]
        if sum(max(len(block) for block in rank) for rank in ranks) <= room:
            return Group(*lines, *(_beside(rank, each) for rank in ranks))
    short = [_fitted(Text(_short(answer, at, unicode=unicode)), width) for at in every]
    if len(short) > room > 0:
        left = len(short) - room + 1
        short = [*short[: room - 1], _fitted(Text(f"and {counted(left, 'more line')}"), width)]
    return Group(*lines, *short)


def head_line(answer: Item) -> str:
    """How far it is, and what is being swept."""
    source = "live traffic" if answer.get("source") == sweep_report.LIVE else "replayed traffic"
    return DOT.join(
        [
            _round(answer),
            span(answer.get("seconds")),
            f"{safe(answer.get('drafter'))} on {safe(answer.get('model'))}",
            source,
            counted(answer.get("engine_starts"), "engine start"),
        ]
    )


def progress(answer: Item) -> str:
    """One line for a log: how far it is, and the best so far."""
    parts = [_round(answer)]
    for at in sweep_report.concurrencies(answer):
        row = sweep_report.best(answer, at)
        if row is not None and row.tok_s is not None:
            figures = f"{rate(row.tok_s)} tok/s {sweep_report.interval(row.cell)}"
            name = f"{sweep_report.concurrency_name(answer)} {at}"
            parts.append(f"{name}: best {row.label}, {figures}")
    return DOT.join(parts)


def result(answer: Item, *, width: int) -> RenderableType:
    """The complete table."""
    parts: list[RenderableType] = [Text(head_line(answer), style="bold")]
    for at in sweep_report.concurrencies(answer):
        name = f"{sweep_report.concurrency_name(answer)} {at}"
        parts += [Text(""), Text(f"{name}: {sweep_report.verdict(answer, at)}", style="bold")]
        parts.append(_table(answer, at, width))
    ranges = sweep_report.schedule(answer)
    if ranges:
        said = ", ".join(f"{sizes}: {k}" for sizes, k in ranges)
        parts += [Text(""), Text(f"draft length by batch size: {said}")]
    return Group(*parts)


def _round(answer: Item) -> str:
    return f"round {number(answer.get('round'))} of {number(answer.get('rounds'))}"


def _table(answer: Item, concurrency: int, width: int) -> RenderableType:
    """The rows of one concurrency; a narrow terminal gets fewer columns."""
    base = sweep_report.baseline(answer, concurrency)
    top = sweep_report.best(answer, concurrency)
    over = "over off" if base is None or base.draft_length is None else "over 0"
    headers = ("length", "tok/s", "", "interval", over, "tok/step", "step", "rounds")
    lines = [
        headers,
        *(
            (
                row.label,
                rate(row.tok_s),
                "best" if row == top else "",
                sweep_report.interval(row.cell),
                "base" if row == base else sweep_report.against(row, base),
                number(row.cell.get("tokens_per_step"), digits=2),
                number(row.cell.get("step_ms"), "ms", 1),
                number(row.cell.get("rounds")),
            )
            for row in sweep_report.rows(answer, concurrency)
        ),
    ]
    sizes = [max(map(len, column)) for column in zip(*lines, strict=True)]
    fitting = len(sizes)
    while fitting > 1 and sum(sizes[:fitting]) + layout.GAP * (fitting - 1) > width:
        fitting -= 1
    shown = [
        "  ".join(cell.rjust(size) for cell, size in zip(line[:fitting], sizes, strict=False))
        for line in lines
    ]
    return Group(
        *(
            _fitted(Text(line, style="" if place else "bold"), width)
            for place, line in enumerate(shown)
        )
    )


def _block(answer: Item, concurrency: int, width: int, *, unicode: bool) -> list[Text]:
    """One bar per row below a heading, and an empty line."""
    rows = sweep_report.rows(answer, concurrency)
    best = sweep_report.best(answer, concurrency)
    name = f"{sweep_report.concurrency_name(answer)} {concurrency}, tok/s by draft length"
    labels = max([len(row.label) for row in rows], default=1)
    wide = width >= INTERVALS
    bar = max(1, width - labels - 1 - RATE - MARK - (INTERVAL if wide else 0))
    highest = max((_high(row) for row in rows), default=0.0)
    lines = [_fitted(Text(name, style="bold"), width)]
    for row in rows:
        figures = rate(row.tok_s).rjust(RATE)
        if wide:
            interval = sweep_report.interval(row.cell)
            figures += f" {'' if interval == MISSING else interval}".ljust(INTERVAL)
        is_best = row == best
        color = "green" if is_best else "yellow" if row.draft_length is None else "blue"
        line = Text.assemble(
            f"{row.label.rjust(labels)} ",
            (_bar(row, highest, bar, unicode=unicode), color),
            (f"{figures}{' best' if is_best else ''}", "bold" if is_best else ""),
        )
        lines.append(_fitted(line, width))
    return [*lines, Text("")]


def _bar(row: Row, highest: float, width: int, *, unicode: bool) -> str:
    """Solid to the rate, dotted on to the upper end of its interval."""
    if row.tok_s is None or highest <= 0:
        return " " * width
    eighths = round(row.tok_s / highest * width * 8)
    full, part = divmod(eighths, 8)
    end = round(_high(row) / highest * width)
    if not unicode:
        return ("#" * round(eighths / 8)).ljust(end, "-").ljust(width)[:width]
    return f"{'█' * full}{BLOCKS[part] if part else ''}".ljust(end, "┄").ljust(width)[:width]


def _short(answer: Item, concurrency: int, *, unicode: bool) -> str:
    """All draft lengths of one concurrency in one line."""
    rows = sweep_report.rows(answer, concurrency)
    best = sweep_report.best(answer, concurrency)
    highest = max((row.tok_s or 0.0 for row in rows), default=0.0)
    steps = STEPS if unicode else "_.-=+*%#"
    drawn = "".join(
        " "
        if row.tok_s is None or highest <= 0
        else steps[min(len(steps) - 1, int(row.tok_s / highest * len(steps)))]
        for row in rows
        if row.draft_length is not None
    )
    said = f"best {best.label}: {rate(best.tok_s)} tok/s" if best is not None else MISSING
    return f"{number(concurrency).rjust(4)} {drawn} {said}"


def _high(row: Row) -> float:
    """The upper end of what a bar shows."""
    return max(row.tok_s or 0.0, known(row.cell.get("high_tok_s")) or 0.0)


def _beside(blocks: Sequence[Sequence[Text]], width: int) -> RenderableType:
    """Blocks of lines in columns."""
    grid = Table.grid(padding=(0, layout.GAP, 0, 0), pad_edge=False)
    for _ in blocks:
        grid.add_column(width=width, no_wrap=True)
    grid.add_row(*(Group(*block) for block in blocks))
    return grid


def _fitted(line: Text, width: int) -> Text:
    """A line that wraps nowhere."""
    line.no_wrap = True
    line.truncate(width, overflow="ellipsis")
    return line
