"""What the live knobs rely on in vLLM, and which of it an installed or unpacked one lacks.

The scheduler's interface is not public. So everything that is used of it is listed here, and on
another version the missing one is named before an engine is started with it.
"""

import ast
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from profiles.errors import UnavailableError
from tuner import fit_source as source
from tuner.fit_source import NotThereError, Sources
from tuner.flags import probe

LOAD, DRAFT, ACTIVE, BUDGET = "load", "draft length", "admitted batch", "token budget"
TELEMETRY, CLASS, LIMIT = "telemetry", "request class", "per-request limit"
# what an operator loses without a capability, in the order of the table
LOST = {
    LOAD: "live knobs cannot be loaded",
    DRAFT: "draft length is not live",
    ACTIVE: "admitted batch is not live",
    BUDGET: "token budget is not live",
    TELEMETRY: "steps and drafts are not counted",
    CLASS: "the engine does not see request classes",
    LIMIT: "a class cannot have shorter drafts than the others",
}
CONFIG, SPECULATIVE = "config/scheduler.py", "config/speculative.py"
SCHEDULER, ASYNC = "v1/core/sched/scheduler.py", "v1/core/sched/async_scheduler.py"
STEP, RUNNER, OUTPUTS = "v1/core/sched/output.py", "v1/worker/gpu_model_runner.py", "v1/outputs.py"
ENGINE, INPUT, REQUEST = "v1/engine/__init__.py", "v1/engine/input_processor.py", "v1/request.py"
STATS, DRAFT_STATS = "v1/metrics/stats.py", "v1/spec_decode/metrics.py"
FLAGS = "engine/arg_utils.py"
ENTRYPOINTS, OPENAI, BASE_ID = "entrypoints", "entrypoints/openai", "_base_request_id"
PLANNED = "num_spec_tokens_to_schedule"
GIVEN_IDS = frozenset({"request_id", "external_req_id"})


@dataclass(frozen=True)
class Need:
    """One thing in vLLM's source without which a capability is not there."""

    capability: str
    file: str  # or folder, below `vllm`
    what: str
    sentence: str = field(compare=False)  # what to say when it is missing
    check: Callable[[Sources], bool] = field(compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What one vLLM has of what the live knobs rely on."""

    version: str | None
    missing: tuple[Need, ...]
    capabilities: frozenset[str]  # those of which nothing is missing

    def sentence(self) -> str:
        """What is lost on this vLLM and why, for an operator."""
        name = f"vLLM {self.version}" if self.version else "This vLLM"
        lost = [
            self._lost(capability) for capability in LOST if capability not in self.capabilities
        ]
        return f"{name}: {'; '.join(lost) or 'all that the live knobs rely on is there'}."

    def _lost(self, capability: str) -> str:
        """One capability's loss, with the first reason and the number of the others."""
        every = [need.sentence for need in self.missing if need.capability == capability]
        first, *others = dict.fromkeys(every)
        more = f", and {len(others)} more" if others else ""
        return f"{LOST[capability]} ({first}{more})"


def inspect(root: Path) -> Fit:
    """What the `vllm` package in this folder has; whatever cannot be read is missing."""
    sources = Sources(root)
    missing = tuple(need for need in (_missing(need, sources) for need in NEEDS) if need)
    lost = {need.capability for need in missing}
    return Fit(
        version=_version(sources), missing=missing, capabilities=frozenset(LOST.keys() - lost)
    )


async def installed_root(command: Sequence[str], env: Mapping[str, str]) -> Path | None:
    """The `vllm` folder that the Python of an engine's command sees, if there is one."""
    with contextlib.suppress(UnavailableError):
        found = await probe(command, {**os.environ, **env})
        return Path(str(found["origin"])).parent
    return None


def _missing(need: Need, sources: Sources) -> Need | None:
    """The need, with the sentence that says best what is wrong, or None when it is met."""
    try:
        return None if need.check(sources) else need
    except NotThereError as error:
        return replace(need, sentence=str(error))


def _version(sources: Sources) -> str | None:
    """The version that the build wrote into the package."""
    with contextlib.suppress(NotThereError):
        for node in sources.module("_version.py").body:
            if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Constant):
                continue
            names = {target.id for target in node.targets if isinstance(target, ast.Name)}
            if "__version__" in names and isinstance(node.value.value, str):
                return node.value.value
    return None


# --- the kinds of needs --------------------------------------------------------------------------


def _member(capability: str, file: str, owner: str, *names: str) -> Need:
    """A class has one of these fields, properties or attributes."""
    what = f"{owner}.{' or '.join(names)}"
    return Need(
        capability, file, what, f"{what} is missing",
        lambda sources: not sources.members(file, owner).isdisjoint(names),
    )  # fmt: skip


