"""What survives a restart: the profile of last time, and what the live loop has found."""

import math
import time
from collections.abc import Awaitable, Callable

from profiles import schedule
from profiles.classes import CODES, WorkloadClass, load_bin
from profiles.errors import TunerError
from profiles.knobs import Knobs
from profiles.measurement import Block, Measurement
from profiles.profile import Profile
from service.mixture import Mixture
from service.state import Parts, State
from tuner.cells import Cells, total

LEARNED = "; then learned live: "


async def remembered(parts: Parts, state: State) -> tuple[Profile, str]:
    """The profile that was in force last time, if it still fits; else the operator's own."""
    archive, digest = parts.archive, parts.platform.digest
    last = await archive.call(archive.store.in_force)
    if last is None:
        return state.default, "your own configuration"
    try:
        profile = await archive.call(archive.store.profile, last.profile)
        parts.slot.plan(profile.knobs, profile=profile.id, purpose="serve")
    except TunerError:
        return state.default, "the profile of last time does not fit this configuration"
    if profile.platform != digest:
        return state.default, "the profile of last time does not fit this platform"
    refusal = await archive.refusal(profile)
    if refusal is not None:
        return state.default, f"the profile of last time is not restored: {refusal}"
    return profile, last.why


class LiveMemory:
    """Writes down what the live loop has settled."""

    def __init__(self, parts: Parts, say: Callable[[str, str], Awaitable[None]]) -> None:
        self._parts = parts
        self._say = say

    async def learned(self, mixture: Mixture, knobs: Knobs, cells: Cells) -> None:
        """Keep a schedule as evidence, and in the profile of its class if that has one."""
        shown = schedule.label(knobs.lengths)
        await self._say("live", f"{mixture.name}: draft length {shown}; {mixture.why}")
        workload = _workload(mixture.name, cells)
        engine = self._parts.slot.engine
        if workload is None or engine is None:
            return  # a mixture of classes has no row of its own
        archive, platform = self._parts.archive, self._parts.platform.digest
        used = total(
            {
                (b, k): cell
                for (b, k), cell in cells.items()
                if k == schedule.length_at(knobs.lengths, b)
            }
        )
        if used.seconds > 0:
            row = Measurement(
                platform=platform,
                workload=workload,
                knobs=knobs.canonical(),
                started_at=time.time(),
                engine_token=engine.record.token,
                phase="live",
                concurrency=max(1, round(_mean_batch(cells))),
                blocks=(Block(seconds=used.seconds, output_tokens=used.tokens, requests=0),),
            )
            await archive.call(archive.store.add_measurement, row)
        old = (await archive.promoted(platform)).get(workload)
        if not archive.goals.seen_in_rates:
            return  # the row is kept; a session decides with sensors
        if old is None or old.knobs == knobs or old.knobs.cold() != knobs.cold():
            return
        proof = old.evidence.sentence.split(LEARNED)[0]  # said once, however often it is learned
        sentence = f"{proof}{LEARNED}{shown}"
        evidence = old.evidence.model_copy(update={"sentence": sentence})
        fresh = old.model_copy(
            update={"knobs": knobs, "evidence": evidence, "created_at": time.time()}
        )
        await archive.promote(fresh, kept_default=False)


def _workload(name: str, cells: Cells) -> str | None:
    found = [one for one in CODES if str(one) == name]
    if not found:
        return None
    return str(WorkloadClass(request=found[0], load=load_bin(_mean_batch(cells))))


def _mean_batch(cells: Cells) -> float:
    steps = sum(cell.steps for cell in cells.values())
    mean = sum(batch * cell.steps for (batch, _), cell in cells.items()) / steps if steps else 1.0
    return mean if math.isfinite(mean) else 1.0
