"""Visits: slices of the engine's time at one draft length each, closed by the next change."""

import asyncio
from collections.abc import Mapping

from profiles.errors import UnavailableError
from service.live_files import LiveKnobs, Telemetry
from service.live_link import LiveLink
from tuner.cells import Cell, Cells, difference, total
from tuner.drafts import ByLength, pooled, since
from tuner.learner import Visit

LEAST_STEPS = 4  # pure decode steps that make a visit
LONGER = 6  # times the slice that a slow engine may take for them
CONFIRM_S = 2.0
ENOUGH = 8  # request-steps in which a share means something


class Visits:
    """Changes the knobs of one engine and reads what each change gave.

    An engine publishes its counters whenever its knobs change, so what lies between two changes
    is exact, however late it is read.
    """

    def __init__(self, link: LiveLink) -> None:
        self._link = link
        self._arm: int | None = None
        self._generation = link.generation  # of the last knobs that were ours, or found
        self._ours = False  # what is in force is a probe of ours
        self._reading: Telemetry | None = None

    async def move(
        self, arm: int, slice_s: float, *, active: int = 0, budget: int = 0
    ) -> Visit | None:
        """Go to a draft length and stay for a slice; the visit that this ends, if any.

        Raises:
            UnavailableError: the engine takes no steps, or somebody else has set its knobs.
        """
        return await self.hold(LiveKnobs.constant(arm, active=active, budget=budget), arm, slice_s)

    async def hold(self, wish: LiveKnobs, arm: int, slice_s: float) -> Visit | None:
        """The same with any knobs; only steps at the draft length `arm` will count.

        Raises:
            UnavailableError: the engine takes no steps, or somebody else has set its knobs.
        """
        visit = await self.end(wish)
        self._arm, self._ours = arm, True
        await self._wait(arm, slice_s)
        return visit

    async def end(self, wish: LiveKnobs) -> Visit | None:
        """Put these knobs in force; the visit that this ends, None when it had too few steps."""
        before, arm = self._reading, self._arm
        after = await self._change(wish)
        self._reading, self._arm, self._ours = after, None, False
        if before is None or arm is None:
            return None
        return visit_of(arm, before, after)

    async def leave(self, wish: LiveKnobs) -> None:
        """Put these knobs in force unless somebody else has changed them since the last visit."""
        if self._ours:
            await asyncio.to_thread(self._link.put_after, self._generation, wish)
        self._reading, self._arm, self._ours = None, None, False
        self._generation = self._link.generation

    async def _change(self, wish: LiveKnobs) -> Telemetry:
        generation = await asyncio.to_thread(self._link.put_after, self._generation, wish)
        if generation is None:  # a switch: its knobs are not ours to overwrite
            raise UnavailableError("Somebody else has set the engine's knobs.")
        self._generation, self._ours = generation, True
        found = await self._link.confirmed(generation, timeout_s=CONFIRM_S)
        if found is None:
            raise UnavailableError("The engine takes no steps, so there is nothing to visit.")
        return found

    async def _wait(self, arm: int, slice_s: float) -> None:
        for _ in range(LONGER):
            await asyncio.sleep(slice_s)
            now = await asyncio.to_thread(self._link.read)
            if now is None or self._reading is None:
                return
            if steps_at(arm, difference(self._reading.cells, now.cells)) >= LEAST_STEPS:
                return


def visit_of(arm: int, before: Telemetry, after: Telemetry) -> Visit | None:
    """What lies between two readings as a visit."""
    cells = difference(before.cells, after.cells)
    if steps_at(arm, cells) < LEAST_STEPS:
        return None
    return Visit(arm=arm, cells=cells, drafts=all_drafts(before, after))


def steps_at(arm: int, cells: Cells) -> int:
    """Pure decode steps at one draft length."""
    return sum(cell.steps for (_, k), cell in cells.items() if k == arm)


def all_drafts(before: Telemetry, after: Telemetry) -> ByLength:
    """Drafts between two readings, of all classes together."""
    return pooled(since(before.classes, after.classes).values())


def shares(before: Telemetry, after: Telemetry) -> Mapping[int, float]:
    """The share of each class code in the request-steps between two readings, if enough."""
    found = {
        code: sum(drafts.request_steps for drafts in by_length.values())
        for code, by_length in since(before.classes, after.classes).items()
    }
    whole = sum(found.values())
    return {code: count / whole for code, count in found.items()} if whole >= ENOUGH else {}


def goodput(visit: Visit) -> Cell:
    """All pure steps of a visit at its draft length."""
    return total({key: cell for key, cell in visit.cells.items() if key[1] == visit.arm})
