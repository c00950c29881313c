"""P: what made an engine fail, read from its log; the exit code cannot tell.

vLLM exits 1 for a typo and for a full GPU alike, and 0 when its engine core was killed.
"""

import re
from dataclasses import dataclass
from typing import Literal

from profiles.measurement import Failure, FailureKind

Phase = Literal["start", "serve"]
EVIDENCE_CHARS = 300
SIGKILL_CODES = frozenset({-9, 137})
SIGSEGV_CODES = frozenset({-11, 139})
SIGABRT_CODES = frozenset({-6, 134})

# lines in which vLLM prints requests or their tokens: never a cause, never evidence
_REQUEST_TEXT = re.compile(
    r"Received request|SamplingParams\(|prompt_token_ids|NewRequestData|SchedulerOutput\(|"
    r"Dumping (?:input data|scheduler output)|Generated response"
)
# what follows every failure or every wanted stop, and so explains nothing
_TAIL = re.compile(
    r"Engine core initialization failed|Frontend process failed during engine core|"
    r"WorkerProc initialization failed|EngineDeadError|EngineCore encountered an issue|"
    r"resource_tracker|"
    r"cannot schedule new futures after shutdown"
)
_HARMLESS = re.compile(r"(?:^|\s)(?:INFO|WARNING|DEBUG) ")
_EXCEPTION = re.compile(r"(?:^|\s)((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception)): \S.*")


@dataclass(frozen=True)
class Signature:
    """A text of vLLM that decides, the kind it means, and what to tell people."""

    pattern: re.Pattern[str]
    kind: FailureKind | None  # None: out of memory, at load or while serving as the phase says
    sentence: str


def _signature(pattern: str, kind: FailureKind | None, sentence: str) -> Signature:
    return Signature(pattern=re.compile(pattern), kind=kind, sentence=sentence)


_BAD = FailureKind.BAD_FLAG
_KV = FailureKind.NO_KV_MEMORY
# says nothing about the knobs: the same point may be tried again
_AGAIN = FailureKind.INTERRUPTED

