"""P: the answer of /v1/sweep as Markdown and CSV; what was not measured is n/a or empty."""

import csv
import datetime as dt
import io
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuner.config_text import SECRET

Item = Mapping[str, Any]

MISSING = "n/a"
OFF = "off"
STEP = "tokens per step and request"
BASE = "base"  # of the comparison
LIVE, REPLAY = "live", "replay"
SECRET_FLAGS = {"--api-key": "VLLM_API_KEY", "--hf-token": "HF_TOKEN"}  # and where vLLM looks else
RATES = ("goodput_tok_s", "low_tok_s", "high_tok_s", "rounds", "steps", "tokens")
CSV_FIGURES = (*RATES, "step_ms", "tokens_per_step", "power_w", "temperature_c")
COSTS = ("step (ms)", "power (W)", "temperature (°C)", "rounds", "steps", "tokens")
READING = """\
Draft length 0 is a live setting: the engine with the drafter drafts nothing in these steps, \
but the drafter keeps its memory and the engine the scheduler and the graphs of speculation.
"off" is an engine of its own, started without speculation, so it is not the same as 0.
An interval is that of the rounds within one engine start.
The difference between two starts is in every comparison with "off", and in no interval.
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table of a concurrency."""

    draft_length: int | None  # None: off
    cell: Item  # empty when it was not measured

    @property
    def label(self) -> str:
        """The draft length, or `off`."""
        return OFF if self.draft_length is None else str(self.draft_length)

    @property
    def tok_s(self) -> float | None:
        """The measured rate."""
        return known(self.cell.get("goodput_tok_s"))


def known(value: object) -> float | None:
    """A finite figure, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def whole(value: object) -> int | None:
    """A whole number, else None."""
    figure = known(value)
    return None if figure is None or not figure.is_integer() else int(figure)


def figure(value: object, digits: int = 0) -> str:
    """A figure for people, thousands apart, or `n/a`."""
    number = known(value)
    return MISSING if number is None else f"{number:,.{digits}f}".replace(",", " ")


def rate(value: object) -> str:
    """Tokens per second in three digits or more."""
    number = known(value)
    return figure(value, 1 if number is not None and number < 100 else 0)


def interval(cell: Item) -> str:
    """`[311, 343]`, or `n/a`."""
    low, high = known(cell.get("low_tok_s")), known(cell.get("high_tok_s"))
    return MISSING if low is None or high is None else f"[{rate(low)}, {rate(high)}]"


def gain(value: object) -> str:
    """A relative gain in percent, with its sign."""
    number = known(value)
    if number is None:
        return MISSING
    return f"{number * 100:+.{0 if abs(number) >= 0.095 else 1}f} %"


def items(answer: Item, key: str) -> list[Item]:
    """The list of tables in an answer; empty when it is not there."""
    value = answer.get(key)
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def numbers(answer: Item, key: str) -> list[int]:
    """The list of whole numbers in an answer."""
    value = answer.get(key)
    found = [whole(item) for item in value] if isinstance(value, list) else []
    return [item for item in found if item is not None]


def concurrencies(answer: Item) -> list[int]:
    """Every concurrency that was asked for or measured."""
    cells = [*items(answer, "cells"), *items(answer, "off")]
    measured = [at for cell in cells if (at := whole(cell.get("concurrency"))) is not None]
    return sorted({*numbers(answer, "concurrencies"), *measured})


def concurrency_name(answer: Item) -> str:
    """What a concurrency is on live traffic, where nobody chooses it, and on replayed traffic."""
    return "batch size" if answer.get("source") == LIVE else "concurrency"


def rows(answer: Item, concurrency: int) -> list[Row]:
    """One row per draft length, shortest first, then off where it was measured."""
    cells = {
        length: cell
        for cell in items(answer, "cells")
        if whole(cell.get("concurrency")) == concurrency
        and (length := whole(cell.get("draft_length"))) is not None
    }
    every = sorted({*numbers(answer, "lengths"), *cells})
    off = [cell for cell in items(answer, "off") if whole(cell.get("concurrency")) == concurrency]
    return [
        *(Row(draft_length=length, cell=cells.get(length, {})) for length in every),
        *(Row(draft_length=None, cell=cell) for cell in off[:1]),
    ]


def every_row(answer: Item) -> list[Row]:
    """The rows of all concurrencies."""
    return [row for at in concurrencies(answer) for row in rows(answer, at)]


def winner(answer: Item, concurrency: int) -> Item | None:
    """The daemon's verdict for a concurrency, when it has one."""
    found = (w for w in items(answer, "winners") if whole(w.get("concurrency")) == concurrency)
    return next(found, None)


