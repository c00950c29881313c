"""The kind of an engine failure from its log, on texts of vLLM 0.32."""

import pytest

from profiles.measurement import FailureKind
from tuner.failures import EVIDENCE_CHARS, classify_failure

PREFIX = "(EngineCore pid=41) ERROR 11-23 13:26:19 [core.py:1200] "
TAIL = (
    "(APIServer pid=40) RuntimeError: Engine core initialization failed. "
    "See root cause above. Failed core proc(s): {}\n"
)
SHUTDOWN = """\
(APIServer pid=40) INFO [shutdown] API server: shutdown triggered
(APIServer pid=40) INFO [shutdown] API server: stopping engine client mode=abort timeout=0s
(EngineCore pid=41) INFO [shutdown] EngineCore: trigger received signal=SIGTERM
vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace \
(above) for the root cause.
/usr/lib/python3.11/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: \
There appear to be 1 leaked shared_memory objects to clean up at shutdown
"""

START_TEXTS = [
    (
        (
            "ValueError: Available memory on node 0 (15.92/17.84 GiB) on startup is less than "
            "desired CPU memory utilization (0.92, 16.41 GiB). On the CPU backend, the "
            "`--gpu-memory-utilization` flag controls the fraction of CPU memory reserved"
        ),
        FailureKind.FOREIGN_MEMORY,
    ),
    (
        (
            "ValueError: No available memory for the cache blocks. Try increasing "
            "`gpu_memory_utilization` when initializing the engine (this flag also controls CPU "
            "memory reservation on the CPU backend, despite its name)."
        ),
        FailureKind.NO_KV_MEMORY,
    ),
    (
        (
            "ValueError: Free memory on device cuda:0 (3.1/31.4 GiB) on startup is less than "
            "desired GPU memory utilization (0.92, 28.9 GiB). Decrease GPU memory utilization"
        ),
        FailureKind.FOREIGN_MEMORY,
    ),
    (
        (
            "ValueError: Free memory on device cuda:0 (3.1/31.4 GiB) is less than the engine's "
            "budget after excluding external process's weights"
        ),
        FailureKind.FOREIGN_MEMORY,
    ),
    (
        (
            "ValueError: Externally held weights on device cuda:0 (20.0 GiB) exceed the desired "
            "GPU memory utilization (0.5, 15.7 GiB)"
        ),
        FailureKind.NO_KV_MEMORY,
    ),
    (
        (
            "ValueError: To serve at least one request with the model's max seq len (131072), "
            "(16.0 GiB KV cache is needed, which is larger than the available KV cache memory "
            "(9.1 GiB)."
        ),
        FailureKind.NO_KV_MEMORY,
    ),
    (
        (
            "RuntimeError: CUDA out of memory occurred when warming up sampler with 1024 dummy "
            "requests. Please try lowering `max_num_seqs` or `gpu_memory_utilization`"
        ),
        FailureKind.OOM_LOAD,
    ),
    (
        "max_num_batched_tokens (4) must be greater than or equal to max_num_seqs (8).",
        FailureKind.BAD_FLAG,
    ),
    (
        (
            "  Value error, num_speculative_tokens must be provided with speculative model unless "
            "the draft model config contains an n_predict parameter. [type=value_error]"
        ),
        FailureKind.BAD_FLAG,
    ),
    ("num_speculative_tokens:3 must be divisible by n_predict=2", FailureKind.BAD_FLAG),
    ("Expected num_speculative_tokens to be greater than zero (0).", FailureKind.BAD_FLAG),
    (
        (
            "ValueError: max_num_scheduled_tokens is set to -8 based on the speculative decoding "
            "settings, which does not allow any tokens to be scheduled."
        ),
        FailureKind.BAD_FLAG,
    ),
    (
        (
            "ValueError: VllmConfig does not have enough slots to schedule a token and support the "
            "speculative decoding settings."
        ),
        FailureKind.BAD_FLAG,
    ),
    ("AssertionError: expected size 7==9, stride 1==1", FailureKind.INTERRUPTED),
    ("api_server.py: error: unrecognized arguments: --swap-space", FailureKind.BAD_FLAG),
    (
        "api_server.py: error: argument --performance-mode: invalid choice: 'fast'",
        FailureKind.BAD_FLAG,
    ),
    ("ValueError: Unknown speculative decoding method: mlp_speculator", FailureKind.BAD_FLAG),
    (
        (
            "ValueError: --per-request-spec-decode-metrics requires speculative decoding to be "
            "(via --speculative-config)."
        ),
        FailureKind.BAD_FLAG,
    ),
    ("ValueError: Batch-size ranges must be non-overlapping and sorted.", FailureKind.BAD_FLAG),
    ("ValueError: The first batch-size range must start at 1, got 2.", FailureKind.BAD_FLAG),
    (
        "ValueError: num_speculative_tokens_per_batch_size must not be empty.",
        FailureKind.BAD_FLAG,
    ),
    (
        (
            "TimeoutError: Timed out waiting for engine core processes to start. This is often "
            "caused by slow weight loading (configured by VLLM_ENGINE_READY_TIMEOUT_S)"
        ),
        FailureKind.TIMEOUT,
    ),
    (
        "RuntimeError: Did not receive response from front-end process within 5 minutes",
        FailureKind.INTERRUPTED,
    ),
    ("AssertionError: Synthetic acceptance not supported with CPU sampling", FailureKind.BAD_FLAG),
    ("importlib.metadata.PackageNotFoundError: No package metadata for vllm", FailureKind.BAD_FLAG),
    ("PackageNotFoundError: vllm", FailureKind.BAD_FLAG),
    ("/opt/bin/python: No module named vllm", FailureKind.BAD_FLAG),
    ("RuntimeError: operator torchvision::nms does not exist", FailureKind.CRASH),
    ('  File "vllm/v1/spec_decode/suffix_decoding.py", line 43, in __init__', FailureKind.BAD_FLAG),
    ('  File "vllm/v1/spec_decode/medusa.py", line 47, in __init__', FailureKind.BAD_FLAG),
    (
        (
            "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or "
            "'namespace/repo_name': '/no/such/model'. Use `repo_type` argument if needed."
        ),
        FailureKind.BAD_FLAG,
    ),
    (
        (
            "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached "
            " folder for the specified revision on the local disk"
        ),
        FailureKind.BAD_FLAG,
    ),
    (
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for SchedulerConfig",
        FailureKind.BAD_FLAG,
    ),
    (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        FailureKind.OOM_LOAD,
    ),
    ("RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried", FailureKind.OOM_LOAD),
    ("OSError: [Errno 98] Address already in use", FailureKind.INTERRUPTED),
]


