import json

import pytest
from pydantic import ValidationError

from profiles.errors import InvalidKnobsError
from profiles.knobs import (
    CAP_FLAGS,
    FIXED_LENGTH_METHODS,
    Drafter,
    Knobs,
    render,
    required_flags,
    violations,
)
from profiles.schedule import LARGEST, constant

DFLASH = Drafter(name="dflash", method="dflash", model="/models/drafter", max_draft_length=15)
NGRAM = Drafter(name="ngram", method="ngram", options={"prompt_lookup_max": 4})
DRAFTERS = {"dflash": DFLASH, "ngram": NGRAM}
TABLE = ((1, 2, 8), (3, 8, 2))
LIVE = Knobs(
    drafter="dflash",
    draft_length=8,
    live=True,
    draft_schedule=TABLE,
    max_num_seqs=8,
    max_num_batched_tokens=512,
    max_active_seqs=6,
    max_scheduled_tokens=256,
)


def speculative(rendered):
    """The speculative configuration of a command line."""
    return json.loads(rendered.args[rendered.args.index("--speculative-config") + 1])


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
        (
            {"max_num_seqs": 64, "max_active_seqs": 65},
            "max_active_seqs 65 is above max_num_seqs 64.",
        ),
        (
            {"max_num_batched_tokens": 512, "max_scheduled_tokens": 513},
            "max_scheduled_tokens 513 is above max_num_batched_tokens 512.",
        ),
    ],
)
def test_a_broken_constraint_is_a_sentence_and_starts_nothing(fields, part):
    """Knobs that vLLM would refuse are refused before, with the reason."""
    knobs = Knobs(**fields)

    assert part in " ".join(violations(knobs, DRAFTERS))
    with pytest.raises(
        InvalidKnobsError, match=r"Drafter|Draft length|max_num_batched_tokens|max_num_seqs"
    ):
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
        {"live": True},
        {"draft_schedule": TABLE},
        {"drafter": "dflash", "draft_length": 7, "draft_schedule": TABLE},
        {"drafter": "dflash", "draft_length": 8, "draft_schedule": ()},
        {"drafter": "dflash", "draft_length": 8, "draft_schedule": ((1, 2, 8), (4, 8, 2))},
        {"drafter": "dflash", "draft_length": 8, "draft_schedule": ((2, 8, 2),)},
        {"drafter": "dflash", "draft_length": 8, "draft_schedule": ((1, 8, -1),)},
        {"max_active_seqs": 0},
        {"max_scheduled_tokens": 0},
        {"max_active_seqs": LARGEST + 1},
        {"max_scheduled_tokens": LARGEST + 1},
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


# --- live knobs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "digest"),
    [
        ({}, "5cd03a6d9ebe"),
        ({"drafter": "dflash", "draft_length": 8}, "a6bcbb0ca9a5"),
        (
            {
                "drafter": "dflash",
                "draft_length": 8,
                "max_num_seqs": 64,
                "max_num_batched_tokens": 8192,
                "gpu_memory_utilization": 0.9,
                "cpu_kv_gib": 2,
                "performance_mode": "balanced",
            },
            "263c98c9ec2f",
        ),
    ],
)
def test_knobs_of_before_live_knobs_keep_their_ids(fields, digest):
    """Ids are in people's pins and stores: they were computed by the version before."""
    assert digest == Knobs(**fields).digest()


def test_the_canonical_text_has_no_word_that_is_not_set():
    """Live knobs appear in it only where they are used."""
    assert '{"draft_length":"off"}' == Knobs().canonical()
    assert '{"draft_length":8,"drafter":"dflash","live":true}' == (
        Knobs(drafter="dflash", draft_length=8, live=True).canonical()
    )
    assert json.loads(LIVE.canonical())["draft_schedule"] == [list(each) for each in TABLE]


def test_what_only_a_restart_changes_is_the_same_for_all_that_an_engine_can_be():
    """Schedule and caps are live; draft length, drafter and sizes are not."""
    cold = Knobs(
        drafter="dflash", draft_length=8, live=True, max_num_seqs=8, max_num_batched_tokens=512
    )
    assert cold == LIVE.cold()
    assert cold == cold.cold()
    longer = Knobs(**{**LIVE.model_dump(), "draft_length": 9})
    assert longer.cold() != cold


def test_a_table_that_is_not_live_is_part_of_the_start():
    """Such an engine has it in its arguments; its caps can change, its table cannot."""
    fixed = Knobs(drafter="dflash", draft_length=8, draft_schedule=TABLE, max_active_seqs=3)

    assert TABLE == fixed.cold().draft_schedule
    assert fixed.cold().max_active_seqs is None
    assert LIVE.cold() != fixed.cold()