def best(answer: Item, concurrency: int) -> Row | None:
    """The winner's row; without a verdict that of the highest rate so far."""
    found = rows(answer, concurrency)
    verdict = winner(answer, concurrency)
    if verdict is not None:
        won = whole(verdict.get("draft_length"))
        return next((row for row in found if row.draft_length == won), None)
    measured = [row for row in found if row.tok_s is not None]
    return max(measured, key=lambda row: row.tok_s or 0.0, default=None)


def baseline(answer: Item, concurrency: int) -> Row | None:
    """What the rows are compared with: off, or draft length 0 where off was not measured."""
    found = {row.draft_length: row for row in rows(answer, concurrency) if row.tok_s}
    return found.get(None) or found.get(0)


def against(row: Row, base: Row | None) -> str:
    """The gain of a row over the baseline."""
    if row.tok_s is None or base is None or not base.tok_s:
        return MISSING
    return gain(row.tok_s / base.tok_s - 1)


def verdict(answer: Item, concurrency: int) -> str:
    """The winner in words, without a full stop."""
    row = best(answer, concurrency)
    if row is None or row.tok_s is None:
        return "nothing was measured"
    said = winner(answer, concurrency)
    name = OFF if row.draft_length is None else f"draft length {row.label}"
    text = f"{name}, {rate(row.tok_s)} tok/s {interval(row.cell)}".removesuffix(f" {MISSING}")
    if said is None:
        return f"no winner yet, best so far {text}"
    for key, over in (("gain_over_off", OFF), ("gain_over_zero", "draft length 0")):
        if known(said.get(key)) is not None and over != name:
            text += f", {gain(said[key])} over {over}"
    return text


def schedule(answer: Item) -> list[tuple[str, int]]:
    """Batch sizes and their draft length: `1`, `2-4`, `5+`."""
    value = answer.get("schedule")
    ranges = [[whole(part) for part in one] for one in value] if isinstance(value, list) else []
    found = []
    for number, (low, high, k) in enumerate(ranges):
        if low is None or k is None:
            continue
        last = number == len(ranges) - 1
        found.append((f"{low}+" if last else str(low) if low == high else f"{low}-{high}", k))
    return found


def published(answer: Item) -> dict[str, Any]:
    """The answer as it may be passed on: secrets become the names of shell variables."""
    env, words = texts(answer, "env"), list(texts(answer, "command").values())
    hidden = {name: f"${name}" if SECRET.search(name) else text for name, text in env.items()}
    safe = []
    for before, word in zip(["", *words], words, strict=False):
        flag, assigned, _ = word.partition("=")
        if before in SECRET_FLAGS:
            safe.append(f"${SECRET_FLAGS[before]}")
        elif assigned and flag in SECRET_FLAGS:
            safe.append(f"{flag}=${SECRET_FLAGS[flag]}")
        else:
            safe.append(word)
    return {**answer, "env": hidden, "command": safe}


def texts(answer: Item, key: str) -> dict[str, str]:
    """Names with their text; the words of a list are named by their place."""
    value = answer.get(key)
    if isinstance(value, list):
        value = dict(enumerate(value))
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, Mapping) else {}


def shell(answer: Item) -> str:
    """The command of the winner for a shell, one option a line, without secrets."""
    shown = published(answer)
    variables = {f"${name}" for name in [*shown["env"], *SECRET_FLAGS.values()]}

    def quoted(word: str) -> str:
        flag, assigned, value = word.partition("=")
        if word in variables:
            return f'"{word}"'
        if assigned and value in variables:
            return f'{flag}="{value}"'
        return shlex.quote(word)

    lines = [f"{name}={quoted(value)}" for name, value in shown["env"].items()]
    words: list[str] = []
    for word in shown["command"]:
        if word.startswith("--") and words:
            lines.append(" ".join(words))
            words = []
        words.append(quoted(word))
    return " \\\n  ".join([*lines, " ".join(words)]) if words else ""