@pytest.mark.parametrize(("text", "kind"), START_TEXTS, ids=[text[:40] for text, _ in START_TEXTS])
def test_the_text_decides_the_kind(text, kind):
    """Each text of vLLM has its kind, whatever stands before and after it."""
    log = f"INFO loading\nTraceback (most recent call last):\n{PREFIX}{text}\n{TAIL}"

    failure = classify_failure(exit_code=1, log_tail=log, phase="start", timed_out=False)

    assert kind == failure.kind
    assert failure.evidence
    assert failure.evidence in text
    assert 1 == failure.exit_code


def test_the_generic_tail_is_not_a_cause():
    """The sentence that follows every failed start does not become its evidence."""
    log = f"{PREFIX}KeyError: 'layers.7.mlp'\n{TAIL}"

    failure = classify_failure(exit_code=1, log_tail=log, phase="start", timed_out=False)

    assert (FailureKind.CRASH, "KeyError: 'layers.7.mlp'") == (failure.kind, failure.evidence)


def test_an_exact_text_wins_over_the_validation_error_around_it():
    """Pydantic's headline comes first in the log; the constraint below it is the cause."""
    log = (
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for SchedulerConfig\n"
        "  Value error, max_num_batched_tokens (4) must be greater than or equal to "
        "max_num_seqs (8). [type=value_error]\n"
    )

    failure = classify_failure(exit_code=1, log_tail=log, phase="start", timed_out=False)

    assert "The token budget is smaller than the number of requests." == failure.sentence


