"""P: lists of the control API as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from rich.console import Group, RenderableType
from rich.text import Text

from profiles.knobs import Knobs
from tuner.cli import layout
from tuner.cli.text import MISSING, clock, counted, gain, number, safe, short, tokens

Item = Mapping[str, Any]


def items(answer: Item, key: str) -> list[Item]:
    """The list in an answer; empty when it is not there."""
    value = answer.get(key)
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def label(item: Item) -> str:
    """The label of a profile or trial, made from its knobs when the daemon sent none."""
    if item.get("label"):
        return safe(item["label"])
    try:
        knobs = item.get("knobs")
        return Knobs.model_validate(knobs).label() if isinstance(knobs, Mapping) else MISSING
    except ValidationError:
        return MISSING


def part(item: Item, key: str) -> Item:
    """A table in an answer; empty when it is not there."""
    value = item.get(key)
    return value if isinstance(value, Mapping) else {}


def evidence(item: Item) -> Item:
    """The evidence of a profile."""
    return part(item, "evidence")


def render_profiles(answer: Item, *, now: float, width: int) -> RenderableType:
    """One line per profile; those of another machine or vLLM are marked."""
    rows = []
    for item in items(answer, "profiles"):
        state = "in force" if item.get("id") == answer.get("in_force") else ""
        if item.get("platform") != answer.get("platform", item.get("platform")):
            state = "of another platform"
        proof = evidence(item)
        rows.append(
            (
                short(item.get("id")),
                safe(item.get("workload")),
                label(item),
                number(proof.get("tok_s"), "tok/s"),
                gain(proof.get("gain"), proof.get("gain_low"), proof.get("gain_high")),
                safe(item.get("origin")),
                clock(item.get("created_at"), now),
                state,
            )
        )
    headers = ("id", "class", "knobs", "rate", "gain", "origin", "made", "state")
    empty = "No profile yet; `tuner tune` makes them."
    return layout.table(headers, rows, width=width, empty=empty)


def render_profile(item: Item, *, now: float) -> RenderableType:
    """One profile with its evidence."""
    proof = evidence(item)
    interval = gain(proof.get("gain"), proof.get("gain_low"), proof.get("gain_high"))
    confidence = number(proof.get("confidence"), digits=2)
    return layout.pairs(
        [
            ("id", safe(item.get("id"))),
            ("class", safe(item.get("workload"))),
            ("knobs", label(item)),
            ("platform", safe(item.get("platform"))),
            ("origin", safe(item.get("origin"))),
            ("made", clock(item.get("created_at"), now)),
            ("rate", number(proof.get("tok_s"), "tok/s", 1)),
            ("default", number(proof.get("default_tok_s"), "tok/s", 1)),
            ("objective", safe(proof.get("objective"))),
            ("latency", number(proof.get("latency_p95_s"), "s p95", 2)),
            ("gain", f"{interval} at {confidence}, {safe(proof.get('pairs'))} start pairs"),
            ("search", f"{safe(proof.get('trials'))} engine starts"),
            ("acceptance", f"{number(proof.get('acceptance_length'), digits=2)} tokens a step"),
            ("energy", number(proof.get("joule_per_token"), "J/token", 2)),
            ("because", safe(proof.get("sentence"))),
        ]
    )


def render_pins(found: Sequence[Item], *, width: int) -> RenderableType:
    """One line per pinned application."""
    rows = [
        (safe(item.get("application")), short(item.get("profile")), label(item)) for item in found
    ]
    empty = "No application is pinned; `tuner pin APP PROFILE` does it."
    return layout.table(("application", "profile", "knobs"), rows, width=width, empty=empty)


def render_holds(found: Sequence[Item], *, now: float, width: int) -> RenderableType:
    """One line per application that holds a profile."""
    rows = [
        (
            safe(item.get("application")),
            short(item.get("profile")),
            label(item),
            clock(item.get("since"), now),
            safe(item.get("reason")),
        )
        for item in found
    ]
    empty = "No application holds a profile; `tuner launch` and `tuner hold` do it."
    heads = ("application", "profile", "knobs", "since", "reason")
    return layout.table(heads, rows, width=width, empty=empty)


def render_trials(found: Sequence[Item], *, now: float, width: int) -> RenderableType:
    """One line per class that an engine start measured, or one saying why it measured none."""
    rows = []
    for trial in found:
        when = clock(trial.get("opened_at"), now)
        start = (safe(trial.get("id")), when, label(trial))
        measured = items(trial, "measurements")
        if not measured:
            rows.append((*start, MISSING, MISSING, MISSING, _outcome(trial)))
        for one in measured:
            failed = one.get("failure") or one.get("invalid")
            remark = safe(one.get("phase"))
            if one.get("learned"):
                remark += f", draft length {safe(one['learned'])}"
            rows.append(
                (
                    *start,
                    safe(one.get("workload")),
                    number(one.get("tok_s"), "tok/s", 1),
                    number(one.get("acceptance_length"), digits=2),
                    safe(failed) if failed else remark,
                )
            )
    headers = ("trial", "when", "knobs", "class", "rate", "accepted", "remark")
    empty = "No trial yet; `tuner tune` starts a search."
    return layout.table(headers, rows, width=width, empty=empty)


def _outcome(trial: Item) -> str:
    """Why an engine start measured nothing."""
    failure = part(trial, "failure")
    if failure:
        return f"{safe(failure.get('kind'))}: {safe(failure.get('sentence'))}"
    return safe(trial.get("status"))


def render_history(
    found: Sequence[Item], ledger: Item, *, now: float, width: int
) -> RenderableType:
    """The ledger in one line, then one line per event."""
    rows = [
        (clock(item.get("at"), now), safe(item.get("kind")), safe(item.get("sentence")))
        for item in found
    ]
    headers = ("when", "kind", "what")
    table = layout.table(headers, rows, width=width, empty="Nothing has happened yet.")
    return Group(Text(ledger_line(ledger)), table) if ledger else table


def ledger_line(ledger: Item) -> str:
    """What restarts cost and gave: `switched 3 times, cost 41 k tokens, gained 212 k; ...`."""
    lost, gained = tokens(ledger.get("lost_tokens")), tokens(ledger.get("gained_tokens"))
    line = (
        f"switched {counted(ledger.get('switches'), 'time')}, cost {lost} tokens, gained {gained}"
    )
    if ledger.get("live_switches"):
        line += f"; {counted(ledger['live_switches'], 'live switch')} cost nothing"
    return f"{line}; {counted(ledger.get('avoided'), 'switch')} avoided"


def render_checks(checks: Sequence[Item]) -> RenderableType:
    """One line per check of `tuner doctor`, its hint below it."""
    rows: list[tuple[str, str]] = []
    for item in checks:
        rows.append((safe(item.get("state")), f"{safe(item.get('name'))}: {item.get('sentence')}"))
        if item.get("hint"):
            rows.append(("", f"→ {item['hint']}"))
    return layout.pairs([(state, safe(text)) for state, text in rows])
