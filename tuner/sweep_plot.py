"""P: the answer of /v1/sweep as an SVG plot, tok/s against draft length, without a dependency."""

import math
from dataclasses import dataclass
from xml.sax.saxutils import escape

from tuner import sweep_report
from tuner.sweep_report import Item, Row, known, rate

# readable on white and on dark: a contrast of 3 with both for lines, of 4 for text
TEXT = "#7a7a7a"
COLORS = ("#3b82f6", "#d97706", "#16a34a", "#a855f7", "#e5484d", "#0d9488")
WIDTH, HEIGHT = 900, 480  # px; the height grows with the legend
LEFT, TOP, RIGHT, BOTTOM = 78, 56, 272, 56  # px around the plot; the legend is on the right
LEGEND_ROW = 40  # px
TITLE_CHARS, MACHINE_CHARS, VERSION_CHARS = 90, 32, 16
TICKS = 5  # about as many on the axis of rates
LABELS = 17  # at most as many on the axis of draft lengths
CAP = 3  # px, half the width of a whisker's cap


@dataclass(frozen=True, kw_only=True)
class Scale:
    """From draft lengths and tok/s to px."""

    shortest: int
    longest: int
    top_tok_s: float
    bottom_px: float

    def x(self, draft_length: float) -> float:
        """Px from the left."""
        share = (draft_length - self.shortest) / max(1, self.longest - self.shortest)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, tok_s: float) -> float:
        """Px from the top."""
        return self.bottom_px - max(0.0, tok_s) / self.top_tok_s * (self.bottom_px - TOP)


def svg(answer: Item) -> str:
    """The whole picture."""
    every = sweep_report.concurrencies(answer)
    series = {at: sweep_report.rows(answer, at) for at in every}
    height = max(HEIGHT, TOP + BOTTOM + LEGEND_ROW * len(every))
    rows_of_all = sweep_report.every_row(answer)
    lengths = sorted({r.draft_length for r in rows_of_all if r.draft_length is not None})
    step = _step(max((_highest(row) for row in rows_of_all), default=0.0))
    scale = Scale(
        shortest=lengths[0] if lengths else 0,
        longest=lengths[-1] if lengths else 0,
        top_tok_s=step * TICKS,
        bottom_px=height - BOTTOM,
    )
    title = f"{_word(answer.get('drafter'))} on {_word(answer.get('model'))}"
    box = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img" font-family="sans-serif">',
        f"<title>{_text(f'Output tokens per second against draft length: {title}')}</title>",
        _label(LEFT, 24, _cut(title, TITLE_CHARS), size=15, weight="bold"),
        _label(LEFT, 42, _below(answer), size=11),
        *_axes(scale, lengths, step),
    ]
    for number, (at, rows) in enumerate(series.items()):
        color = COLORS[number % len(COLORS)]
        parts += _series(rows, sweep_report.best(answer, at), scale, color)
        parts += _legend(answer, at, number, color)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _below(answer: Item) -> str:
    """The line under the title."""
    source = "live traffic" if answer.get("source") == sweep_report.LIVE else "replayed traffic"
    rounds = f"{sweep_report.figure(answer.get('round'))} rounds"
    machine = _cut(_word(answer.get("machine")), MACHINE_CHARS)
    parts = [machine, f"vLLM {_cut(_word(answer.get('vllm_version')), VERSION_CHARS)}", source]
    whiskers = f"whiskers: {sweep_report.interval_name(answer)}"
    return ", ".join([*parts, rounds, whiskers, sweep_report.moment(answer.get("started_at"))])


def _axes(scale: Scale, lengths: list[int], step: float) -> list[str]:
    """Grid, ticks and names of both axes."""
    right, bottom = WIDTH - RIGHT, scale.bottom_px
    parts = []
    for number in range(TICKS + 1):
        y = scale.y(number * step)
        parts.append(_line(LEFT, y, right, y, TEXT, width=1 if number == 0 else 0.3))
        digits = 0 if step.is_integer() else 2
        tick = sweep_report.figure(number * step, digits)
        parts.append(_label(LEFT - 8, y + 4, tick, anchor="end"))
    for length in lengths[:: math.ceil(len(lengths) / LABELS) or 1]:
        x = scale.x(length)
        parts.append(_line(x, bottom, x, bottom + 5, TEXT, width=1))
        parts.append(_label(x, bottom + 20, str(length), anchor="middle"))
    middle = (LEFT + right) / 2
    parts.append(_label(middle, bottom + 42, "draft length (tokens)", anchor="middle"))
    turned = f'transform="rotate(-90 18 {(TOP + bottom) / 2:.1f})"'
    name = "output rate (tok/s)"
    parts.append(_label(18, (TOP + bottom) / 2, name, anchor="middle", more=turned))
    return parts


