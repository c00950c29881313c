"""`tuner sweep`: the complete table of draft lengths at chosen concurrencies, in one engine."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from profiles.errors import ConflictError
from profiles.knobs import Knobs
from service.engine import Engine
from service.live_files import LiveKnobs
from service.slot import Slot
from service.sweeper import SETTLE_S
from service.trial import BREATH_S, QUIET_DEADLINE_S
from service.visits import Visits
from tuner.cells import Cell
from tuner.learner import Visit
from tuner.replay import Load, ReplayRequest
from tuner.table import Entry, Table
from tuner.telemetry import Telemetry

log = logging.getLogger(__name__)


class SweepRequest(BaseModel):
    """What `POST /v1/sweep` asks for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    drafter: str | None = None  # None: the one that runs, else the first one configured
    lengths: tuple[int, ...] | None = None  # None: 0 to the longest
    concurrencies: tuple[PositiveInt, ...] = ()
    workload: str | None = Field(default=None, alias="class")  # a request class
    source: str = Field(default="replay", pattern="^(replay|live)$")
    rounds: PositiveInt = 8
    slice_s: PositiveFloat = 0.25
    off: bool = True


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """A request that was checked against configuration and traffic."""

    request: SweepRequest
    knobs: Knobs  # the engine with live knobs
    off: Knobs  # the same without speculation
    lengths: tuple[int, ...]
    replayed: Sequence[ReplayRequest]
    workload: str
    facts: dict[str, Any]  # model, method, machine, vLLM, for the report