# the first signature that matches any line wins: exact texts stand before general ones
SIGNATURES: tuple[Signature, ...] = (
    # memory: who holds it, and for what it is too small
    _signature(
        r"Free memory on device .*is less than the engine's budget.*",
        FailureKind.FOREIGN_MEMORY,
        "Another process holds GPU memory that this engine needs.",
    ),
    _signature(
        r"Free memory on device .*(?:on startup )?is less than desired GPU memory utilization.*",
        FailureKind.FOREIGN_MEMORY,
        "Another process holds GPU memory that this engine needs.",
    ),
    _signature(
        r"Available memory on node .*is less than desired CPU memory utilization \([^)]*\)",
        FailureKind.FOREIGN_MEMORY,
        "The host has less free memory than vLLM's CPU build takes by default: "
        "set engine.default.cpu_kv_gib.",
    ),
    _signature(
        r"Externally held weights on device .*exceed the desired GPU memory utilization.*",
        _KV,
        "The memory fraction is smaller than the weights that are already loaded.",
    ),
    _signature(
        r"No available memory for the cache blocks.*",
        _KV,
        "vLLM found no memory for KV blocks after weights and drafter.",
    ),
    _signature(
        r"To serve at least one request with the model's max seq len.*",
        _KV,
        "The KV memory left does not hold one request of full length.",
    ),
    _signature(
        r"CUDA out of memory occurred when warming up sampler.*",
        FailureKind.OOM_LOAD,
        "The memory fraction leaves no room for a full batch.",
    ),
    # the command line
    _signature(
        r"error: (?:unrecognized arguments|ambiguous option):? .*",
        _BAD,
        "The installed vLLM does not accept a flag.",
    ),
    _signature(
        r"error: argument .*",
        _BAD,
        "The installed vLLM does not accept the value of a flag.",
    ),
    _signature(
        r"max_num_batched_tokens \(\d+\) must be greater than or equal to max_num_seqs \(\d+\)",
        _BAD,
        "The token budget is smaller than the number of requests.",
    ),
    _signature(
        r"num_speculative_tokens must be provided with speculative model.*",
        _BAD,
        "The speculative configuration lacks a draft length.",
    ),
    _signature(
        r"num_speculative_tokens: ?\d+ must be divisible by n_predict ?= ?\d+",
        _BAD,
        "This MTP head drafts only multiples of its own prediction length.",
    ),
    _signature(
        r"Expected num_speculative_tokens to be greater than zero.*",
        _BAD,
        "A draft length of 0 is not off; off means no speculative configuration.",
    ),
    _signature(
        r"max_num_scheduled_tokens is set to -?\d+ based on the speculative decoding settings, "
        r"which does not allow any tokens.*|"
        r"VllmConfig does not have enough slots to schedule a token.*",
        _BAD,
        "Drafting uses up the token budget of a step.",
    ),
    _signature(
        r"AssertionError: expected size \d+ ?== ?\d+.*",
        _AGAIN,
        "A compile cache of another draft length was reused.",
    ),
    _signature(
        r"Unknown speculative decoding method.*",
        _BAD,
        "This vLLM has no such speculative method.",
    ),
    _signature(
        r"--per-request-spec-decode-metrics requires speculative decoding.*",
        _BAD,
        "A flag for speculation was given while speculation is off.",
    ),
    _signature(
        r"Batch-size ranges must be non-overlapping and sorted|"
        r"The first batch-size range must start at 1|"
        r"num_speculative_tokens_per_batch_size must not be empty",
        _BAD,
        "The table of draft lengths by batch size is malformed.",
    ),
    _signature(
        r"Synthetic acceptance not supported with CPU sampling",
        _BAD,
        "The CPU build has no synthetic acceptance.",
    ),
    _signature(
        r"(?:suffix_decoding|medusa)\.py\", line \d+",
        _BAD,
        "This speculative method cannot change its draft length while running.",
    ),
    _signature(
        r"Repo id must be (?:in the form|a string).*|"
        r"Invalid repository ID or local directory specified.*|"
        r"is not a local folder and is not a valid model identifier.*|"
        r"Incorrect path_or_model_id.*|"
        r"Can't load the configuration of .*|"
        r"(?:RepositoryNotFoundError|LocalEntryNotFoundError|OfflineModeIsEnabled): .*|"
        r"Cannot find (?:an appropriate cached snapshot folder|the requested files).*|"
        r"couldn't connect to 'https://huggingface\.co'.*|"
        r"(?:Cannot|Can't) find any model weights.*",
        _BAD,
        "vLLM cannot find the model or the drafter at the configured path.",
    ),
    _signature(
        r"PackageNotFoundError: .*\bvllm\b.*",
        _BAD,
        "The `vllm` command does not work with the CPU build; "
        "start `python -m vllm.entrypoints.openai.api_server`.",
    ),
    _signature(
        r"No module named '?vllm\b.*",
        _BAD,
        "The configured Python has no vLLM.",
    ),
    _signature(
        r"operator torchvision::nms does not exist",
        FailureKind.CRASH,
        "A CUDA build of torchvision, torchaudio or torchcodec sits beside the CPU torch.",
    ),
    # out of memory, general
    _signature(
        r"(?:CUDA|HIP|XPU) out of memory.*|CUDA error: out of memory.*|"
        r"CUBLAS_STATUS_ALLOC_FAILED.*|\bOutOfMemoryError\b.*",
        None,
        "The GPU ran out of memory",
    ),
    _signature(
        r"DefaultCPUAllocator: can't allocate memory.*|std::bad_alloc.*|(?:^|\s)MemoryError\b.*|"
        r"Cannot allocate memory.*|[Oo]ut of memory: Killed process \d+.*|\boom-kill\b.*",
        None,
        "The host ran out of memory",
    ),
    # the machine, not the knobs
    _signature(
        r"Timed out waiting for engine core processes to start.*",
        FailureKind.TIMEOUT,
        "The engine core was not ready in time.",
    ),
    _signature(
        r"Did not receive response from front-end process within.*",
        _AGAIN,
        "The API server was gone before the engine core was ready.",
    ),
    _signature(
        r"\[Errno 98\].*|[Aa]ddress already in use.*",
        _AGAIN,
        "The engine's socket is in use.",
    ),
    _signature(
        r"\[Errno 28\].*|No space left on device.*",
        _AGAIN,
        "The disk is full.",
    ),
    _signature(
        r"No CUDA GPUs are available.*|Failed to infer device type.*",
        FailureKind.CRASH,
        "vLLM found no device to run on.",
    ),
    # last: pydantic wraps many of the texts above, which are more exact
    _signature(
        r"\d+ validation errors? for \w+",
        _BAD,
        "vLLM refuses this combination of settings.",
    ),
)


