"""P: what makes a measurement invalid, all in one place; an invalid one is kept and never used."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from profiles.measurement import Environment, Measurement
from tuner.processes import EngineProcess, Listener
from tuner.replay import ReplayResult
from tuner.scrape import EngineCounters, Window

STEADY_SHARE = 0.95  # of the concurrency that must be in flight on average
REFUSED_SHARE = 0.1  # of requests answered with 4xx above which the samples are unfit
FOREIGN_SHARE = 0.05  # of tokens the engine may have generated beyond ours
STEP_TOKENS = 16  # tokens one request may emit in the step that straddles an edge
# an edge cuts a step: with fewer steps of each stream its error is above a twentieth
LEAST_STEPS = 20
# A power cap (SwPowerCap) is how the card is set up and holds for every candidate: it is recorded
# but does not spoil a comparison. Heat and power brakes come and go by themselves.
SPOILING_REASONS = frozenset(
    {"hw_slowdown", "hw_thermal_slowdown", "sw_thermal_slowdown", "hw_power_brake"}
)
# Others on our card. 5 % of its time is what two starts of one engine differ by; memory that comes
# and goes is a program that begins or ends, while an idle context holds some and stays.
FOREIGN_GPU_BUSY = 0.05
FOREIGN_GPU_MIB = 256.0
# Others on the processors. Idle cores absorb them, so a share counts where the cores are used up:
# an engine on CPU then loses about that share. A fifth is above what alternating arms average out.
# Half of all cores costs clock and memory bandwidth even where some idle.
FULL_HOST = 0.85
FOREIGN_CPU_FULL = 0.2
FOREIGN_CPU = 0.5
CLIENT_FULL = 0.9  # of its core: the replay then waits for itself, not for the engine
STARTED_S = 2.0  # how far two clocks may disagree about the start of one process
# Cold laps that a faster arm cuts elsewhere move the share by about concurrency / samples; a warm
# cache against a cold one moves it by most of the prompt.
CACHE_GAP = 0.25


class Code(StrEnum):
    """Stable names of the reasons, for programs."""

    UNREACHABLE = "unreachable"  # the engine or its counters do not answer
    LIVE_REQUESTS = "live_requests"  # users' requests did not leave the engine in time
    ENGINE_STUCK = "engine_stuck"  # its live knobs could not be brought into force
    OTHER_ENGINE = "other_engine"
    COUNTER_RESET = "counter_reset"
    ERRORS = "errors"
    REFUSED = "refused"
    CLIENT_LIMITED = "client_limited"
    TOO_FEW_REQUESTS = "too_few_requests"
    TOO_FEW_STEPS = "too_few_steps"
    LOAD_LIMITED = "load_limited"
    FOREIGN_TOKENS = "foreign_tokens"
    GPU_FAULT = "gpu_fault"
    THROTTLED = "throttled"
    FOREIGN_GPU = "foreign_gpu"
    FOREIGN_CPU = "foreign_cpu"


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why a measurement must not be used."""

    code: Code
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a measurement has seen of load, engine and machine."""

    concurrency: int
    block_s: float
    results: Sequence[ReplayResult]
    readings: Sequence[EngineCounters]
    whole: Window | None  # None: a counter fell
    received: int  # tokens between the first and the last reading
    environment: Environment
    engine: EngineProcess | None = None  # the intended one
    listeners: Sequence[Listener] = ()  # who answered, before and after


def invalidity(seen: Seen) -> Reason | None:
    """The first reason why this must not be compared, causes before effects; None when sound."""
    for rule in (_other_engine, _answers, _client, _load, _tokens, _gpu, _cpu):
        found = next(rule(seen), None)
        if found is not None:
            return found
    return None


def cache_gap(one: Measurement, other: Measurement) -> str | None:
    """Why two arms cannot be compared: one found its prompts cached; None when alike or unknown."""
    if one.cache_hits is None or other.cache_hits is None:
        return None
    if abs(one.cache_hits - other.cache_hits) <= CACHE_GAP:
        return None
    return (
        f"the prefix cache had {one.cache_hits:.0%} of one arm's prompts and "
        f"{other.cache_hits:.0%} of the other's"
    )


def _other_engine(seen: Seen) -> Iterator[Reason]:
    code = Code.OTHER_ENGINE
    pids = {listener.pid for listener in seen.listeners}
    starts = [c.started_at for c in seen.readings if c.started_at is not None]
    models = sorted({name for counters in seen.readings for name in counters.models})
    if len(pids) > 1 or (starts and max(starts) - min(starts) > STARTED_S):
        yield Reason(code=code, sentence="Another engine answered in the end than at first.")
    if len({c.models for c in seen.readings}) > 1:
        sentence = f"The engine changed its model during the measurement: {', '.join(models)}."
        yield Reason(code=code, sentence=sentence)
    born = [each.started_at for each in seen.listeners if each.started_at is not None] + starts
    if seen.engine is not None and born and min(born) < seen.engine.started_at - STARTED_S:
        older_s = seen.engine.started_at - min(born)
        sentence = (
            f"Another engine than the intended one answered: it is {older_s:.0f} s older "
            f"than pid {seen.engine.pid}."
        )
        yield Reason(code=code, sentence=sentence)
    if seen.whole is None:
        yield Reason(
            code=Code.COUNTER_RESET,
            sentence="The engine's counters fell: it was restarted during the measurement.",
        )


def _answers(seen: Seen) -> Iterator[Reason]:
    answered = sum(result.requests for result in seen.results)
    errors = sum(result.errors for result in seen.results)
    refused = sum(result.refused for result in seen.results)
    if errors:
        yield Reason(code=Code.ERRORS, sentence=f"{errors} of {errors + answered} requests failed.")
    if refused > REFUSED_SHARE * (refused + answered):
        sentence = f"The engine refused {refused} of {refused + answered} requests as malformed."
        yield Reason(code=Code.REFUSED, sentence=sentence)


def _client(seen: Seen) -> Iterator[Reason]:
    share = seen.environment.client_cpu
    if share is not None and share >= CLIENT_FULL:
        sentence = (
            f"The replay itself was the limit: it used {share:.0%} of the one core it can use."
        )
        yield Reason(code=Code.CLIENT_LIMITED, sentence=sentence)


def _load(seen: Seen) -> Iterator[Reason]:
    answered = sum(result.requests for result in seen.results)
    blocks = f"in {len(seen.results)} blocks of {seen.block_s:g} s"
    longer = "make tuning.block_s longer"
    if answered < seen.concurrency:
        sentence = (
            f"Only {answered} requests ended {blocks} at concurrency {seen.concurrency}; {longer}."
        )
        yield Reason(code=Code.TOO_FEW_REQUESTS, sentence=sentence)
    steps = decode_steps(seen.whole, answered, seen.concurrency)
    if steps is not None and steps < LEAST_STEPS:
        sentence = f"The engine took only {steps:.0f} steps {blocks}; {longer}."
        yield Reason(code=Code.TOO_FEW_STEPS, sentence=sentence)
    busy = min((result.busy for result in seen.results), default=0.0)
    if busy < STEADY_SHARE * seen.concurrency:
        sentence = (
            f"The load was below what was asked for (load-limited): "
            f"{busy:.1f} of {seen.concurrency} requests in flight."
        )
        yield Reason(code=Code.LOAD_LIMITED, sentence=sentence)


def decode_steps(whole: Window | None, answered: int, concurrency: int) -> float | None:
    """Engine steps that each stream saw; None when the engine does not count them.

    vLLM counts one sample per request and step after the first, which is its prefill.
    """
    return None if whole is None or whole.steps is None else (whole.steps + answered) / concurrency


def _tokens(seen: Seen) -> Iterator[Reason]:
    slack = FOREIGN_SHARE * seen.received + STEP_TOKENS * seen.concurrency
    if seen.whole is not None and abs(seen.whole.generation_tokens - seen.received) > slack:
        sentence = (
            f"The engine generated {seen.whole.generation_tokens} tokens where the replay "
            f"received {seen.received}: something else used it."
        )
        yield Reason(code=Code.FOREIGN_TOKENS, sentence=sentence)


def _gpu(seen: Seen) -> Iterator[Reason]:
    here = seen.environment
    if here.gpu_fault is not None:
        yield Reason(code=Code.GPU_FAULT, sentence=here.gpu_fault)
    spoiling = sorted(SPOILING_REASONS.intersection(here.throttle_reasons))
    if spoiling:
        sentence = f"The GPU was slowed down ({', '.join(spoiling)})."
        yield Reason(code=Code.THROTTLED, sentence=sentence)
    if here.foreign_gpu_busy is not None and here.foreign_gpu_busy > FOREIGN_GPU_BUSY:
        sentence = f"Others used {here.foreign_gpu_busy:.0%} of the GPU's time."
        yield Reason(code=Code.FOREIGN_GPU, sentence=sentence)
    if here.foreign_gpu_mib is not None and here.foreign_gpu_mib > FOREIGN_GPU_MIB:
        sentence = f"Others took {here.foreign_gpu_mib:.0f} MiB of the GPU meanwhile."
        yield Reason(code=Code.FOREIGN_GPU, sentence=sentence)


def _cpu(seen: Seen) -> Iterator[Reason]:
    foreign, busy = seen.environment.foreign_cpu, seen.environment.host_cpu
    if foreign is None or busy is None:
        return
    if foreign > FOREIGN_CPU or (foreign > FOREIGN_CPU_FULL and busy > FULL_HOST):
        sentence = f"Others used {foreign:.0%} of the processors, which were {busy:.0%} busy."
        yield Reason(code=Code.FOREIGN_CPU, sentence=sentence)
