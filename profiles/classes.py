"""P: the shape of a request and the workload class it belongs to."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from profiles.errors import InvalidKnobsError

# DynamoLLM (arXiv 2408.00741) bins input at 256/1024 and output at 100/350 tokens
LONG_PROMPT_TOKENS = 1024
LONG_OUTPUT_TOKENS = 350
SHORT_OUTPUT_TOKENS = 24
BYTES_PER_TOKEN = 4  # for text whose token count nobody reported

# upper bound of the mean concurrency of each load bin, requests
LOAD_BOUNDS: tuple[tuple[str, float], ...] = (("single", 1.5), ("low", 6.0), ("mid", 24.0))
TOP_LOAD = "high"
LOADS = (*(name for name, _ in LOAD_BOUNDS), TOP_LOAD)
LOAD_HYSTERESIS = 0.2  # a load must pass a border by this share to change its bin


class Sampling(StrEnum):
    """How the next token is chosen; acceptance of drafts falls with temperature."""

    GREEDY = "greedy"
    SAMPLED = "sampled"
    STRUCTURED = "structured"  # grammar, JSON schema or tools: drafts may break the grammar


class Lengths(StrEnum):
    """Which of prompt and answer dominates a request."""

    SHORT_OUT = "short-out"
    BALANCED = "balanced"
    LONG_OUT = "long-out"
    LONG_IN = "long-in"


@dataclass(frozen=True, kw_only=True)
class RequestShape:
    """What the gateway sees of a request without reading its text."""

    endpoint: str  # "completions", "chat/completions", ...
    prompt_tokens: int  # estimated from bytes until the engine has counted
    max_tokens: int | None  # None: the engine's limit
    temperature: float  # vLLM's default, 1.0, when absent
    structured: bool  # response_format, tools, guided decoding
    stream: bool
    # min_p or logit_bias: vLLM answers 400 to them while speculation is on (sampling_params.py)
    refuses_speculation: bool = False


@dataclass(frozen=True, kw_only=True, order=True)
class RequestClass:
    """The class of one request, by its shape alone."""

    sampling: Sampling
    lengths: Lengths

    def __str__(self) -> str:
        return f"{self.sampling}.{self.lengths}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of `str`; raises ValueError on anything else."""
        sampling, _, lengths = text.partition(".")
        return cls(sampling=Sampling(sampling), lengths=Lengths(lengths))


# a class as one hexadecimal digit, for request ids; only ever appended to
CODES: tuple[RequestClass, ...] = tuple(
    RequestClass(sampling=sampling, lengths=lengths) for sampling in Sampling for lengths in Lengths
)


def code_name(code: int) -> str:
    """The request class of a code; requests past the gateway have none."""
    return str(CODES[code]) if code < len(CODES) else "unstamped"


@dataclass(frozen=True, kw_only=True, order=True)
class WorkloadClass:
    """What a profile is tuned for: a request class at a load."""

    request: RequestClass
    load: str  # one of LOADS

    def __str__(self) -> str:
        return f"{self.request}.{self.load}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of `str`; raises ValueError on anything else."""
        head, _, load = text.rpartition(".")
        if load not in LOADS:
            raise ValueError(f"{load!r} is not a load; known: {', '.join(LOADS)}")
        return cls(request=RequestClass.parse(head), load=load)


def request_class(shape: RequestShape) -> RequestClass:
    """The class of a request from its shape."""
    if shape.structured:
        sampling = Sampling.STRUCTURED
    elif shape.temperature <= 0:
        sampling = Sampling.GREEDY
    else:
        sampling = Sampling.SAMPLED
    if shape.prompt_tokens >= LONG_PROMPT_TOKENS:
        lengths = Lengths.LONG_IN
    elif shape.max_tokens is not None and shape.max_tokens <= SHORT_OUTPUT_TOKENS:
        lengths = Lengths.SHORT_OUT
    elif shape.max_tokens is None or shape.max_tokens >= LONG_OUTPUT_TOKENS:
        lengths = Lengths.LONG_OUT
    else:
        lengths = Lengths.BALANCED
    return RequestClass(sampling=sampling, lengths=lengths)


def load_bin(concurrency: float, previous: str | None = None) -> str:
    """The load bin of a mean concurrency; `previous` keeps its bin within the hysteresis."""
    plain = next((name for name, bound in LOAD_BOUNDS if concurrency <= bound), TOP_LOAD)
    if previous is None or previous == plain or previous not in LOADS:
        return plain
    rank = LOADS.index(previous)
    if LOADS.index(plain) > rank:  # rising: must pass the upper border of `previous`
        upper = LOAD_BOUNDS[rank][1]
        return previous if concurrency <= upper * (1 + LOAD_HYSTERESIS) else plain
    lower = LOAD_BOUNDS[rank - 1][1]
    return previous if concurrency > lower * (1 - LOAD_HYSTERESIS) else plain


def check(workload: str) -> None:
    """Refuse what is no name of a workload class.

    Raises:
        InvalidKnobsError: with the names there are.
    """
    try:
        WorkloadClass.parse(workload)
    except ValueError as error:
        raise InvalidKnobsError(
            f"{workload!r} is not a workload class.",
            hint=f"A class is SAMPLING.LENGTHS.LOAD: {' or '.join(Sampling)}; "
            f"{' or '.join(Lengths)}; {' or '.join(LOADS)}.",
        ) from error
