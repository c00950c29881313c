from hypothesis import given
from hypothesis import strategies as st
from searching import row

from profiles.knobs import Knobs
from profiles.measurement import FailureKind
from tuner.cones import Cones, harder

MEMORY_KINDS = [FailureKind.OOM_LOAD, FailureKind.OOM_SERVE]


@st.composite
def points(draw):
    name = draw(st.sampled_from([None, "a", "b"]))
    return Knobs(
        drafter=name,
        draft_length=draw(st.integers(1, 4)) if name else "off",
        max_num_seqs=draw(st.sampled_from([None, 1, 2, 3])),
        max_num_batched_tokens=draw(st.sampled_from([100, 200, 300])),
        gpu_memory_utilization=draw(st.sampled_from([0.5, 0.7, 0.9])),
    )


@st.composite
def histories(draw, kinds=tuple(FailureKind)):
    answers = draw(st.lists(st.tuples(points(), st.sampled_from([None, *kinds])), max_size=12))
    return [
        row(n, knobs, rate=None if kind else 5, failure=kind)
        for n, (knobs, kind) in enumerate(answers)
    ]


@given(histories(), points())
def test_a_success_is_never_excluded(history, knobs):
    """Whatever failed around it, what has succeeded stays open."""
    assert Cones.of([*history, row(99, knobs, rate=5)]).excludes(knobs) is None


@given(histories(), points(), st.randoms(use_true_random=False))
def test_order_of_observations_does_not_matter(history, knobs, rng):
    """The verdict and its sentence depend on the set of rows alone."""
    shuffled = rng.sample(history, len(history))

    assert Cones.of(history).excludes(knobs) == Cones.of(shuffled).excludes(knobs)


@given(
    st.one_of(histories(MEMORY_KINDS), histories([FailureKind.NO_KV_MEMORY])), points(), points()
)
def test_harder_than_excluded_is_excluded(history, knobs, other):
    """Cones are monotone, successes inside them included."""
    up = not any(seen.failure is FailureKind.NO_KV_MEMORY for seen in history)
    cones = Cones.of(history)
    if cones.excludes(knobs) is not None and harder(other, knobs, memory_up=up):
        assert cones.excludes(other) is not None


@given(histories(), points(), points(), st.sampled_from(MEMORY_KINDS))
def test_one_more_failure_opens_nothing(history, knobs, failed, kind):
    """Evidence of failure only grows what is excluded."""
    before = Cones.of(history).excludes(knobs)
    after = Cones.of([*history, row(99, failed, failure=kind)]).excludes(knobs)

    assert before is None or after is not None


@given(points(), points(), points(), st.booleans())
def test_harder_is_a_partial_order(a, b, c, up):
    """Reflexive, transitive and antisymmetric: the cones rest on it."""
    assert harder(a, a, memory_up=up)
    if harder(a, b, memory_up=up) and harder(b, c, memory_up=up):
        assert harder(a, c, memory_up=up)
    if harder(a, b, memory_up=up) and harder(b, a, memory_up=up):
        assert a == b


@given(histories([FailureKind.FOREIGN_MEMORY, FailureKind.INTERRUPTED]), points())
def test_what_does_not_blame_the_knobs_excludes_nothing(history, knobs):
    """Foreign memory and interruptions leave everything open."""
    assert Cones.of(history).excludes(knobs) is None
