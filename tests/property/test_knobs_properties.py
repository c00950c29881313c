import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.errors import InvalidKnobsError
from profiles.knobs import (
    CAP_FLAGS,
    FIXED_LENGTH_METHODS,
    SPECULATIVE_FLAG,
    Drafter,
    Knobs,
    render,
    required_flags,
    violations,
)

NAMES = ("dflash", "ngram", "mtp", "suffix")
LENGTHS = range(21)  # that a live engine is to prepare
options = st.dictionaries(
    st.sampled_from(["prompt_lookup_max", "attention_backend", "eos"]),
    st.integers() | st.booleans() | st.text(max_size=5),
    max_size=2,
)
drafters = st.fixed_dictionaries(
    {},
    optional={
        name: st.builds(
            Drafter,
            name=st.just(name),
            method=st.just(name),
            model=st.none() | st.text(min_size=1, max_size=20),
            revision=st.none() | st.text(min_size=1, max_size=8),
            max_draft_length=st.integers(1, 16),
            options=options,
        )
        for name in NAMES
    },
)


@st.composite
def speculations(draw):
    """Off, one length, or a table; live or not."""
    if draw(st.booleans()):
        return {}
    longest, low, table = draw(st.integers(1, 20)), 1, []
    for _ in range(draw(st.integers(0, 4))):
        high = low + draw(st.integers(0, 200))
        table.append((low, high, draw(st.integers(0, longest))))
        low = high + 1
    return {
        "drafter": draw(st.sampled_from(NAMES)),
        "draft_length": longest,
        "live": draw(st.booleans()),
        "draft_schedule": tuple(table) or None,
    }


others = st.fixed_dictionaries(
    {},
    optional={
        "max_num_seqs": st.integers(1, 512),
        "max_num_batched_tokens": st.integers(1, 16384),
        "gpu_memory_utilization": st.floats(0.01, 1.0).map(lambda value: round(value, 3)),
        "cpu_kv_gib": st.integers(1, 64),
        "performance_mode": st.sampled_from(["balanced", "interactivity", "throughput"]),
        "max_active_seqs": st.integers(1, 512),
        "max_scheduled_tokens": st.integers(1, 16384),
    },
)
knobs = st.builds(lambda one, other: Knobs(**one, **other), speculations(), others)


@given(knobs)
def test_knobs_survive_their_canonical_text(given_knobs):
    """The text that the store keeps is the knobs, with the same digest."""
    again = Knobs.model_validate_json(given_knobs.canonical())

    assert given_knobs == again
    assert given_knobs.digest() == again.digest()


@given(knobs, st.randoms(use_true_random=False))
def test_the_digest_ignores_the_order_of_keys(given_knobs, random):
    """Two files that say the same give the same digest."""
    fields = list(given_knobs.model_dump(exclude_none=True).items())
    random.shuffle(fields)

    assert given_knobs.digest() == Knobs(**dict(fields)).digest()


@given(knobs, knobs)
def test_equal_digests_mean_equal_knobs(one, other):
    """Different knobs never pass for one configuration."""
    assert (one == other) == (one.digest() == other.digest())


@given(knobs, drafters)
def test_what_breaks_a_constraint_is_never_rendered(given_knobs, known):
    """Rendering refuses exactly the knobs that have violations, and says all of them."""
    broken = violations(given_knobs, known)
    if not broken:
        render(given_knobs, known)
        return

    with pytest.raises(InvalidKnobsError) as caught:
        render(given_knobs, known)
    assert all(sentence in caught.value.message for sentence in broken)


@given(knobs, drafters)
def test_off_renders_no_speculative_flag_and_drafting_exactly_one(given_knobs, known):
    """Speculation is on if and only if the knobs say so, with one JSON value that parses back."""
    if violations(given_knobs, known):
        return
    args = render(given_knobs, known).args

    assert int(given_knobs.speculating) == args.count(SPECULATIVE_FLAG)
    assert not [arg for arg in args if arg.startswith("--spec") and arg != SPECULATIVE_FLAG]
    if given_knobs.speculating:
        config = json.loads(args[args.index(SPECULATIVE_FLAG) + 1])
        drafter = known[given_knobs.drafter]
        assert given_knobs.draft_length == config.pop("num_speculative_tokens")
        table = config.pop("num_speculative_tokens_per_batch_size", None)
        wished = given_knobs.draft_schedule
        assert (None if wished is None else [list(one) for one in wished]) == table
        assert drafter.method == config.pop("method")
        assert drafter.model == config.pop("model", None)
        assert drafter.revision == config.pop("revision", None)
        assert drafter.options == config


@given(knobs, drafters)
def test_required_flags_are_exactly_the_rendered_ones(given_knobs, known):
    """Asking vLLM about the required flags is asking about the command line.

    An engine that has not our scheduler gets the caps as flags on top, where they are set.
    """
    if violations(given_knobs, known):
        return
    args = render(given_knobs, known, live_lengths=LENGTHS).args
    caps = {flag for field, flag in CAP_FLAGS.items() if getattr(given_knobs, field) is not None}

    assert set(args[::2]) == required_flags(given_knobs)
    assert set(render(given_knobs, known).args[::2]) == required_flags(given_knobs) | caps


@given(knobs, drafters)
def test_every_rendered_budget_can_verify_every_request(given_knobs, known):
    """A rendered token budget holds one draft and one token of every admitted request."""
    if violations(given_knobs, known):
        return
    seqs, budget = given_knobs.max_num_seqs, given_knobs.max_num_batched_tokens

    assert seqs is None or budget is None or budget >= seqs * (1 + given_knobs.draft_tokens)


@given(knobs)
def test_a_cold_start_is_one_for_all_that_an_engine_can_be(given_knobs):
    """No live knob is in it, it is its own cold start, and a live engine reaches it."""
    cold = given_knobs.cold()

    assert cold == cold.cold()
    assert (None, None) == (cold.max_active_seqs, cold.max_scheduled_tokens)
    assert cold == Knobs.model_validate_json(cold.canonical())
    if given_knobs.live:
        other = given_knobs.model_copy(
            update={"draft_schedule": ((1, 3, 0),), "max_active_seqs": 1}
        )
        assert cold == other.cold()
    else:
        assert given_knobs.draft_schedule == cold.draft_schedule


@given(knobs, drafters)
def test_live_engines_of_one_cold_start_have_one_command(given_knobs, known):
    """Else an engine would be restarted for a knob that it can change."""
    if violations(given_knobs, known):
        return
    cold = given_knobs.cold()
    args = render(cold, known, live_lengths=LENGTHS).args

    assert not set(CAP_FLAGS.values()) & set(args)
    if given_knobs.live:
        config = json.loads(args[args.index(SPECULATIVE_FLAG) + 1])
        table = config["num_speculative_tokens_per_batch_size"]
        most = given_knobs.max_num_seqs
        wished = set(range(given_knobs.draft_tokens + 1))
        named = {k for _, _, k in table}
        assert named == wished if most is None or most >= len(wished) else named <= wished
        assert most is None or table[-1][1] == most


@given(knobs, drafters)
def test_a_fixed_length_is_never_rendered_with_a_table(given_knobs, known):
    """A method that asserts its length never gets another one."""
    for lengths in (None, LENGTHS):
        if violations(given_knobs, known) or given_knobs.drafter is None:
            return
        args = render(given_knobs, known, live_lengths=lengths).args
        config = json.loads(args[args.index(SPECULATIVE_FLAG) + 1])
        varies = "num_speculative_tokens_per_batch_size" in config

        assert not (varies and config["method"] in FIXED_LENGTH_METHODS)