class TableSweep:
    """Owns the slot while it runs; `answer` is what `GET /v1/sweep` shows."""

    def __init__(self, plan: SweepPlan, slot: Slot, sensors: Telemetry) -> None:
        self._plan = plan
        self._slot = slot
        self._sensors = sensors
        self._table = Table()
        self._began = time.time()
        self._starts = slot.restarts
        self._round = 0
        self.state, self.sentence = "running", "the engine is made ready"

    def answer(self) -> dict[str, Any]:
        """The table so far."""
        plan, request = self._plan, self._plan.request
        winners = self._table.winners()
        speculates = any(each["draft_length"] is not None for each in winners)
        schedule = self._table.schedule(self._ceiling()) if speculates else None
        return {
            **plan.facts,
            "confidence": 0.95,
            "state": self.state,
            "sentence": self.sentence,
            "drafter": plan.knobs.drafter,
            "source": request.source,
            "workload": plan.workload,
            "lengths": list(plan.lengths),
            "concurrencies": list(request.concurrencies),
            "round": self._round,
            "rounds": request.rounds,
            "slice_s": request.slice_s,
            "started_at": self._began,
            "seconds": time.time() - self._began,
            "engine_starts": self._slot.restarts - self._starts,
            "cells": self._table.cells(),
            "off": self._table.off_cells(),
            "winners": winners,
            "schedule": None if schedule is None else [list(each) for each in schedule],
        }

    def recommended(self) -> Knobs:
        """What the winner is started with: one schedule, or off where that wins everywhere."""
        winners = self._table.winners()
        schedule = self._table.schedule(self._ceiling())
        if schedule is None or all(each["draft_length"] is None for each in winners):
            return self._plan.off
        longest = max(k for _, _, k in schedule)
        if longest == 0:
            return self._plan.off
        # one length for every batch size needs no table, and a table has a price (vllm#49548)
        table = schedule if len(schedule) > 1 else None
        return self._plan.knobs.model_copy(
            update={"live": False, "draft_length": longest, "draft_schedule": table}
        )

    async def run(self) -> None:
        """Measure everything; the gate is open afterwards."""
        request = self._plan.request
        engine = await self._engine(self._plan.knobs)
        if request.source == "live":
            await self._live(engine)
        else:
            for concurrency in request.concurrencies:
                await self._replayed(engine, concurrency, self._plan.lengths)
        if request.off and request.source == "replay":
            engine = await self._engine(self._plan.off)
            for concurrency in request.concurrencies:
                await self._replayed(engine, concurrency, ())
        self.state = "done"
        self.sentence = f"{len(self._table.entries)} cells in {time.time() - self._began:.0f} s"

    async def _engine(self, knobs: Knobs) -> Engine:
        slot = self._slot
        if slot.reaches(knobs) and slot.engine is not None:
            await slot.apply(knobs, profile=knobs.digest())
            return slot.engine
        short = slot.lacking(knobs)
        if short is not None:
            raise ConflictError(f"{knobs.label()} cannot be started: {short}.")
        self.sentence = f"{knobs.label()} starts"
        engine = await slot.replace(knobs, profile=knobs.digest(), purpose="trial")
        await slot.release("the sweep begins")
        return engine

    async def _replayed(self, engine: Engine, concurrency: int, lengths: Sequence[int]) -> None:
        """One concurrency, the engine alone with the replay; without lengths it is off."""
        request, slot = self._plan.request, self._slot
        expected_s = SETTLE_S + request.rounds * max(len(lengths), 1) * request.slice_s * 1.5
        await asyncio.sleep(BREATH_S)
        await slot.quiet(QUIET_DEADLINE_S)
        await slot.hold(f"a sweep measures concurrency {concurrency}", eta_s=expected_s)
        load = Load(
            socket=Path(engine.record.socket),
            requests=self._plan.replayed,
            concurrency=concurrency,
        )
        try:
            async with load as running:
                await running.window(SETTLE_S)
                for number in range(request.rounds):
                    self._round = number + 1
                    self.sentence = f"concurrency {concurrency}, round {number + 1}"
                    if lengths:
                        await self._one_round(engine, number, concurrency)
                    else:
                        await self._off_round(engine, concurrency)
        finally:
            await asyncio.shield(slot.release("the sweep goes on"))

    async def _live(self, engine: Engine) -> None:
        """On the traffic that there is; the concurrency is the batch size of each step."""
        for number in range(self._plan.request.rounds):
            self._round = number + 1
            self.sentence = f"live traffic, round {number + 1}"
            await self._one_round(engine, number, None)

    async def _one_round(self, engine: Engine, number: int, concurrency: int | None) -> None:
        if engine.link is None:
            return
        visits, slice_s = Visits(engine.link), self._plan.request.slice_s
        order = sorted(self._plan.lengths, key=lambda k: _draw(number, k))
        for k in order:
            self._take(await visits.move(k, slice_s), concurrency)
        self._take(await visits.end(LiveKnobs.of(engine.knobs)), concurrency)

    def _take(self, visit: Visit | None, concurrency: int | None) -> None:
        if visit is None:
            return
        for (batch, k), cell in visit.cells.items():
            # at the edges of a replay fewer are running; another batch size is another question
            if k == visit.arm and (concurrency is None or batch == concurrency):
                key = (batch if concurrency is None else concurrency, k)
                entry = self._measured(self._table.entries.get(key, Entry()), cell)
                entries = {**self._table.entries, key: entry}
                self._table = replace(self._table, entries=entries)

    async def _off_round(self, engine: Engine, concurrency: int) -> None:
        if engine.link is None:
            return
        before = await asyncio.to_thread(engine.link.read)
        # as long as a round of visits, so that both means rest on as much text
        await asyncio.sleep(self._plan.request.slice_s * 4)
        after = await asyncio.to_thread(engine.link.read)
        if before is None or after is None:
            return
        key = (concurrency, 0)
        added = after.cells.get(key, Cell()) - before.cells.get(key, Cell())
        if added.steps > 0:
            entry = self._measured(self._table.off.get(concurrency, Entry()), added)
            self._table = replace(self._table, off={**self._table.off, concurrency: entry})

    def _measured(self, entry: Entry, cell: Cell) -> Entry:
        sensors = self._sensors.snapshot()
        return entry.add(cell, power_w=sensors.power_w, temperature_c=sensors.temperature_c)

    def _ceiling(self) -> int:
        engine = self._slot.engine
        found = None if engine is None or engine.link is None else engine.link.read()
        return (
            max(self._plan.request.concurrencies, default=1)
            if found is None
            else (found.fields["max_num_seqs"])
        )


def _draw(number: int, k: int) -> bytes:
    return hashlib.sha256(f"{number}:{k}".encode()).digest()
