"""P: the answer of /v1/status as the page that `tuner status` shows."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from tuner.cli import layout
from tuner.cli.render_tables import items, part
from tuner.cli.text import MISSING, clock, counted, gain, number, safe, share, short, span

EVENTS_SHOWN = 3
DOT = " · "


def render_status(status: Mapping[str, Any], *, now: float, width: int) -> RenderableType:
    """The whole page."""
    head = Text.assemble(
        (f"tunerd {safe(status.get('version'))}", "bold"),
        f"{DOT}{safe(status.get('mode'))}{DOT}up {span(status.get('uptime_s'))}",
        f"{DOT}{safe(status.get('listen'))}",
    )
    rows = [
        ("now", safe(status.get("sentence"))),
        ("engine", engine(part(status, "engine"), part(status, "telemetry"))),
        *(("", line) for line in sensors(part(status, "telemetry"))),
        *_labelled("profile", profile(part(status, "profile"), now)),
        ("", rates(status)),
        *_labelled("live", live(part(status, "live"))),
        *_labelled("classes", classes(part(status, "traffic"), width)),
        *_labelled("pins", pins(items(status, "pins"))),
        *(_labelled("holds", pins(held)) if (held := items(status, "holds")) else ()),
        ("tuning", tuning(part(status, "tuning"))),
        ("gateway", gateway(part(status, "gateway"))),
        *_labelled("config", reloaded(part(status, "reload"))),
        *_labelled("events", events(items(status, "events"), now)),
    ]
    return Group(head, layout.pairs(rows))


def reloaded(data: Mapping[str, Any]) -> list[str]:
    """What the file says and the daemon does not do: until it is corrected, or a restart."""
    unlike = bool(data.get("refused") or data.get("waiting"))
    return [safe(data.get("sentence"))] if unlike else []


def engine(data: Mapping[str, Any], telemetry: Mapping[str, Any]) -> str:
    """The running engine in one line."""
    if not data:
        return "none"
    parts = [
        safe(data.get("model")).rpartition("/")[2] or MISSING,
        safe(data.get("label")),
        f"vLLM {safe(data.get('vllm_version'))}",
        f"power {number(telemetry.get('power_w'), 'W')}",
        f"temperature {number(telemetry.get('temperature_c'), '°C')}",
        f"pid {safe(data.get('pid'))}",
    ]
    if data.get("state") not in {None, "ready", "running"}:  # only what is unusual
        parts.append(safe(data["state"]))
    return DOT.join(parts)


def sensors(data: Mapping[str, Any]) -> list[str]:
    """Memory, clocks and processor in one line, and why tuning pauses or sensors are missing."""
    figures = [
        f"GPU memory {number(data.get('gpu_memory_mib'), 'MiB')}",
        f"host CPU {share(data.get('host_cpu'))}",
        f"host memory {number(data.get('host_memory_mib'), 'MiB')}",
    ]
    if data.get("sm_clock_mhz") is not None:
        figures.insert(1, f"clock {number(data.get('sm_clock_mhz'), 'MHz')}")
    lines = [DOT.join(figures)]
    if part(data, "fault"):
        lines.append(f"tuning is paused: {safe(part(data, 'fault').get('sentence'))}")
    elif data.get("gpus") and data.get("reason"):
        lines.append(safe(data["reason"]))
    return lines


def profile(data: Mapping[str, Any], now: float) -> list[str]:
    """The profile in force and why."""
    if not data:
        return ["the default; no profile is in force"]
    lines = [
        DOT.join(
            [
                f"{safe(data.get('workload'))} {short(data.get('id'))}",
                safe(data.get("label")),
                f"since {clock(data.get('since'), now)}",
            ]
        ),
        f"because {safe(data.get('why'))}",
    ]
    proof = part(data, "evidence").get("sentence")
    if proof and proof != data.get("why"):  # of the operator's own configuration both are one
        lines.append(safe(proof))
    return lines


def live(data: Mapping[str, Any]) -> list[str]:
    """Whether knobs are live, the schedule in force, and what is known of each mixture."""
    if not data:
        return [MISSING]
    if data.get("knobs") != "live":
        return [f"knobs change by restart: {safe(data.get('fault') or data.get('sentence'))}"]
    force = part(data, "in_force")
    line = f"knobs live{DOT}draft length {safe(force.get('label'))}"
    caps = [
        f"{name} {safe(force[key])}"
        for name, key in (("admitted", "active"), ("budget", "budget"))
        if force.get(key)
    ]
    lines = [DOT.join([line, *caps])]
    for item in items(data, "mixtures"):
        here = "* " if item.get("name") == data.get("mixture") else "  "
        state = (
            f"expected loss {share(item.get('expected_loss'), 1)}"
            if item.get("settled_at")
            else f"learning, {safe(item.get('left'))} of {safe(item.get('arms'))} lengths left"
        )
        lines.append(
            here
            + DOT.join(
                [
                    safe(item.get("name")),
                    safe(item.get("label")),
                    state,
                    f"{counted(item.get('rounds'), 'round')} in {span(item.get('traffic_s'))}",
                    f"explored {share(item.get('explored_share'), 1)} of steps",
                    f"lost {share(item.get('forgone_share'), 1)} of tokens",
                ]
            )
        )
    return lines


def rates(status: Mapping[str, Any]) -> str:
    """Tokens per second now beside what the default and the profile were measured at."""
    evidence = part(part(status, "profile"), "evidence")
    now = part(status, "traffic").get("tok_s_now")
    measured = f"measured: default {number(evidence.get('default_tok_s'), 'tok/s')}"
    tuned = f"profile {number(evidence.get('tok_s'), 'tok/s')}"
    interval = gain(evidence.get("gain"), evidence.get("gain_low"), evidence.get("gain_high"))
    return f"{number(now, 'tok/s')} now{DOT}{measured}, {tuned}, {interval}"


def classes(traffic: Mapping[str, Any], width: int) -> list[str]:
    """One line per class of the window, aligned while there is room."""
    rows = [
        (
            safe(item.get("workload")),
            share(item.get("share")),
            counted(item.get("requests"), "request"),
            gain(item.get("gain"), item.get("gain_low"), item.get("gain_high")),
            safe(item.get("state")),
        )
        for item in items(traffic, "classes")
    ]
    if not rows:
        return [f"no traffic in the last {span(traffic.get('window_s'))}"]
    if width < layout.NARROW:
        return [DOT.join(row) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "   ".join(
            cell.ljust(size) if place in {0, 4} else cell.rjust(size)
            for place, (cell, size) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def pins(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Application and what it is pinned to."""
    return [
        f"{safe(item.get('application'))} → {safe(item.get('label'))} {short(item.get('profile'))}"
        for item in found
    ] or ["none"]


