"""One trial: an engine start, measured for every class that wants it, recorded whatever happens."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from profiles.errors import UnavailableError
from profiles.knobs import Knobs
from profiles.measurement import Failure, FailureKind, Measurement
from profiles.records import TrialStatus
from service import inject
from service.archive import Archive
from service.engine import Engine, EngineStartError
from service.slot import Slot
from service.sweeper import Sweep, expected_s, sweep
from tuner.config import LiveConfig, TuningConfig
from tuner.measure import Measured, MeasurePlan, measure
from tuner.processes import EngineProcess
from tuner.replay import ReplayRequest
from tuner.telemetry import Telemetry
from tuner.validity import Code

log = logging.getLogger(__name__)

# between two holds the gate is open at least this long, so that what was held gets its answer
BREATH_S = 1.5
QUIET_TRIES = 3
QUIET_DEADLINE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class ClassPlan:
    """One class to tune: what is replayed, and at which concurrency."""

    workload: str
    concurrency: int
    requests: Sequence[ReplayRequest]
    samples: str  # "live" or "synthetic"


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """What one engine start is to find out."""

    study: str
    platform: str
    knobs: Knobs
    why: str
    classes: Sequence[ClassPlan]
    phase: str = "search"  # or "promotion"
    pair: int | None = None  # round of the promotion
    # by class: the live knobs to measure it with; without them an engine with live knobs sweeps
    live: Mapping[str, Knobs] = field(default_factory=dict)


class TrialRunner:
    """Starts candidates in the slot and measures them; live requests are held, never dropped."""

    def __init__(
        self,
        slot: Slot,
        archive: Archive,
        telemetry: Telemetry,
        tuning: TuningConfig,
        live: LiveConfig = LiveConfig(),  # noqa: B008  frozen
    ) -> None:
        self._slot = slot
        self._archive = archive
        self._telemetry = telemetry
        self._tuning = tuning
        self._live = live
        self._fresh = True  # nothing was started yet: the running engine may be measured as it is

    async def run(self, plan: TrialPlan) -> list[Measurement]:
        """Measure these knobs; one row per class, in the store before this returns."""
        archive = self._archive
        trial = await archive.open_trial(
            study=plan.study,
            platform=plan.platform,
            workloads=[c.workload for c in plan.classes],
            knobs=plan.knobs,
            why=plan.why,
        )
        results: list[Measurement] = []
        try:
            await self._fill(plan, trial, results)
        except BaseException:
            await asyncio.shield(archive.close_trial(trial, TrialStatus.INTERRUPTED))
            raise
        failure = next((m.failure for m in results if m.failure is not None), None)
        status = TrialStatus.DONE if failure is None else TrialStatus.FAILED
        await archive.close_trial(trial, status, failure)
        inject.at(inject.Point.TRIAL_CLOSED)
        rates = ", ".join(f"{m.workload} {m.tok_s:.1f}" for m in results if m.tok_s is not None)
        log.info(
            "trial=%d phase=%s knobs=%r tok_s=%r failure=%r",
            trial,
            plan.phase,
            plan.knobs.label(),
            rates or None,
            failure.sentence if failure is not None else None,
        )
        return results

    async def _fill(self, plan: TrialPlan, trial: int, results: list[Measurement]) -> None:
        """Start the engine and measure every class, or say of every class why it did not start."""
        try:
            inject.at(inject.Point.TRIAL_OPENED)
            engine = await self._start(plan.knobs)
            inject.at(inject.Point.TRIAL_STARTED)
            for target in plan.classes:
                results.append(await self._measure(engine, plan, target))
                inject.at(inject.Point.MEASURED)
                await self._archive.add_measurement(results[-1], trial)
                inject.at(inject.Point.ROW_STORED)
                if results[-1].failure is not None:
                    break  # the engine is gone
        except EngineStartError as error:
            for target in plan.classes:
                results.append(
                    self._row(
                        plan,
                        target,
                        started_at=time.time(),
                        token=error.token,
                        failure=error.failure,
                    )
                )
                await self._archive.add_measurement(results[-1], trial)

    async def _start(self, knobs: Knobs) -> Engine:
        running, fresh = self._slot.engine, self._fresh
        self._fresh = False
        if fresh and running is not None and (self._slot.runs(knobs) or self._slot.reaches(knobs)):
            return running  # the first trial costs no restart
        short = self._slot.lacking(knobs)
        if short is not None and running is not None:  # it is better than none
            failure = Failure(kind=FailureKind.INTERRUPTED, sentence=f"Not started: {short}.")
            raise EngineStartError(failure)
        engine = await self._slot.replace(knobs, profile=knobs.digest(), purpose="trial")
        await self._slot.release("a candidate serves between its measurements")
        return engine

    async def _measure(self, engine: Engine, plan: TrialPlan, target: ClassPlan) -> Measurement:
        started_at, token = time.time(), engine.record.token
        if not await self._quiet():
            return self._row(
                plan,
                target,
                started_at=started_at,
                token=token,
                invalid="live requests kept running at the engine",
                invalid_code=Code.LIVE_REQUESTS,
            )
        tuning = self._tuning
        lease_s = tuning.warmup_s + tuning.blocks * tuning.block_s
        sweeps = engine.link is not None and plan.knobs.live and target.workload not in plan.live
        if sweeps:
            space = tuning.space
            lease_s += expected_s(tuning.sweep_s, space.max_active_seqs, space.max_scheduled_tokens)
        await self._slot.hold(f"{target.workload} is measured", eta_s=lease_s)
        knobs = plan.live.get(target.workload, plan.knobs)
        work = asyncio.create_task(self._work(engine, knobs, target, sweeps=sweeps))
        death = asyncio.create_task(engine.ended.wait())
        try:
            await asyncio.wait({work, death}, return_when=asyncio.FIRST_COMPLETED)
            if engine.ended.is_set():
                failure = engine.failure(phase="serve")
                return self._row(plan, target, started_at=started_at, token=token, failure=failure)
            knobs, found = await work
        except UnavailableError as error:
            return self._row(
                plan,
                target,
                started_at=started_at,
                token=token,
                invalid=error.sentence(),
                invalid_code=Code.ENGINE_STUCK,
            )
        finally:
            work.cancel()
            death.cancel()
            await asyncio.gather(work, death, return_exceptions=True)
            await asyncio.shield(self._slot.release("between measurements"))
        return self._row(
            plan,
            target,
            knobs=knobs,
            started_at=started_at,
            token=token,
            ready_s=engine.record.ready_s,
            blocks=found.blocks,
            acceptance=found.acceptance,
            cache_hits=found.cache_hits,
            environment=found.environment,
            invalid=found.invalid,
            invalid_code=found.invalid_code,
        )

    async def _work(
        self, engine: Engine, knobs: Knobs, target: ClassPlan, *, sweeps: bool
    ) -> tuple[Knobs, Measured]:
        """Find the live knobs if that is asked for, put them in force, and measure."""
        tuning, socket = self._tuning, Path(engine.record.socket)
        if sweeps and engine.link is not None:
            space = tuning.space
            plan = Sweep(
                knobs=knobs,
                lengths=space.draft_lengths,
                requests=target.requests,
                concurrency=target.concurrency,
                seconds=tuning.sweep_s,
                active=space.max_active_seqs,
                budget=space.max_scheduled_tokens,
            )
            knobs = await sweep(plan, engine.link, socket, self._live)
        if self._slot.reaches(knobs):
            await self._slot.apply(knobs, profile=knobs.digest())
        replay = MeasurePlan(
            requests=target.requests,
            concurrency=target.concurrency,
            warmup_s=tuning.warmup_s,
            block_s=tuning.block_s,
            blocks=tuning.blocks,
        )
        record = engine.record
        meant = EngineProcess.of(record.pid, record.started_at, record.control_group)
        return knobs, await measure(replay, socket=socket, telemetry=self._telemetry, engine=meant)

    async def _quiet(self) -> bool:
        for _ in range(QUIET_TRIES):
            await asyncio.sleep(min(BREATH_S, self._tuning.block_s))
            if await self._slot.quiet(deadline_s=QUIET_DEADLINE_S):
                return True
            await self._slot.release("live requests still run")
        return False

    @staticmethod
    def _row(
        plan: TrialPlan,
        target: ClassPlan,
        *,
        started_at: float,
        token: str,
        knobs: Knobs | None = None,
        **found: Any,
    ) -> Measurement:
        return Measurement(
            platform=plan.platform,
            workload=target.workload,
            knobs=(knobs or plan.live.get(target.workload, plan.knobs)).canonical(),
            started_at=started_at,
            engine_token=token,
            phase=plan.phase,
            pair=plan.pair,
            concurrency=target.concurrency,
            samples=target.samples,
            **found,
        )
