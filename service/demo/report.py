"""What the demo prints: progress while it runs, tables at its end."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from service.demo.traffic import Tally


def percent(value: float | None) -> str:
    """A relative gain for people."""
    return "n/a" if value is None else f"{100 * value:+.0f} %"


def rate(value: float | None) -> str:
    """A rate for people."""
    return "n/a" if value is None else f"{value:.0f} tok/s"


def class_table(classes: Sequence[Mapping[str, Any]]) -> Table:
    """Default against tuned, per class."""
    table = Table(title="What was found", title_justify="left")
    columns = ("class", "application", "default", "tuned", "gain (95 % interval)", "pairs",
               "draft length", "acceptance")  # fmt: skip
    for name in columns:
        table.add_column(name)
    for row in classes:
        evidence = row["evidence"]
        tuned = row["promoted"]
        interval = f"[{percent(evidence['gain_low'])}, {percent(evidence['gain_high'])}]"
        length = evidence.get("acceptance_length")
        table.add_row(
            row["workload"],
            row["application"],
            rate(evidence["default_tok_s"]),
            rate(evidence["tok_s"]) if tuned else "default kept",
            f"{percent(evidence['gain'])} {interval}" if evidence["gain"] is not None else "n/a",
            str(evidence["pairs"]),
            row["label"],
            f"{length:.1f} tokens/step" if tuned and length is not None else "n/a",
        )
    return table


def trial_table(trials: Sequence[Mapping[str, Any]]) -> Table:
    """Every engine start of the search."""
    classes = sorted({m["workload"] for trial in trials for m in trial["measurements"]})
    table = Table(title="Engine starts", title_justify="left")
    for name in ("trial", "knobs", "why", *classes):
        table.add_column(name)
    for trial in sorted(trials, key=lambda t: t["id"]):
        found = {m["workload"]: m for m in trial["measurements"]}
        cells = [_cell(found.get(name)) for name in classes]
        table.add_row(str(trial["id"]), trial["label"], trial["why"], *cells)
    return table


def _cell(measurement: Mapping[str, Any] | None) -> str:
    if measurement is None:
        return ""
    reason = measurement["failure"] or measurement["invalid"]
    found = measurement.get("learned")
    return reason or rate(measurement["tok_s"]) + (f", k={found}" if found else "")


def request_table(tallies: Mapping[str, Tally], gateway: Mapping[str, Any], restarts: int) -> Table:
    """Requests as the applications saw them, and what the restarts cost them."""
    table = Table(title="Requests", title_justify="left")
    for name in ("application", "sent", "answered", "failed", "longest wait"):
        table.add_column(name)
    for name, tally in tallies.items():
        table.add_row(
            name,
            str(tally.sent),
            str(tally.answered),
            str(tally.failed),
            f"{tally.longest_s:.0f} s",
        )
    counters = gateway["counters"]
    table.caption = (
        f"{restarts} engine starts with traffic running; {counters['held_total']} requests were "
        f"held, {counters['held_s_total']:.0f} s together, longest {counters['held_s_max']:.0f} s"
    )
    return table


def print_failures(console: Console, tallies: Mapping[str, Tally]) -> None:
    """The first failures of each application, if there are any."""
    for name, tally in tallies.items():
        for failure in tally.failures[:3]:
            console.print(f"[red]{name}: {failure}[/red]")
