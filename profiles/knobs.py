"""P: knobs, their constraints, and their rendering to vLLM arguments."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

from profiles import schedule
from profiles.errors import InvalidKnobsError

Off = Literal["off"]


class Drafter(BaseModel):
    """One way to draft tokens: a vLLM speculative method and what it needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")  # how profiles refer to it
    method: str  # vLLM's `method`: ngram, dflash, eagle3, mtp, draft_model, ...
    model: str | None = None  # path or hub id; None for ngram and mtp
    revision: str | None = None  # of the model on the hub
    # tokens; the longest that is tried
    max_draft_length: PositiveInt = Field(default=15, le=255)
    # further keys of speculative_config, e.g. prompt_lookup_max for ngram
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)


class Knobs(BaseModel):
    """One configuration of the engine; `None` leaves a knob as vLLM or the operator set it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    drafter: str | None = None  # name of a configured drafter; None with draft_length "off"
    draft_length: Off | PositiveInt = "off"  # tokens; "off" starts vLLM without speculation
    max_num_seqs: PositiveInt | None = None  # requests running together
    max_num_batched_tokens: PositiveInt | None = None  # tokens per step
    gpu_memory_utilization: float | None = Field(
        default=None, gt=0, le=1
    )  # share of the GPU's memory
    cpu_kv_gib: PositiveInt | None = None  # CPU build only: VLLM_CPU_KVCACHE_SPACE, GiB
    # vLLM's own preset
    performance_mode: Literal["balanced", "interactivity", "throughput"] | None = None
    # start with a table, so that draft lengths up to draft_length can be changed while it runs
    live: bool = False
    # ranges [lowest, highest batch size, tokens]; not set: draft_length at every batch size
    draft_schedule: schedule.Schedule | None = None
    # requests admitted together, at most max_num_seqs; changes without a restart
    max_active_seqs: PositiveInt | None = Field(default=None, le=schedule.LARGEST)
    # tokens scheduled per step, at most max_num_batched_tokens; changes without a restart
    max_scheduled_tokens: PositiveInt | None = Field(default=None, le=schedule.LARGEST)

    @field_validator("draft_schedule", mode="after")
    @classmethod
    def _whole_schedule(cls, ranges: schedule.Schedule | None) -> schedule.Schedule | None:
        return None if ranges is None else schedule.checked(ranges)

    @model_validator(mode="after")
    def _schedule_of_a_drafter(self) -> Self:
        if self.drafter is None and (self.live or self.draft_schedule is not None):
            raise ValueError("live and draft_schedule need a drafter")
        if self.draft_schedule and schedule.longest(self.draft_schedule) > self.draft_tokens:
            raise ValueError("draft_schedule is longer than draft_length, its upper limit")
        return self

    @model_validator(mode="after")
    def _drafter_iff_drafting(self) -> Self:
        if (self.drafter is None) != (self.draft_length == "off"):
            raise ValueError(
                "a drafter and a draft length belong together; "
                'write draft_length = "off" without a drafter to turn speculation off'
            )
        return self

    @property
    def speculating(self) -> bool:
        """Whether vLLM is started with a speculative configuration."""
        return self.drafter is not None

    @property
    def draft_tokens(self) -> int:
        """The draft length as a number, 0 for off."""
        return 0 if self.draft_length == "off" else self.draft_length

    @property
    def lengths(self) -> schedule.Schedule:
        """The draft length at every batch size."""
        return self.draft_schedule or schedule.constant(self.draft_tokens)

    def cold(self) -> "Knobs":
        """What only a restart can change: equal for all that one live engine can be."""
        return self.model_copy(
            update={
                "draft_schedule": None if self.live else self.draft_schedule,
                "max_active_seqs": None,
                "max_scheduled_tokens": None,
            }
        )

    def given(self) -> dict[str, Any]:
        """The knobs that are set, as JSON values."""
        known = self.model_dump(mode="json", exclude_none=True)
        if not self.live:
            del known["live"]  # profiles of before live knobs keep their ids
        return known

    def canonical(self) -> str:
        """JSON with sorted keys and without unset knobs: equal knobs have equal text."""
        return json.dumps(self.given(), sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """First 12 hex digits of the SHA-256 of the canonical text."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:12]

    def label(self) -> str:
        """A short name for people, such as `dflash k=8, seqs 64` or `off`."""
        parts = ["off" if self.drafter is None else f"{self.drafter} k={self.draft_length}"]
        if self.draft_schedule is not None:
            parts = [f"{self.drafter} k={schedule.label(self.draft_schedule)}"]
        elif self.live:
            parts = [f"{self.drafter} live to {self.draft_length}"]
        if self.max_active_seqs is not None:
            parts.append(f"admitted {self.max_active_seqs}")
        if self.max_scheduled_tokens is not None:
            parts.append(f"scheduled {self.max_scheduled_tokens}")
        if self.max_num_seqs is not None:
            parts.append(f"seqs {self.max_num_seqs}")
        if self.max_num_batched_tokens is not None:
            parts.append(f"budget {self.max_num_batched_tokens}")
        if self.gpu_memory_utilization is not None:
            parts.append(f"memory {self.gpu_memory_utilization:g}")
        if self.cpu_kv_gib is not None:
            parts.append(f"kv {self.cpu_kv_gib} GiB")
        if self.performance_mode is not None:
            parts.append(self.performance_mode)
        return ", ".join(parts)


class Rendered(BaseModel):
    """What knobs become on a vLLM command line."""

    model_config = ConfigDict(frozen=True)

    args: tuple[str, ...]
    env: dict[str, str]


