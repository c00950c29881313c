"""One measurement: warm-up, then timed blocks of the same requests at the class's concurrency."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import aiohttp

from profiles.measurement import Acceptance, Block, Environment
from tuner.latency import summarise
from tuner.processes import CpuTimes, EngineProcess, Listener, cpu_shares
from tuner.replay import MAX_TOKENS_CAP, Clock, Load, ReplayRequest, ReplayResult
from tuner.scrape import EngineCounters, Window, difference, parse_counters
from tuner.validity import (
    LEAST_STEPS,
    Code,
    Reason,
    Seen,
    decode_steps,
    invalidity,
)

# a slow engine gets so many times the planned blocks to end enough requests in enough steps
EXTENSION = 4
WARMUP_LIMIT = 5  # times the warm-up may be repeated until a request has ended


class Sensing(Protocol):
    """A running reading of the sensors."""

    def finish(self, ours: frozenset[int]) -> Environment:
        """The readings since it began; `ours` are the pids of the engine."""
        ...


class Sensors(Protocol):
    """What measures power, heat and the host; `tuner.telemetry.Telemetry` does."""

    def window(self) -> Sensing:
        """Begin a reading."""
        ...


@dataclass(frozen=True, kw_only=True)
class MeasurePlan:
    """What to send, how hard, and for how long."""

    requests: Sequence[ReplayRequest] = field(repr=False)
    concurrency: int
    warmup_s: float
    block_s: float
    blocks: int
    max_tokens: int = MAX_TOKENS_CAP  # of one answer


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a measurement gave; the parts of `profiles.measurement.Measurement` it can know."""

    blocks: tuple[Block, ...]
    acceptance: Acceptance | None  # over the timed blocks only; None without speculation
    environment: Environment
    invalid: str | None  # why it must not be used
    invalid_code: str | None = None
    cache_hits: float | None = None  # share of prompt tokens that the prefix cache had


async def measure(
    plan: MeasurePlan,
    *,
    socket: Path,
    telemetry: Sensors | None,
    engine: EngineProcess | None = None,
    clock: Clock = time.monotonic,
) -> Measured:
    """Load the engine behind a socket and time it; cancelling it ends the load at once.

    `engine` is the one that is meant to be measured: another one that answers is noticed, and so
    is what does not belong to it on GPU and processors.
    Every block sends the requests in the same order from the same place for every candidate
    (common random numbers) with a prefix cache made cold by a salt of its own.
    """
    usable = Load(
        socket=socket,
        requests=plan.requests,
        concurrency=plan.concurrency,
        max_tokens=plan.max_tokens,
        clock=clock,
    )
    run = secrets.token_hex(6)  # two measurements in one engine must not share cached prefixes
    blocks: list[Block] = []
    results: list[ReplayResult] = []
    readings: list[EngineCounters] = []
    windows: list[Window | None] = []
    received: list[int] = []  # tokens at each reading, to compare with the engine's own count
    sensing: Sensing | None = None
    watch: _Watch | None = None
    lost: str | None = None
    async with usable as load:
        try:
            await _warm_up(load, plan, run)
            watch = _Watch(engine, socket)
            sensing = None if telemetry is None else telemetry.window()
            readings.append(parse_counters(await load.metrics()))
            received.append(load.tokens)
            for number in range(plan.blocks * EXTENSION):
                if load.gone or (number >= plan.blocks and _enough(plan, results, readings)):
                    break
                result = await load.window(
                    plan.block_s,
                    salt=f"{run}-{number}",
                    first=number * load.replayable // plan.blocks,
                )
                results.append(result)
                readings.append(parse_counters(await load.metrics()))
                received.append(load.tokens)
                windows.append(difference(readings[-2], readings[-1]))
                blocks.append(_block(result, windows[-1]))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            lost = f"The engine's counters could not be read ({type(error).__name__})."
        finally:
            ours = frozenset() if engine is None else engine.pids()
            environment = Environment() if sensing is None else sensing.finish(ours)
        if watch is not None:
            environment = watch.finish(environment)
        if load.gone:
            lost = "The engine refuses connections."
    # every step is looked at: a new engine may soon have counted beyond the old one
    whole = difference(readings[0], readings[-1]) if windows and all(windows) else None
    reason = (
        Reason(code=Code.UNREACHABLE, sentence=lost)
        if lost is not None
        else invalidity(
            Seen(
                concurrency=plan.concurrency,
                block_s=plan.block_s,
                results=results,
                readings=readings,
                whole=whole,
                received=received[-1] - received[0] if received else 0,
                environment=environment,
                engine=engine,
                listeners=() if watch is None else watch.listeners,
            )
        )
    )
    return Measured(
        blocks=tuple(blocks),
        acceptance=None if whole is None else whole.acceptance,
        environment=environment,
        invalid=None if reason is None else reason.sentence,
        invalid_code=None if reason is None else str(reason.code),
        cache_hits=None if whole is None else whole.cache_hits,
    )


class _Watch:
    """Who answers and who uses the processors, between two moments."""

    def __init__(self, engine: EngineProcess | None, socket: Path) -> None:
        self._engine = engine
        self._socket = socket
        first = Listener.on(socket)
        self._before = CpuTimes.now(engine, first)
        self.listeners = () if first is None else (first,)

    def finish(self, environment: Environment) -> Environment:
        """The environment with the shares of the processors."""
        last = Listener.on(self._socket)
        if last is not None:
            self.listeners = (*self.listeners, last)
        return cpu_shares(self._before, CpuTimes.now(self._engine, last), environment)


async def _warm_up(load: Load, plan: MeasurePlan, run: str) -> None:
    """Load at full concurrency until the time is over and a request has ended, uncounted."""
    for attempt in range(WARMUP_LIMIT):
        result = await load.window(plan.warmup_s, salt=f"{run}-warm-{attempt}")
        if result.requests or load.gone:
            return


def _enough(
    plan: MeasurePlan, results: Sequence[ReplayResult], readings: Sequence[EngineCounters]
) -> bool:
    """Whether enough requests have ended in enough steps for a rate to mean something."""
    answered = sum(result.requests for result in results)
    whole = difference(readings[0], readings[-1])
    steps = decode_steps(whole, answered, plan.concurrency)
    return answered >= plan.concurrency and (steps is None or steps >= LEAST_STEPS)


def _block(result: ReplayResult, window: Window | None) -> Block:
    latencies = summarise(result.timings)
    return Block(
        seconds=result.seconds,
        output_tokens=result.output_tokens,
        requests=result.requests,
        errors=result.errors,
        ttft_p50_s=latencies.ttft_p50_s,
        ttft_p95_s=latencies.ttft_p95_s,
        tpot_mean_s=latencies.tpot_mean_s,
        tpot_p99_s=latencies.tpot_p99_s,
        latency_p95_s=latencies.latency_p95_s,
        step_mean_s=None if window is None else window.step_mean_s,
    )