def _series(rows: list[Row], best: Row | None, scale: Scale, color: str) -> list[str]:
    """Line, points and whiskers of one concurrency, and its rate of off."""
    parts, run = [], []
    for row in [*rows, None]:
        if row is not None and row.draft_length is not None and row.tok_s is not None:
            run.append((scale.x(row.draft_length), scale.y(row.tok_s)))
            continue
        if row is not None and row.draft_length is None and row.tok_s is not None:
            y = scale.y(row.tok_s)
            parts.append(_line(LEFT, y, WIDTH - RIGHT, y, color, width=1.5, dash=True))
        if len(run) > 1:  # a draft length without a rate is a gap
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in run)
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>'
            )
        run = []
    for row in rows:
        if row.draft_length is None or row.tok_s is None:
            continue
        x, y = scale.x(row.draft_length), scale.y(row.tok_s)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>')
        low, high = known(row.cell.get("low_tok_s")), known(row.cell.get("high_tok_s"))
        if low is not None and high is not None:
            parts.append(_line(x, scale.y(low), x, scale.y(high), color, width=1))
            ends = (scale.y(low), scale.y(high))
            parts += [_line(x - CAP, end, x + CAP, end, color, width=1) for end in ends]
        if row == best:
            ring = f'fill="none" stroke="{color}" stroke-width="2"'
            parts.append(f'<circle class="best" cx="{x:.1f}" cy="{y:.1f}" r="8" {ring}/>')
    return parts


def _legend(answer: Item, concurrency: int, number: int, color: str) -> list[str]:
    """Name and winner of one line, and its rate of off."""
    left, y = WIDTH - RIGHT + 20, TOP + 12 + number * LEGEND_ROW
    row = sweep_report.best(answer, concurrency)
    base = next((r for r in sweep_report.rows(answer, concurrency) if r.draft_length is None), None)
    best = f"best {row.label}: {rate(row.tok_s)} tok/s" if row is not None else "nothing measured"
    parts = [
        _line(left, y - 4, left + 26, y - 4, color, width=2),
        f'<circle cx="{left + 13}" cy="{y - 4}" r="3" fill="{color}"/>',
        _label(left + 34, y, f"{sweep_report.concurrency_name(answer)} {concurrency}"),
    ]
    if base is None or base.tok_s is None:
        return [*parts, _label(left + 34, y + 16, best, size=11)]
    return [
        *parts,
        _line(left, y + 12, left + 26, y + 12, color, width=1.5, dash=True),
        _label(left + 34, y + 16, f"off {rate(base.tok_s)}, {best}", size=11),
    ]


def _highest(row: Row) -> float:
    """What of a row must fit into the plot."""
    return max(row.tok_s or 0.0, known(row.cell.get("high_tok_s")) or 0.0)


def _step(highest: float) -> float:
    """A round distance of ticks that reaches the highest value."""
    if highest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(highest / TICKS))
    return next(
        power * m for m in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if power * m * TICKS >= highest
    )


def _word(value: object) -> str:
    return sweep_report.MISSING if value is None or value == "" else str(value)


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[: chars - 1]}…"


def _text(text: str) -> str:
    """Text for XML, which knows no control characters."""
    return escape("".join(char if char.isprintable() else " " for char in text))


def _label(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 13,
    weight: str = "normal",
    more: str = "",
) -> str:
    style = f'fill="{TEXT}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style} {more}>{_text(text)}</text>'


def _line(
    x1: float, y1: float, x2: float, y2: float, color: str, *, width: float, dash: bool = False
) -> str:
    at = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    dashes = ' stroke-dasharray="6 4"' if dash else ""
    return f'<line {at} stroke="{color}" stroke-width="{width}"{dashes}/>'
