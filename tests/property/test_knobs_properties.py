import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.errors import InvalidKnobsError
from profiles.knobs import (
    SPECULATIVE_FLAG,
    Drafter,
    Knobs,
    render,
    required_flags,
    violations,
)

NAMES = ("dflash", "ngram", "mtp")
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
speculation = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"drafter": st.sampled_from(NAMES), "draft_length": st.integers(1, 20)}),
)
others = st.fixed_dictionaries(
    {},
    optional={
        "max_num_seqs": st.integers(1, 512),
        "max_num_batched_tokens": st.integers(1, 16384),
        "gpu_memory_utilization": st.floats(0.01, 1.0).map(lambda value: round(value, 3)),
        "cpu_kv_gib": st.integers(1, 64),
        "performance_mode": st.sampled_from(["balanced", "interactivity", "throughput"]),
    },
)
knobs = st.builds(lambda one, other: Knobs(**one, **other), speculation, others)


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
        assert drafter.method == config.pop("method")
        assert drafter.model == config.pop("model", None)
        assert drafter.revision == config.pop("revision", None)
        assert drafter.options == config


@given(knobs, drafters)
def test_required_flags_are_exactly_the_rendered_ones(given_knobs, known):
    """Asking vLLM about the required flags is asking about the command line."""
    if violations(given_knobs, known):
        return
    args = render(given_knobs, known).args

    assert set(args[::2]) == required_flags(given_knobs)


@given(knobs, drafters)
def test_every_rendered_budget_can_verify_every_request(given_knobs, known):
    """A rendered token budget holds one draft and one token of every admitted request."""
    if violations(given_knobs, known):
        return
    seqs, budget = given_knobs.max_num_seqs, given_knobs.max_num_batched_tokens

    assert seqs is None or budget is None or budget >= seqs * (1 + given_knobs.draft_tokens)
