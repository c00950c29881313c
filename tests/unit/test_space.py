import pytest
from searching import FLAGS, drafter, small_space

from profiles.errors import ConfigError, InvalidKnobsError
from profiles.knobs import SPECULATIVE_FLAG, Drafter, Knobs
from tuner.config import SpaceConfig
from tuner.design import design
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


FIXED = Drafter(name="suffix", method="suffix", max_draft_length=15)


def live_space(*, default=None, drafters=None, live=True, **lists):
    found = drafters or {"dflash": drafter()}
    return build_space(SpaceConfig(**lists), found, FLAGS, default or Knobs(), live=live)


def live(length=15, name="dflash", **rest):
    return k(length, name, live=True, **rest)


def test_live_drafter_is_one_point():
    """Its draft lengths are learned inside the engine, so one start covers them all."""
    space = live_space(
        drafters={"dflash": drafter(), "ngram": drafter("ngram", longest=8)}, draft_lengths=(2, 5)
    )

    assert (Knobs(), live(), live(8, "ngram")) == space.points()
    assert {"dflash": 15, "ngram": 8} == space.live


def test_static_default_is_searched_beside_the_live_point():
    """The operator's own draft length stays what all is compared with."""
    space = live_space(default=k(7), draft_lengths=(2, 5))

    assert (Knobs(), k(7), live()) == space.points()
    assert not space.adjacent(Knobs(), live())


def test_drafters_of_fixed_length_keep_their_lengths():
    """Suffix decoding asserts the length it was started with: every length is a start."""
    space = live_space(drafters={"dflash": drafter(), "suffix": FIXED}, draft_lengths=(2, 5))

    assert (Knobs(), live(), k(2, "suffix"), k(5, "suffix")) == space.points()


@pytest.mark.parametrize(
    "default",
    [
        Knobs(),
        Knobs(max_active_seqs=8),
        k(7),
        k(7, draft_schedule=((1, 4, 7), (5, 64, 2))),
        live(9),
        live(9, max_active_seqs=8),
    ],
)
@pytest.mark.parametrize("on", [True, False])
def test_live_points_survive_the_search(default, on):
    """Coordinates give back every point, the default among them, with two kinds of drafters."""
    space = live_space(
        default=default,
        drafters={"dflash": drafter(), "suffix": FIXED},
        live=on,
        draft_lengths=(2, 5),
        max_num_seqs=(64, 128),
    )

    assert space.contains(default)
    assert len(set(space.points())) == len(space.points())
    assert list(space.points()) == [space.decode(space.encode(p)) for p in space.points()]


def test_live_length_of_a_drafter_without_it_is_no_point():
    """The model may ask for a live suffix drafter: there is no such point, and no crash."""
    space = live_space(drafters={"dflash": drafter(), "suffix": FIXED}, draft_lengths=(2, 5))
    params = {**space.encode(live()), "drafter": "suffix"}

    assert not space.contains(space.decode(params))


def test_learned_schedule_belongs_to_the_start_of_its_engine():
    """What was found inside an engine is credited to the point it was started as, caps and all."""
    space = live_space(default=Knobs(max_active_seqs=8), draft_lengths=(2, 5))
    learned = live(draft_schedule=((1, 4, 6), (5, 64, 2)), max_active_seqs=4)

    assert live(max_active_seqs=8) == space.start(learned)
    assert k(3, max_active_seqs=4) == space.start(k(3, max_active_seqs=4))
    assert live(9) == space.start(live(9))


def test_search_starts_with_a_live_default_as_its_point():
    """A default with a schedule of its own is started like any other engine with live knobs."""
    default = live(9, draft_schedule=((1, 64, 3),))
    first, *others = design(live_space(default=default), default, [], size=4)

    assert live(9) == first.knobs
    assert Knobs() in {start.knobs for start in others}