def test_out_of_memory_while_serving_is_another_kind():
    """The same text means a too small reserve when requests are already served."""
    log = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB\n" + SHUTDOWN

    failure = classify_failure(exit_code=0, log_tail=log, phase="serve", timed_out=False)

    assert FailureKind.OOM_SERVE == failure.kind
    assert "The GPU ran out of memory while serving." == failure.sentence


def test_status_zero_without_a_stop_is_a_crash():
    """A killed engine core ends the server with status 0; shutdown lines are no cause."""
    failure = classify_failure(exit_code=0, log_tail=SHUTDOWN, phase="serve", timed_out=False)

    assert FailureKind.CRASH == failure.kind
    assert not failure.evidence
    assert "status 0" in failure.sentence


@pytest.mark.parametrize("code", [-9, 137])
def test_sigkill_alone_does_not_prove_lack_of_memory(code):
    """Anybody may kill a process: without the kernel's word it is a crash."""
    failure = classify_failure(exit_code=code, log_tail="", phase="serve", timed_out=False)

    assert FailureKind.CRASH == failure.kind
    assert "SIGKILL" in failure.sentence


@pytest.mark.parametrize(
    ("phase", "kind"), [("start", FailureKind.OOM_LOAD), ("serve", FailureKind.OOM_SERVE)]
)
def test_sigkill_with_the_kernels_word_is_out_of_memory(phase, kind):
    """The line of the kernel's OOM killer makes SIGKILL a lack of host memory."""
    log = "kernel: Out of memory: Killed process 41 (VLLM::EngineCore) total-vm:9000000kB"

    failure = classify_failure(exit_code=-9, log_tail=log, phase=phase, timed_out=False)

    assert kind == failure.kind


@pytest.mark.parametrize(
    ("code", "word"), [(-11, "segmentation"), (134, "SIGABRT"), (3, "status 3"), (None, "without")]
)
def test_a_silent_end_is_told_by_its_status(code, word):
    """With nothing in the log the sentence says how the process ended."""
    failure = classify_failure(exit_code=code, log_tail="", phase="start", timed_out=False)

    assert FailureKind.CRASH == failure.kind
    assert word in failure.sentence


def test_a_deadline_without_a_cause_is_a_timeout():
    """An engine that was ended because it took too long timed out."""
    failure = classify_failure(exit_code=-15, log_tail="INFO ok", phase="start", timed_out=True)

    assert FailureKind.TIMEOUT == failure.kind


def test_a_cause_wins_over_the_deadline():
    """An engine that ran out of memory and then hung ran out of memory."""
    log = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"

    failure = classify_failure(exit_code=-15, log_tail=log, phase="start", timed_out=True)

    assert FailureKind.OOM_LOAD == failure.kind


def test_a_request_that_quotes_an_error_is_not_a_cause():
    """Logged requests are user text: they neither decide nor appear as evidence."""
    log = (
        "INFO Received request cmpl-1: prompt: 'fix: CUDA out of memory', params: "
        "SamplingParams(n=1)\nERROR Dumping input data: CUDA out of memory\n"
    )

    failure = classify_failure(exit_code=1, log_tail=log, phase="serve", timed_out=False)

    assert (FailureKind.CRASH, "") == (failure.kind, failure.evidence)


def test_an_exception_while_serving_is_named_without_its_message():
    """The message of an unknown exception may quote a request, so only its name is kept."""
    log = "pkg.errors.OddError: cannot parse 'the secret of a user'"

    failure = classify_failure(exit_code=1, log_tail=log, phase="serve", timed_out=False)

    assert "pkg.errors.OddError" == failure.evidence


def test_a_warning_that_names_an_exception_is_harmless():
    """At every start vLLM warns of the file limit and names an OSError."""
    log = "WARNING 11-23 [system_utils.py:255] limits can cause OSError: [Errno 24] Too many files"

    failure = classify_failure(exit_code=1, log_tail=log, phase="start", timed_out=False)

    assert not failure.evidence


def test_evidence_is_short():
    """A line of any length is cut."""
    log = "error: unrecognized arguments: " + "--x " * 500

    failure = classify_failure(exit_code=2, log_tail=log, phase="start", timed_out=False)

    assert EVIDENCE_CHARS == len(failure.evidence)
