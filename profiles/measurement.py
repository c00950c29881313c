"""Measurements as data: append-only, failures included with their kind."""

import math
import statistics
from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict, Field


class FailureKind(StrEnum):
    """Why an engine did not give a measurement; the text of its log decides, not its exit code."""

    BAD_FLAG = "bad_flag"  # vLLM refuses the command line or the combination
    NO_KV_MEMORY = "no_kv_memory"  # no room left for KV blocks
    OOM_LOAD = "oom_load"  # out of memory while loading or warming up
    OOM_SERVE = "oom_serve"  # out of memory while serving
    TIMEOUT = "timeout"  # not ready, or no progress, within the deadline
    CRASH = "crash"  # the engine ended by itself
    FOREIGN_MEMORY = "foreign_memory"  # somebody else holds the GPU: says nothing about the knobs
    CANARY = "canary"  # it serves, but the canary completion failed
    INTERRUPTED = "interrupted"  # the daemon stopped or died: says nothing about the knobs

    @property
    def blames_knobs(self) -> bool:
        """Whether the knobs are to blame, so that the point counts as infeasible."""
        return self not in {FailureKind.FOREIGN_MEMORY, FailureKind.INTERRUPTED}


class Failure(BaseModel):
    """A failure kind with the line that proves it."""

    model_config = ConfigDict(frozen=True)

    kind: FailureKind
    sentence: str  # for people
    evidence: str = ""  # the log line that decided, never request text
    exit_code: int | None = None

    @property
    def told(self) -> str:
        """The sentence with what the engine says itself."""
        if not self.evidence:
            return self.sentence
        return f"{self.sentence} It says: {self.evidence.removesuffix('.')}."


class Block(BaseModel):
    """One timed block of replayed requests."""

    model_config = ConfigDict(frozen=True)

    seconds: float = Field(gt=0)
    output_tokens: int = Field(ge=0)  # from `usage`, never from SSE chunks
    requests: int = Field(ge=0)
    errors: int = Field(default=0, ge=0)
    ttft_p50_s: float | None = None
    ttft_p95_s: float | None = None
    tpot_mean_s: float | None = (
        None  # (last token - first token) / (tokens - 1), mean over requests
    )
    tpot_p99_s: float | None = None  # the same, 99 % of the requests
    latency_p95_s: float | None = None  # from sending to the last token, 95 % of the requests
    step_mean_s: float | None = None  # vLLM's inter_token_latency: per step under speculation

    @property
    def tok_s(self) -> float:
        """Output tokens per second."""
        return self.output_tokens / self.seconds


class Acceptance(BaseModel):
    """Counters of speculative decoding over one measurement at a constant draft length."""

    model_config = ConfigDict(frozen=True)

    drafts: int = Field(ge=0)
    draft_tokens: int = Field(ge=0)
    accepted_tokens: int = Field(ge=0)
    accepted_per_position: tuple[int, ...] = ()

    @property
    def mean_length(self) -> float | None:
        """Tokens per step that had a draft, the bonus token included; None without drafts."""
        return None if self.drafts == 0 else 1 + self.accepted_tokens / self.drafts


class Environment(BaseModel):
    """Sensors over one measurement; a sensor that is missing is None, never 0."""

    model_config = ConfigDict(frozen=True)

    power_w: float | None = None  # mean, from the energy counter where there is one
    energy_j: float | None = None  # None also for a window too short for the sensor
    temperature_c: float | None = None  # highest seen
    gpu_memory_mib: float | None = None
    gpu_utilization: float | None = None  # 0-1, mean
    sm_clock_mhz: float | None = None  # mean
    memory_clock_mhz: float | None = None  # mean
    throttle_reasons: tuple[str, ...] = ()
    gpu_fault: str | None = None  # sentence: a lost card, a driver that hangs, MIG
    # of processes other than the engine on its cards; None where they cannot be told apart
    foreign_gpu_mib: float | None = None  # taken beyond what they held at the beginning
    foreign_gpu_busy: float | None = None  # 0-1, mean share of the card's time
    host_cpu: float | None = None  # 0-1, mean over all cores
    foreign_cpu: float | None = None  # 0-1 of all cores, neither the engine nor the replay
    client_cpu: float | None = None  # of the one core that the replay can use
    host_memory_mib: float | None = None  # used, highest seen


class Measurement(BaseModel):
    """What one engine start gave for one workload class, or why it gave nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    platform: str  # digest of the platform fingerprint
    workload: str  # str(WorkloadClass)
    knobs: str  # canonical JSON of the knobs
    started_at: float  # seconds since the epoch
    engine_token: str  # identity of the engine start: a replicate is a start, not a block
    phase: str = "search"  # "search", "promotion" or "probation"
    pair: int | None = None  # promotion: number of the start pair
    concurrency: int = Field(default=1, ge=1)
    samples: str = "live"  # "live" replay of sampled traffic or "synthetic"
    blocks: tuple[Block, ...] = ()
    acceptance: Acceptance | None = None
    cache_hits: float | None = Field(default=None, ge=0, le=1)  # of prompt tokens, prefix cache
    environment: Environment = Environment()
    ready_s: float | None = None  # seconds from spawn to a passed canary
    failure: Failure | None = None
    invalid: str | None = None  # why this measurement must not be used
    invalid_code: str | None = None  # the same for programs, a `tuner.validity.Code`

    @property
    def usable(self) -> bool:
        """Whether tok/s of this measurement may enter a comparison."""
        return self.failure is None and self.invalid is None and bool(self.blocks)

    @property
    def output_tokens(self) -> int:
        """Output tokens over all blocks."""
        return sum(block.output_tokens for block in self.blocks)

    @property
    def tok_s(self) -> float | None:
        """Output tokens per second over all blocks; None when nothing usable was measured."""
        seconds = sum(block.seconds for block in self.blocks)
        return self.output_tokens / seconds if self.usable and seconds > 0 else None

    @property
    def spread(self) -> float | None:
        """Relative standard deviation of tok/s between blocks; None with fewer than two."""
        rates = [block.tok_s for block in self.blocks]
        mean = statistics.fmean(rates) if rates else 0.0
        return statistics.stdev(rates) / mean if len(rates) > 1 and mean > 0 else None

    @property
    def joule_per_token(self) -> float | None:
        """Energy per output token; None without an energy reading."""
        if self.environment.energy_j is None or self.output_tokens == 0:
            return None
        return self.environment.energy_j / self.output_tokens

    def log_rate(self) -> float:
        """Natural logarithm of tok/s: noise becomes additive, gains become differences.

        Raises:
            ValueError: there is no usable rate.
        """
        if self.tok_s is None or self.tok_s <= 0:
            raise ValueError("this measurement has no usable rate")
        return math.log(self.tok_s)

    @classmethod
    def of_failure(cls, failure: Failure, **fields: object) -> Self:
        """A measurement that gave nothing, with its reason."""
        return cls.model_validate({**fields, "failure": failure})