def _set(capability: str, name: str) -> Need:
    """The scheduler sets this attribute when it is made."""
    what = f"Scheduler.{name}"
    return Need(
        capability, SCHEDULER, what, f"{what} is missing",
        lambda sources: name in source.assigned([_scheduler(sources, "__init__")]),
    )  # fmt: skip


def _method(capability: str, name: str, *parameters: str) -> Need:
    """A method of the scheduler can be called with these arguments."""
    return Need(
        capability, SCHEDULER, f"Scheduler.{name}({', '.join(parameters)})",
        f"Scheduler.{name}() cannot be called with {', '.join(parameters)}",
        lambda sources: source.takes(_scheduler(sources, name), parameters),
    )  # fmt: skip


def _schedule(capability: str, what: str, check: Callable[[list[source.Function]], bool]) -> Need:
    """Something happens when the scheduler schedules a step, there or in a method it calls."""
    return Need(
        capability, SCHEDULER, f"Scheduler.schedule(): {what}",
        f"Scheduler.schedule() has no {what}",
        lambda sources: check(sources.reached(SCHEDULER, "Scheduler", "schedule")),
    )  # fmt: skip


def _reads(capability: str, file: str, owner: str, name: str) -> Need:
    """A class reads an attribute of whatever object."""
    return Need(
        capability, file, f"{owner}: {name}", f"{owner} does not read {name}",
        lambda sources: source.reads([sources.type(file, owner)], name),
    )  # fmt: skip


def _flag(capability: str, flag: str) -> Need:
    """The engine takes a flag."""
    return Need(
        capability, FLAGS, flag, f"{flag} is missing",
        lambda sources: source.adds_flag([sources.module(FLAGS)], flag),
    )  # fmt: skip


def _id_of(prefix: str) -> Need:
    """A kind of request gets this prefix and the id of the header as its id."""
    return Need(
        CLASS, OPENAI, f"{prefix}{{_base_request_id()}}",
        f"no request id is {prefix} and _base_request_id()",
        lambda sources: source.formats(sources.below(OPENAI, BASE_ID), prefix, BASE_ID),
    )  # fmt: skip


def _scheduler(sources: Sources, method: str) -> source.Function:
    return sources.method(SCHEDULER, "Scheduler", method)


def _base_ids(sources: Sources) -> list[ast.AST]:
    """The functions that make a request id of the header."""
    every = source.walk(sources.below(ENTRYPOINTS, f"def {BASE_ID}"))
    return [node for node in every if isinstance(node, source.Function) and node.name == BASE_ID]


# --- the catalogue: the most telling need of a capability first ----------------------------------

