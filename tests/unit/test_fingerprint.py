"""The platform of this machine under a configuration."""

import json
from types import SimpleNamespace

from profiles.knobs import Drafter
from service import fingerprint
from service.fingerprint import platform_of
from tuner.config import Config, EngineConfig

CARD = SimpleNamespace(uuid="GPU-1", name="NVIDIA H200", memory_mib=143771, driver="580.1")


def config(**engine):
    return Config(
        engine=EngineConfig(**({"model": "org/m"} | engine)),
        drafters=(Drafter(name="d", method="dflash", model="org/d", revision="abc"),),
    )


async def test_a_machine_without_a_gpu_is_named_by_its_cpu(monkeypatch):
    """No card: the processor counts, and everything of a card is None."""
    monkeypatch.setattr(fingerprint, "nvml_gpus", list)
    found = await platform_of(config(), "0.32.0")

    assert (None, 0, None) == (found.gpu, found.gpu_count, found.gpu_memory_mib)
    assert found.cpu
    assert {"d": "dflash org/d@abc"} == found.drafters


async def test_what_the_arguments_say_counts(monkeypatch):
    """Length, type and revision come from the arguments that vLLM gets; two cards are counted."""
    monkeypatch.setattr(fingerprint, "nvml_gpus", lambda: [CARD, CARD])
    args = ("--max-model-len=4096", "--dtype", "bfloat16", "--revision", "main")
    found = await platform_of(config(args=args), "0.32.0")

    assert (4096, "bfloat16", "main") == (found.max_model_len, found.dtype, found.model_revision)
    assert ("NVIDIA H200", 2, "580.1", None) == (
        found.gpu,
        found.gpu_count,
        found.driver,
        found.cpu,
    )


async def test_two_lengths_are_two_platforms(monkeypatch):
    """`4k` and `8k` were both taken for no length, so their profiles were one another's."""
    monkeypatch.setattr(fingerprint, "nvml_gpus", list)
    short = await platform_of(config(args=("--max_model_len", "4k")), "0.32.0")
    long = await platform_of(config(args=("--max-model-len", "8k")), "0.32.0")

    assert (4000, 8000) == (short.max_model_len, long.max_model_len)
    assert short.digest != long.digest


async def test_a_length_that_is_no_number_is_unknown(monkeypatch):
    """`auto` is good for vLLM; a fingerprint does not guess."""
    monkeypatch.setattr(fingerprint, "nvml_gpus", list)
    found = await platform_of(config(args=("--max-model-len", "auto")), "0.32.0")

    assert found.max_model_len is None


async def test_another_local_model_is_another_platform(monkeypatch, tmp_path):
    """A retrained model at the same path does not inherit findings."""
    monkeypatch.setattr(fingerprint, "nvml_gpus", list)
    (tmp_path / "config.json").write_text(json.dumps({"layers": 1}))
    before = await platform_of(config(model=str(tmp_path)), "0.32.0")
    (tmp_path / "config.json").write_text(json.dumps({"layers": 2}))
    after = await platform_of(config(model=str(tmp_path)), "0.32.0")

    assert before.digest != after.digest
    assert before.model_revision.startswith("local-")


async def test_only_the_cards_of_the_engine_count(monkeypatch):
    """CUDA_VISIBLE_DEVICES in engine.env makes another platform of the same machine."""
    small = SimpleNamespace(uuid="GPU-2", name="NVIDIA L4", memory_mib=23034, driver="580.1")
    monkeypatch.setattr(fingerprint, "nvml_gpus", lambda: [CARD, small])
    both = await platform_of(config(), "0.32.0")
    second = await platform_of(config(env={"CUDA_VISIBLE_DEVICES": "1"}), "0.32.0")

    assert (2, "NVIDIA H200") == (both.gpu_count, both.gpu)
    assert (1, "NVIDIA L4") == (second.gpu_count, second.gpu)
