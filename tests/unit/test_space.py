import pytest
from searching import FLAGS, drafter, small_space

from profiles.errors import ConfigError, InvalidKnobsError
from profiles.knobs import SPECULATIVE_FLAG, Knobs
from tuner.config import SpaceConfig
from tuner.space import build_space


def k(length, name="dflash", **rest):
    return Knobs(drafter=name, draft_length=length, **rest)


def test_points_are_off_and_every_draft_length():
    """Off is one point however many drafters there are; the other knobs stay as the default."""
    space = small_space(draft_lengths=(2, 5), names=("dflash", "ngram"))

    assert (Knobs(), k(2), k(5), k(2, "ngram"), k(5, "ngram")) == space.points()


def test_lengths_above_the_maximum_of_a_drafter_are_left_out():
    """A drafter is never asked for more than it can draft."""
    space = build_space(
        SpaceConfig(draft_lengths=(3, 9)), {"dflash": drafter(longest=4)}, FLAGS, Knobs()
    )

    assert (Knobs(), k(3)) == space.points()


def test_violating_points_are_left_out():
    """A budget below seqs x (1 + draft length) is not a point."""
    space = small_space(draft_lengths=(3,), max_num_seqs=(64,), max_num_batched_tokens=(128, 256))

    assert not space.contains(k(3, max_num_seqs=64, max_num_batched_tokens=128))
    assert space.contains(k(3, max_num_seqs=64, max_num_batched_tokens=256))
    assert space.ragged


def test_axis_of_an_unknown_flag_is_dropped_with_a_sentence():
    """What the installed vLLM does not accept is not searched, and the operator is told."""
    space = small_space(draft_lengths=(3,), max_num_seqs=(64,), flags=FLAGS - {"--max-num-seqs"})

    assert (
        "max_num_seqs is not searched: the installed vLLM does not accept --max-num-seqs.",
    ) == space.dropped
    assert {None} == {point.max_num_seqs for point in space.points()}


def test_without_the_speculative_flag_there_is_only_off():
    """A vLLM without --speculative-config leaves no drafter."""
    space = small_space(flags=FLAGS - {SPECULATIVE_FLAG})

    assert (Knobs(),) == space.points()
    assert "Speculation is not searched" in space.dropped[0]


def test_choices_that_vllm_does_not_know_are_dropped():
    """Values of performance_mode are checked against the installed vLLM."""
    space = build_space(
        SpaceConfig(performance_mode=("balanced", "throughput")),
        {},
        FLAGS,
        Knobs(),
        choices={"--performance-mode": ("balanced",)},
    )

    assert (Knobs(performance_mode="balanced"), Knobs()) == space.points()
    assert (
        'performance_mode "throughput" is not searched: the installed vLLM does not know it.',
    ) == (space.dropped)


def test_default_is_always_a_point():
    """A default outside the operator's own lists is added to them, in order."""
    default = k(7, max_num_seqs=100)
    space = small_space(default=default, draft_lengths=(3, 9), max_num_seqs=(64, 128))

    assert space.contains(default)
    assert [64, 100, 128] == sorted({point.max_num_seqs for point in space.points()})


def test_default_that_cannot_be_started_is_refused():
    """A default that needs an unknown flag is an error with its sentence, not an empty search."""
    with pytest.raises(InvalidKnobsError, match="does not accept --max-num-seqs"):
        small_space(default=Knobs(max_num_seqs=8), flags=FLAGS - {"--max-num-seqs"})


def test_a_space_too_large_to_enumerate_is_refused():
    """The product of the lists is bounded, and the error says how large it is."""
    with pytest.raises(ConfigError, match=r"has 112211 configurations, more than 20000"):
        small_space(
            draft_lengths=tuple(range(1, 11)),
            max_num_seqs=tuple(range(1, 101)),
            max_num_batched_tokens=tuple(range(5000, 5100)),
        )


def test_encoding_uses_one_index_per_ordinal_axis():
    """Off is draft length 0; an unset knob lies after the largest value."""
    space = small_space(draft_lengths=(2, 5), max_num_seqs=(8, 16))

    assert {"draft_length": 0, "max_num_seqs": 2} == space.encode(Knobs())
    assert {"draft_length": 2, "max_num_seqs": 1} == space.encode(k(5, max_num_seqs=16))


def test_encoding_of_a_foreign_point_is_refused():
    """Knobs outside the space have no coordinates."""
    with pytest.raises(ValueError, match="is not in the search space"):
        small_space(draft_lengths=(2,)).encode(k(3))


def test_adjacency_is_one_step():
    """Off is next to the smallest draft length of every drafter, not to the second."""
    space = small_space(draft_lengths=(2, 5), names=("dflash", "ngram"))

    assert space.adjacent(Knobs(), k(2, "ngram"))
    assert space.adjacent(k(2), k(5))
    assert not space.adjacent(Knobs(), k(5))
    assert not space.adjacent(k(2), k(2, "ngram"))