NEEDS: tuple[Need, ...] = (
    _member(LOAD, CONFIG, "SchedulerConfig", "scheduler_cls"),
    _member(LOAD, CONFIG, "SchedulerConfig", "async_scheduling"),
    _flag(LOAD, "--scheduler-cls"),
    Need(
        LOAD, ASYNC, "AsyncScheduler(Scheduler)", "AsyncScheduler does not derive from Scheduler",
        lambda sources: "Scheduler" in source.bases(sources.type(ASYNC, "AsyncScheduler")),
    ),
    Need(
        LOAD, SCHEDULER, "Scheduler(vllm_config, ...)", "Scheduler() begins with another parameter",
        lambda sources: source.begins(_scheduler(sources, "__init__"), ("vllm_config",)),
    ),
    Need(
        LOAD, SCHEDULER, "Scheduler.schedule()", "Scheduler.schedule() is missing",
        lambda sources: source.begins(_scheduler(sources, "schedule"), ()),
    ),
    _method(LOAD, "update_from_output", "scheduler_output", "model_runner_output"),
    _method(LOAD, "add_request", "request"),
    _set(LOAD, "requests"),
    _set(LOAD, "running"),
    _set(LOAD, "scheduler_config"),
    _set(LOAD, "max_num_running_reqs"),
    _set(DRAFT, "dynamic_sd_lookup"),
    _set(DRAFT, "num_spec_tokens"),
    _member(DRAFT, SPECULATIVE, "SpeculativeConfig", "num_speculative_tokens_per_batch_size"),
    _schedule(
        DRAFT, "dynamic_sd_lookup[...]",
        lambda functions: source.indexes(functions, "dynamic_sd_lookup"),
    ),
    _schedule(
        DRAFT, "SchedulerOutput(num_spec_tokens_to_schedule=...)",
        lambda functions: source.passes(functions, "SchedulerOutput", PLANNED),
    ),
    _member(DRAFT, STEP, "SchedulerOutput", PLANNED),
    _member(DRAFT, STEP, "SchedulerOutput", "num_scheduled_tokens"),
    _member(DRAFT, STEP, "SchedulerOutput", "total_num_scheduled_tokens"),
    _member(DRAFT, STEP, "SchedulerOutput", "scheduled_spec_decode_tokens"),
    _reads(DRAFT, ASYNC, "AsyncScheduler", PLANNED),
    _reads(DRAFT, RUNNER, "GPUModelRunner", PLANNED),
    _set(ACTIVE, "max_num_active_reqs"),
    _schedule(
        ACTIVE, "comparison with max_num_active_reqs",
        lambda functions: source.within(functions, ast.Compare, "max_num_active_reqs"),
    ),
    Need(
        # while the limit is being lowered, more are running than it allows
        ACTIVE, SCHEDULER, "no assertion about max_num_active_reqs",
        "Scheduler asserts something about max_num_active_reqs",
        lambda sources: not source.within(
            [sources.type(SCHEDULER, "Scheduler")], ast.Assert, "max_num_active_reqs"
        ),
    ),
    _flag(ACTIVE, "--max-num-active-seqs"),
    _set(BUDGET, "max_num_scheduled_tokens"),
    Need(
        # not in an assertion alone
        BUDGET, SCHEDULER, "Scheduler.schedule(): assignment from max_num_scheduled_tokens",
        "Scheduler.schedule() takes no budget from max_num_scheduled_tokens",
        lambda sources: source.within(
            [_scheduler(sources, "schedule")], ast.Assign, "max_num_scheduled_tokens"
        ),
    ),
    _flag(BUDGET, "--max-num-scheduled-tokens"),
    _member(TELEMETRY, ENGINE, "EngineCoreOutputs", "scheduler_stats"),
    _member(TELEMETRY, ENGINE, "EngineCoreOutputs", "outputs"),
    _member(TELEMETRY, ENGINE, "EngineCoreOutput", "new_token_ids"),
    _member(TELEMETRY, ENGINE, "EngineCoreOutput", "request_id"),
    _member(TELEMETRY, STATS, "SchedulerStats", "spec_decoding_stats"),
    _member(TELEMETRY, DRAFT_STATS, "SpecDecodingStats", "num_drafts"),
    _member(TELEMETRY, DRAFT_STATS, "SpecDecodingStats", "num_draft_tokens"),
    _member(TELEMETRY, DRAFT_STATS, "SpecDecodingStats", "num_accepted_tokens"),
    _member(TELEMETRY, DRAFT_STATS, "SpecDecodingStats", "num_accepted_tokens_per_pos"),
    _member(TELEMETRY, DRAFT_STATS, "SpecDecodingStats", "num_draft_tokens_per_pos"),
    _member(TELEMETRY, STEP, "SchedulerOutput", "num_invalid_spec_tokens"),
    _member(TELEMETRY, OUTPUTS, "ModelRunnerOutput", "sampled_token_ids"),
    _member(TELEMETRY, OUTPUTS, "ModelRunnerOutput", "req_id_to_index", "req_ids"),
    _member(TELEMETRY, REQUEST, "Request", "num_output_tokens"),
    _set(TELEMETRY, "waiting"),
    Need(
        CLASS, ENTRYPOINTS, "_base_request_id(): X-Request-Id",
        "no _base_request_id() reads the header X-Request-Id",
        lambda sources: source.mentions(_base_ids(sources), "X-Request-Id"),
    ),
    _id_of("chatcmpl-"),
    _id_of("cmpl-"),
    Need(
        CLASS, INPUT, "InputProcessor.assign_request_id()",
        "InputProcessor.assign_request_id() does not keep the id that it gets",
        lambda sources: source.keeps(
            sources.method(INPUT, "InputProcessor", "assign_request_id"), "request_id", GIVEN_IDS
        ),
    ),
    _member(CLASS, REQUEST, "Request", "request_id"),
    _member(LIMIT, REQUEST, "Request", "spec_token_ids"),
    Need(
        LIMIT, SCHEDULER, "Scheduler.update_draft_token_ids(): spec_token_ids",
        "Scheduler.update_draft_token_ids() does not set spec_token_ids",
        lambda sources: source.sets(
            [_scheduler(sources, "update_draft_token_ids")], "spec_token_ids"
        ),
    ),
    Need(
        LIMIT, SCHEDULER, "Scheduler.schedule(): use of spec_token_ids",
        "Scheduler.schedule() does not read spec_token_ids",
        lambda sources: source.reads([_scheduler(sources, "schedule")], "spec_token_ids"),
    ),
)  # fmt: skip
