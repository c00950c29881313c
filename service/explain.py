"""The answer of `GET /v1/explain`: what the store and the daemon know about the classes."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from profiles.errors import NotFoundError, TunerError
from service.daemon import Daemon
from service.live_loop import JOIN
from service.live_status import live_status
from service.modes import Mode
from service.status import brief
from tuner.explain import Bar, Facts, Learned, explain
from tuner.objective import Goals
from tuner.space import Space
from tuner.tried import Row


async def explained(daemon: Daemon, wanted: str | None) -> dict[str, Any]:
    """Why each class runs what it runs; `wanted` is the beginning of a class, None means all.

    Raises:
        NotFoundError: nothing is known about such a class.
    """
    parts, state = daemon.parts, daemon.state
    archive, digest = parts.archive, parts.platform.digest
    rows: Sequence[Row] = await archive.call(archive.store.numbered_measurements, digest)
    promotions = await archive.call(archive.store.promotions, digest)
    known = sorted({row.workload for _, row in rows} | {*promotions} | {*parts.observer.seen})
    chosen = [name for name in known if name.startswith(wanted or "")]
    if wanted and not chosen:
        raise NotFoundError(
            f"Nothing is known about class {wanted!r} (known: {', '.join(known) or 'none'}).",
            hint="A class is known once its traffic was seen or it was tuned.",
        )
    quarantined = await archive.call(archive.store.quarantined, digest, time.time())
    live = await asyncio.to_thread(live_status, parts.slot, parts.live)
    space = await _space(daemon) if rows else None
    facts = [
        Facts(
            workload=name,
            rows=rows,
            promotion=promotions.get(name),
            profile=await archive.call(archive.store.profile, promotions[name].profile)
            if name in promotions
            else None,
            default=parts.config.engine.default,
            pairs=parts.config.tuning.pairs,
            min_gain=parts.config.tuning.min_gain,
            goals=Goals.of(parts.config.tuning),
            quarantined=quarantined,
            space=space,
            probation=_probation(daemon, name),
            mixtures=_mixtures(live, name),
        )
        for name in chosen
    ]
    # arithmetic over every row that was ever measured: not on the loop of the engine's owner
    found = await asyncio.to_thread(lambda: [explain(each) for each in facts])
    return {
        "why": state.why,
        "in_force": brief(state.in_force),
        "classes": [asdict(each) for each in found],
    }


async def _space(daemon: Daemon) -> Space | None:
    """The space of a search that would begin now; vLLM may not be there to be asked."""
    try:
        return await daemon.parts.lab.space()
    except TunerError:
        return None


def _probation(daemon: Daemon, workload: str) -> Bar | None:
    state = daemon.state
    if state.mode is not Mode.PROBATION or state.in_force.workload != workload:
        return None
    return Bar(
        kind="probation",
        sentence=f"{state.in_force.knobs.label()} is judged on real traffic",
        until=state.switched_at + daemon.parts.config.policy.probation_s,
    )


def _mixtures(live: dict[str, Any], workload: str) -> list[Learned]:
    """What the live loop knows now about mixtures with this class."""
    request = workload.rpartition(".")[0]
    return [
        Learned(sentence=_learned(mixture), at=mixture["settled_at"])
        for mixture in live["mixtures"]
        if request in mixture["name"].split(JOIN)
    ]


def _learned(mixture: dict[str, Any]) -> str:
    if mixture["settled_at"] is not None:
        return f"{mixture['name']} runs draft length {mixture['label']}: {mixture['why']}"
    rounds = "1 round" if mixture["rounds"] == 1 else f"{mixture['rounds']} rounds"
    left = f"{mixture['left']} of {mixture['arms']} draft lengths left"
    return f"{mixture['name']} is being learned, {left} after {rounds}"
