"""What the parts of the comparison share: the pair, its texts, and one measured engine start."""

import time
from collections.abc import Sequence
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


class FailedStartError(Exception):
    """The engine did not start or gave no usable measurement."""


async def measured(
    knobs: Knobs, *, block_s: float, blocks: int, lengths: Sequence[int] = ()
) -> tuple[float, float]:
    """Tokens per second of a fresh engine start by our replay client, and seconds to ready.

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
    if found.invalid is not None:
        raise FailedStartError(found.invalid)
    return rate(found), ready_s


def rate(found: Measured) -> float:
    """Tokens per second over all blocks."""
    seconds = sum(block.seconds for block in found.blocks)
    return sum(block.output_tokens for block in found.blocks) / seconds
