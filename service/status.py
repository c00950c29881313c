"""The answers of the control API, assembled from what the owners show."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from profiles import schedule
from profiles.errors import UnavailableError
from profiles.knobs import Knobs
from profiles.profile import Profile
from profiles.records import Account, Event
from service.daemon import Daemon
from service.hold_routes import shown
from service.ledger import totals
from service.live_status import live_status
from service.traffic import ClassTraffic
from tuner.telemetry import Telemetry
from tuner.version import version

EVENTS = 8


async def status(daemon: Daemon, telemetry: Telemetry, started_at: float) -> dict[str, Any]:
    """Everything that `tuner status` shows; what is not known is None."""
    parts, state = daemon.parts, daemon.state
    archive, config = parts.archive, parts.config
    now = time.time()
    window = parts.observer.window(now)
    promoted = await archive.promoted(parts.platform.digest)
    pins = await archive.pins(parts.platform.digest)
    try:
        gateway: dict[str, Any] | None = await parts.gateway.state()
    except UnavailableError:
        gateway = None
    progress = parts.lab.progress
    decision = state.decision
    return {
        "version": version(),
        "mode": str(state.mode),
        "sentence": state.sentence,
        "since": state.since,
        "uptime_s": now - started_at,
        "listen": f"http://{config.gateway.listen}/v1",
        "platform": {"digest": parts.platform.digest, "label": parts.platform.label()},
        "engine": _engine(daemon),
        "live": await asyncio.to_thread(live_status, parts.slot, parts.live),
        "profile": {
            **brief(state.in_force),
            "since": state.switched_at or state.since,
            "why": state.why,
            "waiting": None if decision is None or decision.switch else decision.why,
        },
        "traffic": {
            "window_s": window.span_s,
            "requests": window.requests,
            "tok_s_now": window.tok_s,
            "classes": [_class(c, promoted.get(str(c.workload)), now) for c in window.classes],
        },
        "telemetry": asdict(telemetry.snapshot()),
        "gateway": gateway,
        "pins": [
            {"application": name, "profile": profile.id, "label": profile.knobs.label()}
            for name, profile in sorted(pins.items())
        ],
        "holds": [shown(hold) for hold in parts.holds],
        "tuning": None
        if progress is None
        else {"active": state.mode == "tuning", **asdict(progress)},
        "restarts": parts.slot.restarts,
        "reload": None if state.reloaded is None else asdict(state.reloaded),
        "events": [event(e) for e in await archive.call(archive.store.events, EVENTS)],
    }


def brief(profile: Profile) -> dict[str, Any]:
    """A profile for a list."""
    return {
        "id": profile.id,
        "label": profile.knobs.label(),
        "knobs": profile.knobs.given(),
        "workload": profile.workload,
        "platform": profile.platform,
        "origin": str(profile.origin),
        "evidence": profile.evidence.model_dump(),
        "created_at": profile.created_at,
    }


def learned(canonical: str) -> str | None:
    """The draft lengths that a measurement found inside its engine; None without live knobs."""
    knobs = Knobs.model_validate_json(canonical)
    return schedule.label(knobs.lengths) if knobs.live else None


def account(accounts: Sequence[Account]) -> dict[str, Any]:
    """The ledger of restarts, together and by profile."""
    return {**asdict(totals(accounts)), "profiles": [each.model_dump() for each in accounts]}


def event(happened: Event) -> dict[str, Any]:
    """An event for a list."""
    return {"at": happened.at, "kind": happened.kind, "sentence": happened.sentence}


def _engine(daemon: Daemon) -> dict[str, Any] | None:
    engine = daemon.parts.slot.engine
    if engine is None:
        return None
    record = engine.record
    return {
        "pid": record.pid,
        "token": record.token,
        "purpose": record.purpose,
        "knobs": engine.knobs.given(),
        "label": engine.knobs.label(),
        "model": daemon.parts.config.engine.model,
        "vllm_version": daemon.parts.platform.vllm,
        "ready_s": record.ready_s,
        "since": record.started_at,
        "log": record.log,
        "state": "ended" if engine.ended.is_set() else "running",
    }


def _class(traffic: ClassTraffic, profile: Profile | None, now: float) -> dict[str, Any]:
    evidence = None if profile is None else profile.evidence
    if profile is None or evidence is None:
        state = "not tuned yet"
    elif profile.origin == "default":
        state = f"kept the default: {evidence.sentence}"
    else:
        state = f"promoted {_ago(now - profile.created_at)} ago"
    return {
        "workload": str(traffic.workload),
        "share": traffic.share,
        "requests": traffic.requests,
        "tok_s": traffic.tok_s,
        "concurrency": traffic.concurrency,
        "applications": dict(traffic.applications),
        "profile": None if profile is None else profile.id,
        "state": state,
        "gain": evidence and evidence.gain,
        "gain_low": evidence and evidence.gain_low,
        "gain_high": evidence and evidence.gain_high,
        "default_tok_s": evidence and evidence.default_tok_s,
        "tuned_tok_s": evidence and evidence.tok_s,
    }


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
