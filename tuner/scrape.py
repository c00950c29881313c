"""P: the counters of a vLLM engine, read from its Prometheus text."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from profiles.measurement import Acceptance

GENERATION = "vllm:generation_tokens_total"
PROMPT = "vllm:prompt_tokens_total"
RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"
PREEMPTIONS = "vllm:num_preemptions_total"
KV_USAGE = "vllm:kv_cache_usage_perc"
ITERATIONS = "vllm:iteration_tokens_total_count"  # steps that gave tokens
STEP_SUM = "vllm:inter_token_latency_seconds_sum"
STEP_COUNT = "vllm:inter_token_latency_seconds_count"
DRAFTS = "vllm:spec_decode_num_drafts_total"
DRAFT_TOKENS = "vllm:spec_decode_num_draft_tokens_total"
ACCEPTED = "vllm:spec_decode_num_accepted_tokens_total"
ACCEPTED_AT = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
CACHE_QUERIES = "vllm:prefix_cache_queries_total"  # prompt tokens looked up
CACHE_HITS = "vllm:prefix_cache_hits_total"
STARTED = "process_start_time_seconds"

_WANTED = frozenset(
    {
        GENERATION, PROMPT, RUNNING, WAITING, PREEMPTIONS, KV_USAGE,
        ITERATIONS, STEP_SUM, STEP_COUNT, DRAFTS, DRAFT_TOKENS, ACCEPTED, ACCEPTED_AT,
        CACHE_QUERIES, CACHE_HITS, STARTED,
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EngineCounters:
    """Totals since the engine started, summed over its data-parallel ranks."""

    generation_tokens: int
    prompt_tokens: int
    running: int
    waiting: int
    drafts: int | None  # None: the engine runs without speculation
    draft_tokens: int | None
    accepted_tokens: int | None
    accepted_per_position: tuple[int, ...]
    # vLLM's inter-token latency: under speculation one sample per request and step, not per token
    step_seconds_sum: float | None
    step_count: int | None
    preemptions: int
    kv_usage: float | None  # 0-1, the fullest rank
    cache_queries: int = 0  # prompt tokens that were looked up in the prefix cache
    cache_hits: int = 0
    iterations: int | None = None
    # who the engine is: what differs between two readings is another engine
    started_at: float | None = None  # of the server process, seconds since the epoch
    models: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Window:
    """What an engine did between two readings of its counters."""

    generation_tokens: int
    prompt_tokens: int
    acceptance: Acceptance | None  # None without speculation
    step_seconds: float | None
    steps: int | None
    preemptions: int
    cache_hits: float | None = None  # share of prompt tokens that the prefix cache had

    @property
    def step_mean_s(self) -> float | None:
        """Mean time of a decoding step, None when there was none."""
        if self.step_seconds is None or not self.steps:
            return None
        return self.step_seconds / self.steps


def parse_counters(text: str) -> EngineCounters:
    """The counters in the answer to `GET /metrics`.

    Raises:
        ValueError: the text is not Prometheus text of a vLLM engine, or a counter is no number.
    """
    series: dict[str, list[Sample]] = {}
    for sample in _samples(text.splitlines()):
        series.setdefault(sample.name, []).append(sample)
    if GENERATION not in series:
        raise ValueError(f"the text has no {GENERATION}: this is not a vLLM engine")

    def total(name: str) -> float | None:
        samples = series.get(name)
        return None if samples is None else sum(sample.value for sample in samples)

    def count(name: str) -> int | None:
        value = total(name)
        return None if value is None else round(value)

    return EngineCounters(
        generation_tokens=count(GENERATION) or 0,
        prompt_tokens=count(PROMPT) or 0,
        running=count(RUNNING) or 0,
        waiting=count(WAITING) or 0,
        drafts=count(DRAFTS),
        draft_tokens=count(DRAFT_TOKENS),
        accepted_tokens=count(ACCEPTED),
        accepted_per_position=_positions(series.get(ACCEPTED_AT, ())),
        step_seconds_sum=total(STEP_SUM),
        step_count=count(STEP_COUNT),
        preemptions=count(PREEMPTIONS) or 0,
        kv_usage=max((sample.value for sample in series.get(KV_USAGE, ())), default=None),
        cache_queries=count(CACHE_QUERIES) or 0,
        cache_hits=count(CACHE_HITS) or 0,
        iterations=count(ITERATIONS),
        started_at=max((sample.value for sample in series.get(STARTED, ())), default=None),
        models=frozenset(
            sample.labels["model_name"]
            for sample in series[GENERATION]
            if "model_name" in sample.labels
        ),
    )


def difference(before: EngineCounters, after: EngineCounters) -> Window | None:
    """What happened between two readings; None when a counter fell, so the engine is another."""
    pairs = [
        (before.generation_tokens, after.generation_tokens),
        (before.prompt_tokens, after.prompt_tokens),
        (before.preemptions, after.preemptions),
        (before.drafts or 0, after.drafts or 0),
        (before.draft_tokens or 0, after.draft_tokens or 0),
        (before.accepted_tokens or 0, after.accepted_tokens or 0),
        (before.step_count or 0, after.step_count or 0),
        (before.cache_queries, after.cache_queries),
        (before.cache_hits, after.cache_hits),
    ]
    if any(new < old for old, new in pairs):
        return None
    if (before.drafts is None) != (after.drafts is None):
        return None
    return Window(
        generation_tokens=after.generation_tokens - before.generation_tokens,
        prompt_tokens=after.prompt_tokens - before.prompt_tokens,
        acceptance=_acceptance(before, after),
        step_seconds=(
            None
            if before.step_seconds_sum is None or after.step_seconds_sum is None
            else after.step_seconds_sum - before.step_seconds_sum
        ),
        steps=(
            None
            if before.step_count is None or after.step_count is None
            else after.step_count - before.step_count
        ),
        preemptions=after.preemptions - before.preemptions,
        cache_hits=_cache_hits(before, after),
    )


def _cache_hits(before: EngineCounters, after: EngineCounters) -> float | None:
    queries = after.cache_queries - before.cache_queries
    return min(1.0, (after.cache_hits - before.cache_hits) / queries) if queries else None


def _acceptance(before: EngineCounters, after: EngineCounters) -> Acceptance | None:
    if after.drafts is None:
        return None
    earlier = before.accepted_per_position + (0,) * len(after.accepted_per_position)
    return Acceptance(
        drafts=after.drafts - (before.drafts or 0),
        draft_tokens=(after.draft_tokens or 0) - (before.draft_tokens or 0),
        accepted_tokens=(after.accepted_tokens or 0) - (before.accepted_tokens or 0),
        accepted_per_position=tuple(
            new - old for new, old in zip(after.accepted_per_position, earlier, strict=False)
        ),
    )


def _samples(lines: Iterable[str]) -> Iterable[Sample]:
    """Samples of the wanted series only: an engine exposes hundreds of histogram buckets."""
    wanted = (line for line in lines if line.partition("{")[0].partition(" ")[0] in _WANTED)
    for family in text_string_to_metric_families("\n".join(wanted) + "\n"):
        for sample in family.samples:
            if math.isfinite(sample.value):
                yield sample
            elif sample.name != KV_USAGE:  # a share is only shown; a sum without it would be wrong
                raise ValueError(f"{sample.name} is {sample.value}: this is no count")


def _positions(samples: Iterable[Sample]) -> tuple[int, ...]:
    """Accepted tokens by draft position, summed over ranks; the label is a number as text."""
    totals: dict[int, float] = {}
    for sample in samples:
        position = int(sample.labels.get("position", ""))
        totals[position] = totals.get(position, 0.0) + sample.value
    return tuple(
        round(totals.get(position, 0.0)) for position in range(max(totals, default=-1) + 1)
    )