def test_without_a_table_the_length_holds_everywhere():
    """k(b) of every kind of knobs."""
    assert constant(0) == Knobs().lengths
    assert constant(8) == Knobs(drafter="dflash", draft_length=8).lengths
    assert TABLE == LIVE.lengths


def test_equal_neighbours_are_no_other_knobs():
    """The same table in other words has the same id."""
    ranges = ((1, 1, 8), (2, 2, 8), (3, 8, 2))
    split = LIVE.model_dump() | {"draft_schedule": ranges}

    assert LIVE.digest() == Knobs(**split).digest()


def test_a_start_without_our_scheduler_has_everything_in_its_arguments():
    """Table and caps work in an engine that tunerd has never seen."""
    rendered = render(LIVE, DRAFTERS)

    expected = "--max-num-seqs 8 --max-num-batched-tokens 512 --max-num-active-seqs 6"
    assert f"{expected} --max-num-scheduled-tokens 256" == " ".join(rendered.args[:-2])
    assert {
        "method": "dflash",
        "model": "/models/drafter",
        "num_speculative_tokens": 8,
        "num_speculative_tokens_per_batch_size": [[1, 2, 8], [3, 8, 2]],
    } == speculative(rendered)


def test_a_live_start_has_no_caps_and_names_its_lengths():
    """The caps come from the control file; the table names all lengths that may be wished."""
    rendered = render(LIVE.cold(), DRAFTERS, live_lengths=(0, 2, 8, 15))

    assert not set(CAP_FLAGS.values()) & set(rendered.args)
    table = speculative(rendered)["num_speculative_tokens_per_batch_size"]
    assert [[1, 6, 8], [7, 7, 0], [8, 8, 2]] == table


def test_knobs_that_are_not_live_start_without_a_table():
    """Our scheduler is there, but the draft length is one: a table has a price."""
    knobs = Knobs(drafter="ngram", draft_length=3, max_active_seqs=2)
    rendered = render(knobs, DRAFTERS, live_lengths=(0, 1, 3))

    assert "num_speculative_tokens_per_batch_size" not in speculative(rendered)
    assert ("--speculative-config",) == rendered.args[::2]


def test_a_fixed_table_is_rendered_for_our_scheduler_too():
    """Nothing is added to a table that is not live."""
    knobs = Knobs(drafter="dflash", draft_length=8, draft_schedule=TABLE)
    table = speculative(render(knobs, DRAFTERS, live_lengths=(0, 1)))

    assert [[1, 2, 8], [3, 8, 2]] == table["num_speculative_tokens_per_batch_size"]


def test_live_knobs_without_our_scheduler_have_one_length():
    """Where the scheduler failed its test, the engine starts as any other."""
    rendered = render(LIVE.cold(), DRAFTERS)

    assert "num_speculative_tokens_per_batch_size" not in speculative(rendered)


@pytest.mark.parametrize("method", sorted(FIXED_LENGTH_METHODS))
@pytest.mark.parametrize("fields", [{"live": True}, {"draft_schedule": ((1, 4, 1), (5, 9, 0))}])
def test_a_method_of_one_length_takes_no_table(method, fields):
    """Such an engine would end with an assertion at its first step of another length."""
    known = {"d": Drafter(name="d", method=method)}
    plain = Knobs(drafter="d", draft_length=2)
    varying = Knobs(drafter="d", draft_length=2, **fields)

    assert [] == violations(plain, known)
    assert [f"The draft length of {method} cannot vary."] == violations(varying, known)


def test_caps_at_their_ceilings_break_nothing():
    """Equal is allowed, and without a ceiling of ours vLLM has its own."""
    at = Knobs(
        max_num_seqs=8, max_active_seqs=8, max_num_batched_tokens=64, max_scheduled_tokens=64
    )

    assert [] == violations(at, DRAFTERS)
    assert [] == violations(Knobs(max_active_seqs=8, max_scheduled_tokens=64), DRAFTERS)


def test_a_drafter_of_more_tokens_than_can_be_wished_is_refused():
    """A draft length beyond 255 could be started, but never told to the engine."""
    with pytest.raises(ValidationError):
        Drafter(name="d", method="ngram", max_draft_length=256)


@pytest.mark.parametrize(
    ("knobs", "label"),
    [
        (Knobs(drafter="dflash", draft_length=8, live=True), "dflash live to 8"),
        (
            LIVE,
            "dflash k=1-2: 8, 3+: 2, admitted 6, scheduled 256, seqs 8, budget 512",
        ),
        (
            Knobs(drafter="dflash", draft_length=8, live=True, draft_schedule=((1, 9, 3),)),
            "dflash k=3",
        ),
        (Knobs(max_active_seqs=2, max_scheduled_tokens=99), "off, admitted 2, scheduled 99"),
    ],
)
def test_live_knobs_are_named_for_people(knobs, label):
    """The table where there is one, else how far it can go; and the caps."""
    assert label == knobs.label()