def classify_failure(
    *, exit_code: int | None, log_tail: str, phase: Phase, timed_out: bool
) -> Failure:
    """The failure of an engine that ended, or had to be ended, without being asked to stop.

    A cause in the log wins over the deadline: an engine that ran out of memory may hang afterwards.
    """
    lines = [line for line in log_tail.splitlines() if not _REQUEST_TEXT.search(line)]
    for signature in SIGNATURES:
        for line in lines:
            match = signature.pattern.search(line)
            if match is not None:
                return _failure(signature, match.group(0), exit_code, phase)
    if timed_out:
        waited = "become ready" if phase == "start" else "answer"
        sentence = f"The engine did not {waited} within its deadline."
        return Failure(kind=FailureKind.TIMEOUT, sentence=sentence, exit_code=exit_code)
    return Failure(
        kind=FailureKind.CRASH,
        sentence=_ending(exit_code, phase),
        evidence=_last_exception(lines, phase),
        exit_code=exit_code,
    )


def _failure(signature: Signature, matched: str, exit_code: int | None, phase: Phase) -> Failure:
    kind, sentence = signature.kind, signature.sentence
    if kind is None:
        loading = phase == "start"
        kind = FailureKind.OOM_LOAD if loading else FailureKind.OOM_SERVE
        sentence += " while loading." if loading else " while serving."
    evidence = matched.strip()[:EVIDENCE_CHARS]
    return Failure(kind=kind, sentence=sentence, evidence=evidence, exit_code=exit_code)


def _ending(exit_code: int | None, phase: Phase) -> str:
    """How the engine ended, when its log does not say why."""
    when = "while starting" if phase == "start" else "while serving"
    if exit_code is None:
        return f"The engine failed {when} without saying why."
    if exit_code in SIGKILL_CODES:
        # the kernel's OOM killer does this, and so does anybody else: no evidence, no verdict
        return (
            f"The engine was killed {when} (SIGKILL); the kernel log says whether memory ran out."
        )
    if exit_code in SIGSEGV_CODES:
        return f"The engine crashed {when} (segmentation fault)."
    if exit_code in SIGABRT_CODES:
        return f"The engine aborted {when} (SIGABRT)."
    if exit_code == 0:
        # vLLM's watchdog ends the server with status 0 when the engine core dies
        return f"The engine ended by itself {when} (status 0: its core died)."
    return f"The engine ended {when} with status {exit_code}."


def _last_exception(lines: list[str], phase: Phase) -> str:
    """The last exception that is no mere tail; only its name once requests are served."""
    for line in reversed(lines):
        if _TAIL.search(line) or _HARMLESS.search(line):
            continue
        match = _EXCEPTION.search(line)
        if match is not None:
            # a message may quote a request, but before the first request there is none to quote
            text = match.group(0) if phase == "start" else match.group(1)
            return text.strip()[:EVIDENCE_CHARS]
    return ""
