import json

import pytest
from pydantic import ValidationError

from profiles.errors import InvalidKnobsError
from profiles.knobs import Drafter, Knobs, render, required_flags, violations

DFLASH = Drafter(name="dflash", method="dflash", model="/models/drafter", max_draft_length=15)
NGRAM = Drafter(name="ngram", method="ngram", options={"prompt_lookup_max": 4})
DRAFTERS = {"dflash": DFLASH, "ngram": NGRAM}


def test_off_renders_nothing():
    """The default knobs leave the command line and the environment as they are."""
    rendered = render(Knobs(), DRAFTERS)

    assert () == rendered.args
    assert {} == rendered.env


def test_speculation_is_one_json_value():
    """A drafter becomes one --speculative-config argument that vLLM can parse."""
    rendered = render(Knobs(drafter="dflash", draft_length=13), DRAFTERS)

    flag, value = rendered.args
    assert "--speculative-config" == flag
    assert {
        "method": "dflash",
        "model": "/models/drafter",
        "num_speculative_tokens": 13,
    } == json.loads(value)


def test_revision_and_options_reach_the_speculative_config():
    """A drafter's revision and its own options are part of what vLLM gets."""
    drafter = DFLASH.model_copy(
        update={"revision": "abc", "options": {"attention_backend": "flash_attn"}}
    )

    rendered = render(Knobs(drafter="dflash", draft_length=2), {"dflash": drafter})

    config = json.loads(rendered.args[1])
    assert "abc" == config["revision"]
    assert "flash_attn" == config["attention_backend"]


def test_plain_knobs_render_to_their_flags_and_the_cpu_cache_to_its_variable():
    """Every knob reaches vLLM by the way that vLLM has for it."""
    knobs = Knobs(
        max_num_seqs=64,
        max_num_batched_tokens=8192,
        gpu_memory_utilization=0.9,
        cpu_kv_gib=2,
        performance_mode="throughput",
    )

    rendered = render(knobs, DRAFTERS)

    expected = "--max-num-seqs 64 --max-num-batched-tokens 8192 --gpu-memory-utilization 0.9"
    assert f"{expected} --performance-mode throughput" == " ".join(rendered.args)
    assert {"VLLM_CPU_KVCACHE_SPACE": "2"} == rendered.env


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"drafter": "eagle", "draft_length": 3}, "Drafter 'eagle' is not configured"),
        ({"drafter": "dflash", "draft_length": 16}, "Draft length 16 is above the maximum"),
        (
            {
                "drafter": "dflash",
                "draft_length": 7,
                "max_num_seqs": 64,
                "max_num_batched_tokens": 511,
            },
            "= 512",
        ),
        ({"max_num_seqs": 64, "max_num_batched_tokens": 63}, "= 64"),
    ],
)
def test_a_broken_constraint_is_a_sentence_and_starts_nothing(fields, part):
    """Knobs that vLLM would refuse are refused before, with the reason."""
    knobs = Knobs(**fields)

    assert part in " ".join(violations(knobs, DRAFTERS))
    with pytest.raises(InvalidKnobsError, match=r"Drafter|Draft length|max_num_batched_tokens"):
        render(knobs, DRAFTERS)


def test_a_budget_that_just_fits_is_no_violation():
    """Verification needs 1 + draft length tokens per request, and not one more."""
    knobs = Knobs(drafter="dflash", draft_length=7, max_num_seqs=64, max_num_batched_tokens=512)

    assert [] == violations(knobs, DRAFTERS)


@pytest.mark.parametrize(
    "fields",
    [
        {"drafter": "dflash"},
        {"draft_length": 4},
        {"drafter": "dflash", "draft_length": 0},
        {"drafter": "dflash", "draft_length": "on"},
        {"gpu_memory_utilization": 1.1},
        {"max_num_sequences": 4},
    ],
)
def test_knobs_that_mean_nothing_cannot_be_made(fields):
    """A drafter without a length, a length without one, and unknown knobs are refused."""
    with pytest.raises(ValidationError):
        Knobs(**fields)


def test_labels_are_short_and_complete():
    """People see the drafter, the length and every knob that is set."""
    knobs = Knobs(
        drafter="dflash",
        draft_length=8,
        max_num_seqs=64,
        max_num_batched_tokens=8192,
        gpu_memory_utilization=0.9,
        cpu_kv_gib=2,
        performance_mode="balanced",
    )

    assert "off" == Knobs().label()
    assert "dflash k=8, seqs 64, budget 8192, memory 0.9, kv 2 GiB, balanced" == knobs.label()


def test_draft_tokens_of_off_are_zero():
    """Arithmetic sees 0 for off, and only a drafter speculates."""
    knobs = Knobs(drafter="ngram", draft_length=3)

    assert (0, False) == (Knobs().draft_tokens, Knobs().speculating)
    assert (3, True) == (knobs.draft_tokens, knobs.speculating)


def test_required_flags_are_those_that_rendering_uses():
    """What the installed vLLM must accept is exactly what it will be given."""
    knobs = Knobs(drafter="ngram", draft_length=3, max_num_seqs=8, cpu_kv_gib=1)

    used = {arg for arg in render(knobs, DRAFTERS).args if arg.startswith("--")}
    assert used == required_flags(knobs)
