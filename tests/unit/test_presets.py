import pytest
from pydantic import ValidationError

from profiles.presets import Preset, load, warm_starts

PRESETS = load()


def preset(**fields):
    """A preset, with what the test is about."""
    base = {
        "name": "x",
        "source_url": "https://example.org/x",
        "hardware": "RTX 5090 32GB",
        "engine": "vLLM 0.32.0",
        "model": "m",
        "drafter": "d",
        "method": "dflash",
        "draft_length": 13,
        "tok_s": 1.0,
        "workload": "w",
    }
    return Preset(**(base | fields))


def test_at_least_six_presets_are_shipped_each_with_its_source():
    """Every published number can be looked up."""
    assert len(PRESETS) >= 6
    assert len(PRESETS) == len({shipped.name for shipped in PRESETS})
    assert {"https"} == {shipped.source_url.scheme for shipped in PRESETS}


def test_the_rtx_5090_sweep_is_as_published():
    """The sweep that began this project is transcribed exactly."""
    [found] = [shipped for shipped in PRESETS if shipped.name == "rtx5090_gemma4_26b_dflash"]

    assert (13, 8192, 1) == (
        found.draft_length,
        found.max_num_batched_tokens,
        found.concurrency,
    )
    assert (578.0, 228.0) == (found.tok_s, found.off_tok_s)


def test_every_preset_beats_its_own_off():
    """A warm start that lost to no speculation would be a bad place to begin."""
    assert [] == [
        shipped.name
        for shipped in PRESETS
        if shipped.off_tok_s is not None and shipped.tok_s <= shipped.off_tok_s
    ]


def test_the_nearest_method_comes_first_then_the_nearest_gpu():
    """Method outweighs vLLM, vLLM outweighs GPU, and names need not be spelled alike."""
    presets = [
        preset(name="a", method="dspark", draft_length=7),
        preset(name="b", engine="SGLang", draft_length=15),
        preset(name="c", hardware="1x B200", draft_length=10),
        preset(name="d", draft_length=13),
    ]

    found = warm_starts(presets, method="dflash", limit=9, gpu="NVIDIA GeForce RTX 5090")
    assert [13, 10, 15, 7] == found


def test_an_unrelated_way_of_drafting_gives_no_warm_start():
    """The best length of a block drafter says nothing about n-grams."""
    assert [] == warm_starts([preset()], method="ngram", limit=5)
    assert [] == warm_starts([preset()], method="a method of tomorrow", limit=5)


def test_a_method_that_nobody_grouped_still_finds_its_own():
    """A new method with a preset of its own needs no change here."""
    assert [13] == warm_starts([preset(method="new")], method="new", limit=5)


def test_lengths_are_unique_limited_and_within_the_drafter():
    """A length is tried once, and never beyond what the drafter can do."""
    presets = [
        preset(name="a", draft_length=13),
        preset(name="b", draft_length=13),
        preset(name="c", draft_length=8),
        preset(name="d", draft_length=6),
    ]

    assert [13, 8] == warm_starts(presets, method="dflash", limit=2)
    assert [8, 6] == warm_starts(presets, method="dflash", limit=2, longest=10)
    assert [] == warm_starts(presets, method="dflash", limit=0)


def test_the_shipped_presets_give_a_warm_start_for_each_gpu_of_the_sweep():
    """The desktop card starts at 13, and the laptop card at its own 8."""
    desktop = warm_starts(PRESETS, method="dflash", limit=1, gpu="RTX 5090 32GB")
    laptop = warm_starts(PRESETS, method="dflash", limit=1, gpu="RTX 5090 Laptop 24GB")

    assert [13] == desktop
    assert [8] == laptop


@pytest.mark.parametrize("fields", [{"draft_length": 0}, {"source_url": "a blog"}, {"tokens": 1}])
def test_a_preset_that_cannot_be_right_is_refused(fields):
    """A preset needs a real source and a draft length."""
    with pytest.raises(ValidationError):
        preset(**fields)
