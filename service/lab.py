"""The lab: prepares and runs tuning sessions."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from profiles import presets
from profiles.classes import RequestClass, WorkloadClass
from profiles.errors import ConflictError, InvalidKnobsError, TunerError, UnavailableError
from profiles.knobs import Knobs, render, violations
from profiles.platform import Platform
from service.archive import Archive
from service.engine import EngineStartError
from service.gateway_client import GatewayClient
from service.slot import Slot
from service.table_sweep import SweepPlan, SweepRequest, TableSweep
from service.traffic import ClassTraffic
from service.trial import ClassPlan, TrialRunner
from service.tuning import Progress, Study, TuningSession
from tuner.config import Config
from tuner.corpus import synthetic_requests
from tuner.design import Start, design
from tuner.flags import accepted_flags
from tuner.gpu_reading import GpuFault
from tuner.objective import Goals
from tuner.paths import Paths
from tuner.promotion import Verdict
from tuner.replay import ReplayRequest
from tuner.space import Space, build_space
from tuner.telemetry import Telemetry

log = logging.getLogger(__name__)

MIN_SAMPLES = 8  # fewer live samples than this and the replay is synthetic
SYNTHETIC = 32  # requests
# lengths of a class that nobody has seen yet, tokens
TYPICAL_PROMPT, TYPICAL_OUTPUT = 256, 128
TYPICAL_CONCURRENCY = {"single": 1, "low": 4, "mid": 16, "high": 48}
OFF = {"drafter": None, "draft_length": "off", "live": False, "draft_schedule": None}
MAX_OUTPUT = 256  # replayed answers are cut here: a block must hold many requests


class Lab:
    """Builds the study of a session from configuration, vLLM, traffic and store."""

    def __init__(
        self,
        config: Config,
        paths: Paths,
        *,
        slot: Slot,
        archive: Archive,
        gateway: GatewayClient,
        telemetry: Telemetry,
    ) -> None:
        self._config = config
        self._paths = paths
        self._slot = slot
        self._archive = archive
        self._gateway = gateway
        self._telemetry = telemetry
        self._session: TuningSession | None = None
        self.table: TableSweep | None = None  # the last `tuner sweep`

    def configure(self, config: Config) -> None:
        """Begin the next session with other settings."""
        self._config = config

    @property
    def progress(self) -> Progress | None:
        """Where the session is; None when none has run."""
        return None if self._session is None else self._session.progress

    def refusal(self) -> str | None:
        """Why no session can pursue the objective on this machine, as words; None when it can."""
        sensors = self._telemetry.snapshot()
        return Goals.of(self._config.tuning).refusal(power_w=sensors.power_w)

    @property
    def fault(self) -> GpuFault | None:
        """Why nothing can be measured on this machine now; None when it can."""
        return self._telemetry.fault()

    async def tune(
        self,
        platform: Platform,
        workloads: Sequence[str],
        seen: dict[str, ClassTraffic],
        pause: Callable[[], Awaitable[str | None]],
        *,
        again: bool = False,
    ) -> dict[str, Verdict]:
        """Tune these classes together: each engine start is measured for all of them.

        `again` repeats the promotion of what the search of before has found.

        Raises:
            UnavailableError: vLLM cannot be asked what it accepts.
            ConflictError: there is nothing to search, or no sensor for the objective.
        """
        self._session = None
        config, sensors = self._config, self._telemetry.snapshot()
        refusal = self.refusal()
        if refusal is not None:
            raise ConflictError(f"{refusal}.", hint="Set tuning.objective to another.")
        for sentence in Goals.of(config.tuning).unchecked(
            power_w=sensors.power_w, temperature_c=sensors.temperature_c
        ):
            log.warning("%s", sentence)
            await self._archive.event("limits", sentence)
        plans = [await self._plan(workload, seen.get(workload)) for workload in workloads]
        space = await self.space()
        for sentence in space.dropped:
            log.info("not searched: %s", sentence)
        warm = await self._warm_starts(platform, space)
        study = Study(
            name="+".join(sorted(workloads)),
            platform=platform.digest,
            tuning=config.tuning,
            space=space,
            design=design(space, config.engine.default, warm, size=max(2, config.tuning.trials)),
            default=config.engine.default,
            again=again,
        )
        runner = TrialRunner(self._slot, self._archive, self._telemetry, config.tuning, config.live)
        self._session = TuningSession(study, plans, runner, self._archive, pause)
        return await self._session.run()

    def sweep_knobs(self, request: SweepRequest) -> tuple[Knobs, tuple[int, ...]]:
        """The engine that a sweep needs, and the draft lengths that it visits.

        Raises:
            InvalidKnobsError: the request names what is not configured.
            ConflictError: knobs are not live here.
        """
        config, slot = self._config, self._slot
        if slot.live_fault is not None:
            raise ConflictError(
                f"Knobs are not live here: {slot.live_fault}",
                hint="`tuner tune` searches with an engine start per candidate.",
            )
        drafters = config.drafter_map
        running = None if slot.engine is None else slot.engine.knobs.drafter
        name = request.drafter or running or next(iter(drafters), None)
        if name is None or name not in drafters:
            known = ", ".join(drafters) or "none"
            raise InvalidKnobsError(f"Drafter {name!r} is not configured (known: {known}).")
        longest = drafters[name].max_draft_length
        lengths = request.lengths or tuple(range(longest + 1))
        if max(lengths) > longest:
            raise InvalidKnobsError(
                f"Draft length {max(lengths)} is above the maximum of {name!r}, {longest}."
            )
        if request.source == "replay" and not request.concurrencies:
            raise InvalidKnobsError("A replayed sweep needs a concurrency.")
        # the longest draft of the drafter: the engine of the profiles, so that it may be kept
        knobs = config.engine.default.model_copy(
            update={"drafter": name, "draft_length": longest, "live": True, "draft_schedule": None}
        )
        broken = violations(knobs, drafters)
        if broken:
            raise InvalidKnobsError(" ".join(broken))
        return knobs, tuple(sorted(set(lengths)))

    async def sweep(
        self, request: SweepRequest, platform: Platform, seen: dict[str, ClassTraffic]
    ) -> None:
        """The complete table of one drafter; `table` shows it while it grows."""
        config = self._config
        knobs, lengths = self.sweep_knobs(request)
        named = request.workload or next(iter(seen), "greedy.balanced.mid")
        full = named if named.count(".") == 2 else f"{named}.mid"
        plan = await self._plan(full, seen.get(full))
        drafter = config.drafter_map[knobs.drafter or ""]
        self.table = TableSweep(
            SweepPlan(
                request=request,
                knobs=knobs,
                off=config.engine.default.model_copy(update=OFF),
                lengths=lengths,
                replayed=plan.requests,
                workload=full.rpartition(".")[0],
                facts={
                    "model": config.engine.model,
                    "method": drafter.method,
                    "machine": platform.label(),
                    "vllm_version": platform.vllm,
                    "samples": plan.samples,
                },
            ),
            self._slot,
            self._telemetry,
        )
        try:
            await self.table.run()
        except asyncio.CancelledError:
            self.table.state, self.table.sentence = "stopped", "the sweep was stopped"
            raise
        except EngineStartError as error:
            self.table.state, self.table.sentence = "failed", error.told
        except TunerError as error:
            self.table.state, self.table.sentence = "failed", error.sentence()
        except Exception:
            self.table.state, self.table.sentence = "failed", "a defect; the daemon's log says more"
            raise

    def sweep_answer(self) -> dict[str, Any]:
        """What `GET /v1/sweep` shows, with the vLLM command of the winner."""
        if self.table is None:
            return {"state": "none", "sentence": "no sweep was asked for"}
        engine = self._config.engine
        rendered = render(self.table.recommended(), self._config.drafter_map)
        command = [*engine.command, "--model", engine.model, *engine.args, *rendered.args]
        env = {**engine.env, **rendered.env}
        return {**self.table.answer(), "command": command, "env": env}

    async def space(self) -> Space:
        """What a search that begins now would search.

        Raises:
            UnavailableError: vLLM cannot be asked what it accepts.
            ConflictError: there is nothing to choose from.
        """
        config = self._config
        info = await accepted_flags(config.engine.command, config.engine.env, self._paths.flags)
        space = build_space(
            config.tuning.space,
            config.drafter_map,
            info.flags,
            config.engine.default,
            choices=info.choices,
            live=self._slot.live_fault is None,
        )
        if len(space.points()) < 2:
            raise ConflictError(
                "There is nothing to search.",
                hint="Configure a drafter or candidate values in [tuning.space].",
            )
        return space

    async def _plan(self, workload: str, traffic: ClassTraffic | None) -> ClassPlan:
        parsed = WorkloadClass.parse(workload)
        if traffic is None:
            concurrency = TYPICAL_CONCURRENCY[parsed.load]
        else:
            concurrency = max(1, round(traffic.concurrency))
        live = await self._live(parsed.request)
        if len(live) >= MIN_SAMPLES:
            return ClassPlan(
                workload=workload, concurrency=concurrency, requests=live, samples="live"
            )
        if self._slot.engine is None:
            raise UnavailableError("No engine runs that could name its model.")
        model, _ = await self._slot.engine.client.model()
        requests = await asyncio.to_thread(
            synthetic_requests,
            parsed.request,
            prompt_tokens=TYPICAL_PROMPT if traffic is None else max(1, traffic.prompt_tokens),
            max_tokens=min(
                MAX_OUTPUT, TYPICAL_OUTPUT if traffic is None else max(1, traffic.output_tokens)
            ),
            n=SYNTHETIC,
            seed=self._config.tuning.seed,
            model=model,
        )
        return ClassPlan(
            workload=workload, concurrency=concurrency, requests=requests, samples="synthetic"
        )

    async def _live(self, request: RequestClass) -> list[ReplayRequest]:
        if self._config.tuning.sampling == "off":
            return []
        samples = await self._gateway.samples(str(request))
        return [ReplayRequest(endpoint=s["endpoint"], body=s["body"]) for s in samples]

    async def _warm_starts(self, platform: Platform, space: Space) -> list[Start]:
        """Winners of other classes here, then published configurations; starts, not beliefs."""
        warm: list[Start] = []
        for workload, profile in (await self._archive.promoted(platform.digest)).items():
            knobs = space.start(profile.knobs)  # its schedule is learned again inside the engine
            warm.append(Start(knobs=knobs, why=f"won {workload} on this machine"))
        for drafter in self._config.drafters:
            for length in presets.warm_starts(
                presets.load(),
                method=drafter.method,
                limit=2,
                gpu=platform.gpu,
                longest=drafter.max_draft_length,
            ):
                knobs = self._config.engine.default.model_copy(
                    update={"drafter": drafter.name, "draft_length": length}
                )
                warm.append(Start(knobs=knobs, why=f"published for {drafter.method}"))
        return [start for start in warm if space.contains(start.knobs)]