def tuning(data: Mapping[str, Any]) -> str:
    """What the search does."""
    if not data.get("active"):
        return safe(data.get("sentence")) if data.get("sentence") else "idle"
    count = f"trial {safe(data.get('trial'))} of {safe(data.get('trials'))}"
    parts = [count, safe(data.get("phase")), safe(data.get("sentence"))]
    for workload, best in part(data, "best").items():
        if isinstance(best, Mapping):
            rate = safe(best.get("figure") or number(best.get("tok_s"), "tok/s"))
            parts.append(f"best for {safe(workload)} so far {safe(best.get('label'))}, {rate}")
    return DOT.join(word for word in parts if word != MISSING)


def gateway(data: Mapping[str, Any]) -> str:
    """The gate and the balance of requests."""
    if not data:
        return "does not answer"
    counters = part(data, "counters")
    parts = [
        safe(data.get("gate")),
        f"{number(data.get('in_flight'))} in flight",
        f"{number(data.get('held'))} held",
        f"{number(counters.get('answered'))} answered",
        f"{number(counters.get('failed'))} failed",
        f"longest hold {number(counters.get('held_s_max'), 's', 1)}",
    ]
    if data.get("plain_waiting"):
        parts.append(f"{number(data['plain_waiting'])} waiting for an engine without speculation")
    return DOT.join(parts)


def events(found: Sequence[Mapping[str, Any]], now: float) -> list[str]:
    """The last events, newest first."""
    recent = sorted(found, key=_moment, reverse=True)[:EVENTS_SHOWN]
    return [f"{clock(item.get('at'), now)}  {safe(item.get('sentence'))}" for item in recent] or [
        "none"
    ]


def _moment(event: Mapping[str, Any]) -> float:
    at = event.get("at")
    return at if isinstance(at, int | float) else 0.0


def _labelled(label: str, lines: list[str]) -> list[tuple[str, str]]:
    return [(label if number == 0 else "", line) for number, line in enumerate(lines)]