def table_csv(answer: Item) -> str:
    """One line per cell and per rate of off; units are in the names of the columns."""
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\n")
    write.writerow(("source", "concurrency", "draft_length", *CSV_FIGURES))
    source = answer.get("source") if answer.get("source") in {LIVE, REPLAY} else ""
    lines = [(cell, whole(cell.get("draft_length"))) for cell in items(answer, "cells")]
    off = [(cell, OFF) for cell in items(answer, "off")]
    for cell, length in [*lines, *off]:
        figures = [None if known(cell.get(name)) is None else cell[name] for name in CSV_FIGURES]
        write.writerow((source, whole(cell.get("concurrency")), length, *figures))
    return out.getvalue()


def markdown(answer: Item) -> str:
    """The whole report, to be read beside `sweep.svg`."""
    parts = [
        f"# Draft length sweep: {plain(answer.get('drafter'))} on {plain(answer.get('model'))}",
        _facts(answer),
        "![tokens per second against draft length](sweep.svg)",
    ]
    for concurrency in concurrencies(answer):
        parts += [
            f"## {concurrency_name(answer).capitalize()} {concurrency}",
            f"**Winner:** {verdict(answer, concurrency)}.",
            _cells(answer, concurrency),
        ]
    ranges = schedule(answer)
    if ranges:
        lines = [f"| {sizes} | {k} |" for sizes, k in ranges]
        parts += ["## Schedule", "Where the engine speculates at all:"]
        parts += ["\n".join(["| batch size | draft length |", "|---|---|", *lines])]
    command = shell(answer)
    if command:
        fence = max(["```", *(f"{run}`" for run in re.findall("`+", command))], key=len)
        parts += ["## Command of the winner", f"{fence}sh\n{command}\n{fence}"]
    return "\n\n".join([*parts, "## How to read it", READING])


def plain(value: object) -> str:
    """Text of others in one line of Markdown: nothing in it is markup."""
    if value is None or value == "":
        return MISSING
    line = "".join(char if char.isprintable() else " " for char in str(value))
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", line)


def interval_name(answer: Item) -> str:
    """`95 % interval` where the daemon says so."""
    share = known(answer.get("confidence"))
    return "interval" if share is None else f"{share * 100:.0f} % interval"


def moment(at: object) -> str:
    """A moment in UTC, because a report travels."""
    seconds = known(at)
    if seconds is None:
        return MISSING
    return f"{dt.datetime.fromtimestamp(seconds, tz=dt.UTC):%Y-%m-%d %H:%M} UTC"


def _facts(answer: Item) -> str:
    """What was measured where, when and how."""
    source = "live traffic" if answer.get("source") == LIVE else "replayed traffic"
    rounds = f"{figure(answer.get('round'))} of {figure(answer.get('rounds'))}"
    minutes = (known(answer.get("seconds")) or math.nan) / 60
    facts = [
        ("machine", plain(answer.get("machine"))),
        ("model", plain(answer.get("model"))),
        ("drafter", f"{plain(answer.get('drafter'))}, method {plain(answer.get('method'))}"),
        ("vLLM", plain(answer.get("vllm_version"))),
        ("date", moment(answer.get("started_at"))),
        ("took", f"{figure(minutes, 1)} min, {figure(answer.get('engine_starts'))} engine starts"),
        ("source", f"{source}, class {plain(answer.get('workload'))}"),
        ("n", f"{rounds} rounds, slices of {figure(answer.get('slice_s'), 2)} s"),
        ("rate", f"output tok/s with its {interval_name(answer)} over the rounds"),
    ]
    if answer.get("state") != "done":
        said = f"{plain(answer.get('state'))}: {plain(answer.get('sentence'))}"
        facts.append(("**not complete**", said))
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in facts)])


def _cells(answer: Item, concurrency: int) -> str:
    """The table of one concurrency."""
    base, top = baseline(answer, concurrency), best(answer, concurrency)
    over = "off" if base is None or base.draft_length is None else "0"
    measured = ("draft length", "tok/s", interval_name(answer), f"over {over}", STEP)
    heads = (*measured, *COSTS)
    lines = [f"| {' | '.join(heads)} |", "|---:" * len(heads) + "|"]
    for row in rows(answer, concurrency):
        cell = row.cell
        shown = (
            f"**{row.label}**" if row == top else row.label,
            rate(row.tok_s),
            interval(cell),
            BASE if row == base else against(row, base),
            figure(cell.get("tokens_per_step"), 2),
            figure(cell.get("step_ms"), 2),
            figure(cell.get("power_w")),
            figure(cell.get("temperature_c")),
            *(figure(cell.get(name)) for name in ("rounds", "steps", "tokens")),
        )
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines)
