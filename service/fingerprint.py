"""The fingerprint of this machine under this configuration."""

import asyncio
import os

from profiles.platform import Platform, cpu_model, drafter_identity, fingerprint, revision_of
from tuner.command_line import count_of, value_of
from tuner.config import Config
from tuner.devices import visible
from tuner.nvml import gpus as nvml_gpus


async def platform_of(config: Config, vllm: str) -> Platform:
    """The platform: what of hardware, engine, model and drafters moves tok/s."""
    engine = config.engine
    cards = await asyncio.to_thread(nvml_gpus)
    seen = visible({**os.environ, **engine.env}, [card.uuid for card in cards])
    gpus = [card for card in cards if seen is None or card.uuid in seen]
    drafters = {
        drafter.name: drafter_identity(
            drafter, revision_of(drafter.model, drafter.revision) if drafter.model else None
        )
        for drafter in config.drafters
    }
    length = value_of(engine.args, "--max-model-len")
    return fingerprint(
        vllm=vllm,
        model=engine.model,
        model_revision=revision_of(engine.model, value_of(engine.args, "--revision")),
        drafters=drafters,
        dtype=value_of(engine.args, "--dtype") or "auto",
        max_model_len=count_of(length) if length is not None else None,
        gpu=gpus[0].name if gpus else None,
        gpu_count=len(gpus),
        gpu_memory_mib=gpus[0].memory_mib if gpus else None,
        driver=gpus[0].driver if gpus else None,
        cpu=cpu_model(),
        cpu_cores=os.cpu_count(),
    )
