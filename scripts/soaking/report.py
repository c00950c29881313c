"""The table of a soak, and its record as JSON."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from soaking.checker import Verdict, fits, lives, outage_s
from soaking.faults import FAULTS
from soaking.history import History, Struck

ENDS = ("whole", "left", "cut", "broken", "refused", "unconnected", "hung", "wrong", "doubled",
        "malformed")  # fmt: skip
SHOWN = 3  # pieces of evidence per invariant in the table


def tables(history: History, verdicts: list[Verdict]) -> Iterator[str]:
    """Lines of Markdown."""
    facts = ", ".join(f"{key} {value}" for key, value in history.facts.items())
    yield f"{facts}\n"
    yield from _faults(history)
    yield from _requests(history)
    yield from _lives(history)
    yield "| invariant | held | first evidence |\n|---|---|---|"
    for verdict in verdicts:
        evidence = "; ".join(verdict.evidence[:SHOWN]).replace("|", "/")
        more = len(verdict.evidence) - SHOWN
        evidence += f"; and {more} more" if more > 0 else ""
        held = "yes" if verdict.held else f"**no** ({len(verdict.evidence)})"
        yield f"| {verdict.name} | {held} | {evidence or verdict.note} |"


def _faults(history: History) -> Iterator[str]:
    yield "| fault | times | longest healing, s | longest outage, s | requests may |"
    yield "|---|---|---|---|---|"
    for fault in FAULTS:
        if fault.name in history.skipped:
            yield f"| {fault.name} | 0 | | | not possible here: {history.skipped[fault.name]} |"
            continue
        found = [s for s in history.struck if s.fault == fault.name]
        may = ", ".join(sorted(fault.running | fault.later)) or "notice nothing"
        yield (
            f"| {fault.name} | {len(found)} | {_longest([_healing(s) for s in found])} | "
            f"{_longest([outage_s(s, history) for s in found])} | {may} |"
        )
    yield ""


def _healing(struck: Struck) -> float | None:
    if struck.healed is None or struck.ended is None:
        return None
    return struck.healed - struck.ended


def _longest(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{max(known):.1f}" if known else "-"


def _requests(history: History) -> Iterator[str]:
    counts: dict[str, Counter[str]] = {}
    for attempt in history.attempts:
        ends = counts.setdefault(attempt.application, Counter())
        ends[attempt.outcome or "hung"] += 1
    total: Counter[str] = sum(counts.values(), Counter())
    used = [end for end in ENDS if total[end]]
    yield "| requests | " + " | ".join(used) + " |"
    yield "|---" * (len(used) + 1) + "|"
    for name, ends in sorted(counts.items()):
        yield f"| {name} | " + " | ".join(str(ends[end]) for end in used) + " |"
    yield f"| all, {total.total()} | " + " | ".join(str(total[end]) for end in used) + " |\n"


def _lives(history: History) -> Iterator[str]:
    yield "| process | reading | first | last | per hour | surely grew by | allowed |"
    yield "|---|---|---|---|---|---|---|"
    for life in lives(history.samples):
        for name, (fitted, allowance) in fits(life).items():
            yield (
                f"| {life[0].role}, {fitted.span_s:.0f} s | {name} | {fitted.first:.1f} | "
                f"{fitted.last:.1f} | {fitted.slope_per_h:+.1f} | "
                f"{max(fitted.surely, 0.0):.1f} | {allowance:.1f} |"
            )
    yield ""


def record(history: History, verdicts: list[Verdict]) -> dict[str, Any]:
    """Everything but the readings of short lives and the ends of requests that went well."""
    total = Counter(attempt.outcome or "hung" for attempt in history.attempts)
    return {
        "facts": history.facts,
        "requests": dict(total),
        "faults": [
            {**asdict(struck), "outage_s": outage_s(struck, history)} for struck in history.struck
        ],
        "skipped": history.skipped,
        "invariants": [asdict(verdict) | {"held": verdict.held} for verdict in verdicts],
        "lives": [
            {
                "role": life[0].role,
                "from_s": life[0].at,
                "to_s": life[-1].at,
                "lines": {name: asdict(fitted) for name, (fitted, _) in fits(life).items()},
                "readings": [
                    [round(s.at), round(s.rss_mib, 2), s.descriptors, s.threads]
                    for s in life[:: max(1, len(life) // 60)]
                ],
            }
            for life in lives(history.samples)
        ],
        "not_whole": [asdict(a) for a in history.attempts if a.outcome not in {"whole", "left"}],
    }
