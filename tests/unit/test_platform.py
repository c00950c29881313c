import re

import pytest
from pydantic import ValidationError

from profiles.errors import ConfigError
from profiles.knobs import Drafter
from profiles.platform import (
    Platform,
    cpu_model,
    difference,
    distance,
    drafter_identity,
    fingerprint,
    local_revision,
    revision_of,
)


def platform(**fields):
    """One H200 with a model, and what the test is about."""
    base = {
        "gpu": "NVIDIA H200",
        "gpu_count": 1,
        "gpu_memory_mib": 143771,
        "driver": "580.95.05",
        "vllm": "0.32.0",
        "model": "org/target",
        "model_revision": "abc",
        "drafters": {"dflash": "dflash org/drafter@def"},
        "max_model_len": 8192,
    }
    return fingerprint(**(base | fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"gpu": "NVIDIA H100"},
        {"gpu_count": 2},
        {"gpu_memory_mib": 81559},
        {"driver": "590.1"},
        {"vllm": "0.33.0"},
        {"model": "org/other"},
        {"model_revision": "abe"},
        {"dtype": "bfloat16"},
        {"drafters": {}},
        {"drafters": {"dflash": "dflash org/drafter@eee"}},
        {"max_model_len": 4096},
        {"gpu": None},
    ],
)
def test_everything_that_moves_the_rate_is_in_the_digest(fields):
    """A finding does not pass for one of another platform."""
    assert platform().digest != platform(**fields).digest


def test_the_digest_is_short_hex_and_ignores_the_order_of_drafters():
    """Equal platforms have equal names, whatever order their file was in."""
    one = platform(drafters={"a": "x", "b": "y"})
    other = platform(drafters={"b": "y", "a": "x"})

    assert one.digest == other.digest
    assert re.fullmatch("[0-9a-f]{12}", one.digest)


def test_a_gpu_hides_the_cpu():
    """Where a GPU does the work, the host's CPU does not split what was learned."""
    assert platform(cpu="Xeon", cpu_cores=8) == platform(cpu="EPYC", cpu_cores=64)


def test_without_a_gpu_the_cpu_counts():
    """On a CPU-only machine model and cores decide, and GPU fields say nothing."""
    without = platform(gpu=None, cpu="Xeon", cpu_cores=8)

    assert (None, 0, None, None) == (
        without.gpu,
        without.gpu_count,
        without.gpu_memory_mib,
        without.driver,
    )
    assert "8-core Xeon, target (vLLM 0.32.0)" == without.label()
    assert without.digest != platform(gpu=None, cpu="Xeon", cpu_cores=4).digest


def test_several_gpus_are_in_the_name():
    """People see how many GPUs it was."""
    assert "2x NVIDIA H200" == platform(gpu_count=2).hardware
    assert "Xeon" == platform(gpu=None, cpu="Xeon").hardware


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"gpu": "H200", "gpu_count": 1, "cpu": "Xeon"},
        {"gpu": "H200"},
        {"cpu": "Xeon", "gpu_count": 1},
    ],
)
def test_a_platform_has_either_gpus_or_a_cpu(fields):
    """Half a machine is refused."""
    with pytest.raises(ValidationError):
        Platform(vllm="0.32.0", model="m", **fields)


def test_the_nearest_platform_comes_first():
    """Warm starts come from the same platform, then the same model, then the same GPU."""
    here = platform()
    other_gpu, other_model = platform(gpu="NVIDIA H100"), platform(model="org/other")
    newer = platform(vllm="0.33.0")
    stranger = platform(gpu="NVIDIA H100", model="org/other")

    ordered = sorted(
        [stranger, other_model, other_gpu, newer, here], key=lambda there: distance(here, there)
    )
    assert [here, newer, other_gpu, other_model, stranger] == ordered
    assert [0, 1, 2, 3, 4] == [distance(here, there) for there in ordered]


def test_what_differs_is_named():
    """Every field that moves the digest, in words; nothing for the same platform."""
    there = platform(vllm="0.31.0", model_revision=None)

    assert "" == difference(platform(), platform())
    assert "vLLM 0.32.0 instead of 0.31.0, model revision abc instead of none" == difference(
        platform(), there
    )


def test_a_drafter_is_named_by_method_model_revision_and_options():
    """Another option is another drafter: it drafts other tokens."""
    dflash = Drafter(name="d", method="dflash", model="org/drafter")
    ngram = Drafter(name="n", method="ngram", options={"prompt_lookup_max": 4})

    assert "dflash org/drafter@abc" == drafter_identity(dflash, "abc")
    assert "dflash org/drafter@unknown" == drafter_identity(dflash, None)
    assert 'ngram {"prompt_lookup_max":4}' == drafter_identity(ngram, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "processor : 0\nmodel name\t: Intel(R)  Xeon(R) CPU\n\nmodel name: other\n",
            "Intel(R) Xeon(R) CPU",
        ),
        ("processor : 0\nCPU implementer : 0x41\nCPU part : 0xd40\n", "0x41 0xd40"),
        ("processor : 0\n", "unknown CPU"),
    ],
)
def test_the_cpu_model_is_what_linux_says(tmp_path, text, expected):
    """x86 gives a name, arm64 gives numbers, and anything else is said to be unknown."""
    (tmp_path / "cpuinfo").write_text(text)

    assert expected == cpu_model(tmp_path / "cpuinfo")


def test_the_cpu_of_this_machine_has_a_name():
    """The real /proc/cpuinfo is read, and a missing one is no error."""
    assert cpu_model()
    assert "unknown CPU" == cpu_model(cpu_model.__defaults__[0] / "missing")


def model_folder(path, *, config="{}", weights=b"abc"):
    """A model folder with one weight file."""
    path.mkdir()
    (path / "config.json").write_text(config)
    (path / "model.safetensors").write_bytes(weights)
    return path


def test_a_retrained_model_of_the_same_size_has_another_revision(tmp_path):
    """Sizes stay when a drafter is trained again, so its bytes are looked at too."""
    big = bytes(200_000)
    revisions = {
        local_revision(model_folder(tmp_path / "a", weights=big)),
        local_revision(model_folder(tmp_path / "b", weights=b"x" + big[1:])),
        local_revision(model_folder(tmp_path / "c", weights=big[1:] + b"x")),
        local_revision(model_folder(tmp_path / "d", weights=big + b"x")),
        local_revision(model_folder(tmp_path / "e", weights=big, config='{"a":1}')),
    }

    assert 5 == len(revisions)


def test_a_copied_model_has_the_same_revision(tmp_path):
    """Where a model lies does not matter."""
    one, other = model_folder(tmp_path / "a"), model_folder(tmp_path / "b")

    assert local_revision(one) == revision_of(str(other), "ignored")
    assert "main" == revision_of("org/not-a-folder", "main")


def test_a_path_without_a_model_is_a_sentence(tmp_path):
    """A wrong path names itself and says what should be there."""
    with pytest.raises(ConfigError) as caught:
        local_revision(tmp_path / "nowhere")

    assert str(tmp_path / "nowhere") in caught.value.message
    assert "config.json" in caught.value.hint
