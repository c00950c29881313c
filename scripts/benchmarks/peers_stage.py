"""What the parts of the comparison share: the pair, its texts, and one measured engine start."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine_stage import CACHE, DRAFTERS, PAIR, ROOT, engine, machine, requests
from peers_candidates import BROKEN, CONCURRENCY, ENGINE_ENV

from profiles.knobs import Knobs
from service.engine import EngineStartError
from tuner.measure import Measured, MeasurePlan, measure

__all__ = [
    "CACHE",
    "CPU_ENV",
    "DRAFTERS",
    "PAIR",
    "PEERS",
    "ROOT",
    "code_texts",
    "machine",
    "measured",
    "requests",
]

PEERS = CACHE / "peers"
DRAFTERS[BROKEN.name] = BROKEN
CPU_ENV = {**ENGINE_ENV, "VLLM_CACHE_ROOT": str(CACHE / "bench" / "vllm-peers")}
WARMUP_S = 4.0


def code_texts() -> list[str]:
    """The prompts that every tool gets which can take prompts."""
    return [str(request.body["prompt"]) for request in requests("code")]


@dataclass(frozen=True, kw_only=True)
class Start:
    """What our replay client saw of one engine start."""

    tok_s: float
    ttft_p95_s: float | None  # median over blocks
    tpot_mean_s: float | None  # likewise
    ready_s: float  # from spawn to a passed canary
    invalid: str | None  # why it should not be compared


class FailedStartError(Exception):
    """The engine did not start, or gave no token."""


async def measured(
    knobs: Knobs, *, block_s: float, blocks: int, lengths: Sequence[int] = ()
) -> Start:
    """A fresh engine start, measured by our replay client.

    Raises:
        FailedStartError: there is nothing to measure; the sentence says why.
    """
    plan = MeasurePlan(
        requests=requests("code"),
        concurrency=CONCURRENCY,
        warmup_s=WARMUP_S,
        block_s=block_s,
        blocks=blocks,
    )
    began = time.monotonic()
    try:
        async with engine(knobs, lengths=lengths, live=knobs.live) as running:
            ready_s = time.monotonic() - began
            found = await measure(plan, socket=Path(running.record.socket), telemetry=None)
    except EngineStartError as error:
        raise FailedStartError(error.failure.sentence) from error
    if not any(block.output_tokens for block in found.blocks):
        raise FailedStartError(found.invalid or "It gave no token.")
    seconds = sum(block.seconds for block in found.blocks)
    return Start(
        tok_s=sum(block.output_tokens for block in found.blocks) / seconds,
        ttft_p95_s=_median(found, "ttft_p95_s"),
        tpot_mean_s=_median(found, "tpot_mean_s"),
        ready_s=ready_s,
        invalid=found.invalid,
    )


def _median(found: Measured, name: str) -> float | None:
    values = [getattr(block, name) for block in found.blocks]
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
