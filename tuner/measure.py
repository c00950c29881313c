"""One measurement: warm-up, then timed blocks of the same requests at the class's concurrency."""

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import aiohttp

from profiles.measurement import Acceptance, Block, Environment
from tuner.latency import summarise
from tuner.replay import MAX_TOKENS_CAP, Clock, Load, ReplayRequest, ReplayResult
from tuner.scrape import EngineCounters, Window, difference, parse_counters

STEADY_SHARE = 0.95  # of the concurrency that must be in flight on average
REFUSED_SHARE = 0.1  # of requests answered with 4xx above which the samples are unfit
FOREIGN_SHARE = 0.05  # of tokens the engine may have generated beyond ours
STEP_TOKENS = 16  # tokens one request may emit in the step that straddles an edge
EXTENSION = 4  # a slow engine gets so many times the planned blocks to end enough requests
WARMUP_LIMIT = 5  # times the warm-up may be repeated until a request has ended
# A power cap (SwPowerCap) is how the card is set up and holds for every candidate: it is recorded
# but does not spoil a comparison. Heat and power brakes come and go by themselves.
SPOILING_REASONS = frozenset(
    {"hw_slowdown", "hw_thermal_slowdown", "sw_thermal_slowdown", "hw_power_brake"}
)


class Sensing(Protocol):
    """A running reading of the sensors."""

    def finish(self) -> Environment:
        """The readings since it began."""
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


async def measure(
    plan: MeasurePlan,
    *,
    socket: Path,
    telemetry: Sensors | None,
    clock: Clock = time.monotonic,
) -> Measured:
    """Load the engine behind a socket and time it; cancelling it ends the load at once.

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
    lost: str | None = None
    async with usable as load:
        try:
            await _warm_up(load, plan, run)
            sensing = None if telemetry is None else telemetry.window()
            readings.append(parse_counters(await load.metrics()))
            received.append(load.tokens)
            for number in range(plan.blocks * EXTENSION):
                answered = sum(result.requests for result in results)
                if load.gone or (number >= plan.blocks and answered >= plan.concurrency):
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
            environment = Environment() if sensing is None else sensing.finish()
        if load.gone:
            lost = "The engine refuses connections."
    # every step is looked at: a new engine may soon have counted beyond the old one
    whole = difference(readings[0], readings[-1]) if windows and all(windows) else None
    return Measured(
        blocks=tuple(blocks),
        acceptance=None if whole is None else whole.acceptance,
        environment=environment,
        invalid=lost
        or invalidity(
            plan,
            results,
            whole,
            environment,
            received=received[-1] - received[0] if received else 0,
        ),
    )


async def _warm_up(load: Load, plan: MeasurePlan, run: str) -> None:
    """Load at full concurrency until the time is over and a request has ended, uncounted."""
    for attempt in range(WARMUP_LIMIT):
        result = await load.window(plan.warmup_s, salt=f"{run}-warm-{attempt}")
        if result.requests or load.gone:
            return


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


def invalidity(
    plan: MeasurePlan,
    results: Sequence[ReplayResult],
    whole: Window | None,
    environment: Environment,
    *,
    received: int,
) -> str | None:
    """The first reason why these blocks must not be compared, as a sentence; None when sound."""
    return next(_reasons(plan, results, whole, environment, received), None)


def _reasons(
    plan: MeasurePlan,
    results: Sequence[ReplayResult],
    whole: Window | None,
    environment: Environment,
    received: int,
) -> Iterator[str]:
    answered = sum(result.requests for result in results)
    errors = sum(result.errors for result in results)
    refused = sum(result.refused for result in results)
    if errors:
        yield f"{errors} of {errors + answered} requests failed."
    if refused > REFUSED_SHARE * (refused + answered):
        yield f"The engine refused {refused} of {refused + answered} requests as malformed."
    if answered < plan.concurrency:
        yield (
            f"Only {answered} requests ended in {len(results)} blocks of {plan.block_s:g} s at "
            f"concurrency {plan.concurrency}; make tuning.block_s longer."
        )
    busy = min((result.busy for result in results), default=0.0)
    if busy < STEADY_SHARE * plan.concurrency:
        yield f"The load was not steady: {busy:.1f} of {plan.concurrency} requests in flight."
    if whole is None:
        yield "The engine's counters fell: it was restarted during the measurement."
        return
    slack = FOREIGN_SHARE * received + STEP_TOKENS * plan.concurrency
    if abs(whole.generation_tokens - received) > slack:
        yield (
            f"The engine generated {whole.generation_tokens} tokens where the replay received "
            f"{received}: something else used it."
        )
    spoiling = sorted(SPOILING_REASONS.intersection(environment.throttle_reasons))
    if spoiling:
        yield f"The GPU was slowed down ({', '.join(spoiling)})."
