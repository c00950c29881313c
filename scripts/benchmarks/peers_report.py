"""The comparison as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from peers_candidates import title
from peers_judge import DEFAULT
from peers_result import Found

from profiles.knobs import Knobs


def overview(found: Sequence[Found], judged: Mapping[str, Any] | None) -> str:
    """One row per tool: cost, winner, and what the judge measured of it."""
    heads = (
        *("tool", "wall time", "engine starts", "crashed trials", "left behind", "winner"),
        *("can start", "its own figure, tok/s", "judged, tok/s [95 %]", "against default [95 %]"),
        "TTFT p95 / time per token",
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for each in found:
        cost = (f"{each.wall_s / 60:.1f} min", each.starts, each.crashes, each.left_behind)
        row = _judged(judged, each.winner)
        lines.append(_row(each.tool, cost, each.winner_label, each.claimed_tok_s, row))
        if each.refused is not None:  # measured as best, and not put in force
            row, name = _judged(judged, each.refused), f"{each.tool}: refused by its verdict"
            lines.append(_row(name, "----", each.refused_label, each.refused_tok_s, row))
    row = (judged or {}).get("arms", {}).get(DEFAULT)
    lines.append(_row("vLLM's default", "----", DEFAULT, None, row))
    return "\n".join(lines)


def _row(
    name: str,
    cost: Sequence[str | int],
    label: str | None,
    claimed_tok_s: float | None,
    row: Mapping[str, Any] | None,
) -> str:
    seen = (_starts(row), _plain(claimed_tok_s), _rate(row), _gain(row), _latencies(row))
    return f"| {' | '.join(map(str, (name, *cost, label or 'none', *seen)))} |"


def _latencies(row: Mapping[str, Any] | None) -> str:
    if row is None or row["ttft_p95_s"] is None or row["tpot_mean_s"] is None:
        return "-"
    return f"{1e3 * row['ttft_p95_s']:.0f} / {1e3 * row['tpot_mean_s']:.1f} ms"


def trials(found: Sequence[Found]) -> str:
    """What every tool measured in which configuration, by its own client."""
    lines = ["| tool | what it measured | trials (tok/s by its own client) |", "|---|---|---|"]
    for each in found:
        cells = [
            f"{trial.label} " + ("crashed" if trial.failed else _plain(trial.tok_s))
            for trial in each.trials
        ]
        lines.append(f"| {each.tool} | {each.measured} | {', '.join(cells)} |")
    return "\n".join(lines)


def notes(found: Sequence[Found]) -> str:
    """Versions, dates and remarks."""
    lines = []
    for each in found:
        named = ", ".join(f"{name} {version}" for name, version in each.versions.items())
        parts = [f"- {each.tool} ({named}), begun {each.began_at} UTC"]
        parts += [each.note] if each.note else []
        parts += [f"verdict: {each.verdict}"] if each.verdict else []
        if each.phases:
            spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in each.phases.items())
            parts.append(f"of its time: {spent}")
        lines.append("; ".join(parts) + ".")
    return "\n".join(lines)


def rounds(judged: Mapping[str, Any]) -> str:
    """Every measurement of the judge."""
    names = list(judged["arms"])
    lines = [f"| round | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for number, row in enumerate(judged["rounds"], start=1):
        lines.append(f"| {number} | {' | '.join(_seen(row.get(name)) for name in names)} |")
    reasons = [f"- {name} {why}" for name, why in judged["reasons"].items()]
    return "\n".join([*lines, "", *reasons]).rstrip()


def _judged(judged: Mapping[str, Any] | None, winner: dict[str, Any] | None) -> Any:
    if judged is None or winner is None:
        return None
    knobs = Knobs.model_validate({**winner, "cpu_kv_gib": None})
    return judged["arms"].get(title(knobs))


def _starts(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "not judged"
    whole = row["starts"] + row["failed"]
    word = "yes" if not row["failed"] else "no" if not row["starts"] else "not always"
    return f"{word}, {row['starts']} of {whole}"


def _rate(row: Mapping[str, Any] | None) -> str:
    if row is None or row["tok_s"] is None:
        return "-"
    mean, low, high = row["tok_s"]
    return f"{mean:.0f} [{low:.0f}, {high:.0f}]"


def _gain(row: Mapping[str, Any] | None) -> str:
    if row is None or row["gain"] is None:
        return "-"
    mean, low, high = (100 * (value - 1) for value in row["gain"])
    return f"{mean:+.1f} % [{low:+.1f}, {high:+.1f}]"


def _seen(one: Mapping[str, Any] | None) -> str:
    return "-" if one is None else _plain(one["tok_s"])


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