# flag of each knob that is a plain value; the others are rendered by hand below
PLAIN_FLAGS: Mapping[str, str] = {
    "max_num_seqs": "--max-num-seqs",
    "max_num_batched_tokens": "--max-num-batched-tokens",
    "gpu_memory_utilization": "--gpu-memory-utilization",
    "performance_mode": "--performance-mode",
}
# flags of the caps that are live where tunerd's scheduler runs, and start-up flags elsewhere
CAP_FLAGS: Mapping[str, str] = {
    "max_active_seqs": "--max-num-active-seqs",
    "max_scheduled_tokens": "--max-num-scheduled-tokens",
}
# methods whose drafters assert the length they were started with: a table ends the engine
# (v1/spec_decode/suffix_decoding.py:43, medusa.py:47), or that have no proposer of varying length
FIXED_LENGTH_METHODS = frozenset({"suffix", "medusa", "mlp_speculator", "custom_class"})
SPECULATIVE_FLAG = "--speculative-config"
CPU_KV_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"


def violations(knobs: Knobs, drafters: Mapping[str, Drafter]) -> list[str]:
    """Sentences for every constraint that these knobs break; empty when vLLM may be started.

    vLLM itself refuses `max_num_batched_tokens < max_num_seqs`; the stricter bound with a drafter
    is ours, because verification needs 1 + draft_length tokens per running request.
    """
    found: list[str] = []
    if knobs.drafter is not None:
        drafter = drafters.get(knobs.drafter)
        if drafter is None:
            known = ", ".join(sorted(drafters)) or "none"
            found.append(f"Drafter {knobs.drafter!r} is not configured (known: {known}).")
        elif knobs.draft_tokens > drafter.max_draft_length:
            found.append(
                f"Draft length {knobs.draft_tokens} is above the maximum of {drafter.name!r}, "
                f"{drafter.max_draft_length}."
            )
        elif drafter.method in FIXED_LENGTH_METHODS and (knobs.live or knobs.draft_schedule):
            found.append(f"The draft length of {drafter.method} cannot vary.")
    if (knobs.max_active_seqs or 0) > (knobs.max_num_seqs or math.inf):
        found.append(
            f"max_active_seqs {knobs.max_active_seqs} is above max_num_seqs {knobs.max_num_seqs}."
        )
    if (knobs.max_scheduled_tokens or 0) > (knobs.max_num_batched_tokens or math.inf):
        found.append(
            f"max_scheduled_tokens {knobs.max_scheduled_tokens} is above "
            f"max_num_batched_tokens {knobs.max_num_batched_tokens}."
        )
    if knobs.max_num_seqs is not None and knobs.max_num_batched_tokens is not None:
        needed = knobs.max_num_seqs * (1 + knobs.draft_tokens)
        if knobs.max_num_batched_tokens < needed:
            found.append(
                f"max_num_batched_tokens {knobs.max_num_batched_tokens} is below "
                f"max_num_seqs x (1 + draft length) = {needed}."
            )
    return found


def render(
    knobs: Knobs, drafters: Mapping[str, Drafter], *, live_lengths: Sequence[int] | None = None
) -> Rendered:
    """The vLLM arguments and environment of these knobs.

    With `live_lengths` they are for an engine that runs tunerd's scheduler: the caps come from
    the control file, and the start-up table names these draft lengths too. Without, everything
    is in the arguments, and works in an engine that tunerd has never seen.

    Raises:
        InvalidKnobsError: a constraint is broken; nothing may be started with them.
    """
    broken = violations(knobs, drafters)
    if broken:
        raise InvalidKnobsError(" ".join(broken))
    args: list[str] = []
    flags = PLAIN_FLAGS if live_lengths is not None else {**PLAIN_FLAGS, **CAP_FLAGS}
    for field, flag in flags.items():
        value = getattr(knobs, field)
        if value is not None:
            args += [flag, f"{value:g}" if isinstance(value, float) else str(value)]
    if knobs.drafter is not None:
        config = speculative_config(drafters[knobs.drafter], knobs.draft_tokens)
        if live_lengths is not None and knobs.live:
            lengths = [k for k in live_lengths if k <= knobs.draft_tokens]
            table = schedule.declaring(knobs.lengths, lengths, knobs.max_num_seqs)
            config["num_speculative_tokens_per_batch_size"] = [list(one) for one in table]
        elif knobs.draft_schedule is not None:
            config["num_speculative_tokens_per_batch_size"] = [
                list(one) for one in knobs.draft_schedule
            ]
        args += [SPECULATIVE_FLAG, json.dumps(config, sort_keys=True, separators=(",", ":"))]
    env = {} if knobs.cpu_kv_gib is None else {CPU_KV_VARIABLE: str(knobs.cpu_kv_gib)}
    return Rendered(args=tuple(args), env=env)


def speculative_config(drafter: Drafter, draft_tokens: int) -> dict[str, Any]:
    """What vLLM's `--speculative-config` takes, as JSON."""
    config: dict[str, Any] = {"method": drafter.method}
    if drafter.model is not None:
        config["model"] = drafter.model
    if drafter.revision is not None:
        config["revision"] = drafter.revision
    config["num_speculative_tokens"] = draft_tokens
    config.update(drafter.options)
    return config


def required_flags(knobs: Knobs) -> frozenset[str]:
    """The vLLM flags that rendering these knobs uses: what the installed vLLM must accept."""
    flags = {flag for field, flag in PLAIN_FLAGS.items() if getattr(knobs, field) is not None}
    if knobs.speculating:
        flags.add(SPECULATIVE_FLAG)
    return frozenset(flags)
