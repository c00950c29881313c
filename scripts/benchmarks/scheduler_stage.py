"""A real vLLM scheduler without an engine: fed with requests and with made-up model output."""

import os
import sys
from pathlib import Path
from typing import Any

SITE = Path(__file__).resolve().parents[2] / "service" / "engine_site"
sys.path.insert(0, str(SITE))

BLOCK = 16


def scheduler(
    model: Path, *, asynchronous: bool, longest: int, seqs: int, live: bool, folder: Path
) -> Any:
    """A scheduler for ngram drafts (dflash where asynchronous) with a table, ours or vLLM's own."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    import torch
    from tuner_scheduler import TunedScheduler
    from vllm.config import (
        CacheConfig,
        ModelConfig,
        ParallelConfig,
        SchedulerConfig,
        SpeculativeConfig,
        VllmConfig,
    )  # fmt: skip
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    model_config = ModelConfig(model=str(model), dtype="float32", max_model_len=1024)
    config = VllmConfig(
        scheduler_config=SchedulerConfig(
            max_num_seqs=seqs,
            max_num_batched_tokens=8192,
            max_model_len=1024,
            is_encoder_decoder=False,
        ),
        model_config=model_config,
        cache_config=CacheConfig(block_size=BLOCK, enable_prefix_caching=False),
        speculative_config=SpeculativeConfig(
            method="ngram",
            num_speculative_tokens=longest,
            prompt_lookup_max=4,
            prompt_lookup_min=2,
            target_model_config=model_config,
            target_parallel_config=ParallelConfig(),
            num_speculative_tokens_per_batch_size=[[1, seqs, longest]],
        ),
    )
    config.cache_config.num_gpu_blocks = 20000
    config.scheduler_config.async_scheduling = asynchronous
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
    arguments = {
        "vllm_config": config,
        "kv_cache_config": KVCacheConfig(
            num_blocks=20000,
            kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
        ),
        "structured_output_manager": StructuredOutputManager(config),
        "block_size": BLOCK,
        "log_stats": True,
    }
    if live:
        os.environ["TUNER_CONTROL"] = str(folder / "control")
        os.environ["TUNER_TELEMETRY"] = str(folder / "telemetry")
        return TunedScheduler(**arguments)
    return (AsyncScheduler if asynchronous else Scheduler)(**arguments)


def add(
    stage: Any, count: int, *, prefix: str = "r", stamp: str = "~t3", tokens: int = 900
) -> None:
    """Add requests of 16 prompt tokens."""
    from vllm.sampling_params import SamplingParams
    from vllm.v1.request import Request

    for number in range(count):
        stage.add_request(
            Request(
                request_id=f"cmpl-{prefix}{number}{stamp}-0-abcdef01",
                prompt_token_ids=[1] * 16,
                sampling_params=SamplingParams(max_tokens=tokens, ignore_eos=True),
                pooling_params=None,
            )
        )


def step(stage: Any, accepted: int) -> tuple[Any, Any]:
    """One step of an engine whose model accepts so many drafts of every request."""
    from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput

    output = stage.schedule()
    ids = list(output.num_scheduled_tokens)
    drafts = output.scheduled_spec_decode_tokens
    sampled = [[7] * (1 + min(accepted, len(drafts.get(one, ())))) for one in ids]
    made = ModelRunnerOutput(
        req_ids=ids,
        req_id_to_index={one: number for number, one in enumerate(ids)},
        sampled_token_ids=sampled,
        logprobs=None,
        prompt_logprobs_dict={},
        pooler_output=[],
    )
    result = stage.update_from_output(output, made)
    k = output.num_spec_tokens_to_schedule
    stage.update_draft_token_ids(DraftTokenIds(ids, [[7] * k for _ in ids]))
    return output, result
