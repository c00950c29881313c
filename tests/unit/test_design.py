from searching import drafter, small_space

from profiles.knobs import Knobs, violations
from tuner.design import Start, design


def k(length, name="dflash", **rest):
    return Knobs(drafter=name, draft_length=length, **rest)


def test_default_comes_first_then_a_spread_of_draft_lengths():
    """The default is the anchor; a small, a middle and the largest length follow."""
    space = small_space()

    found = [start.knobs for start in design(space, Knobs(), [], size=4)]

    assert [Knobs(), k(3), k(8), k(15)] == found


def test_off_is_tried_when_the_default_speculates():
    """Whether speculation pays at all is asked second."""
    space = small_space(default=k(5))

    assert [k(5), Knobs(), k(3)] == [s.knobs for s in design(space, k(5), [], size=3)]


def test_short_design_visits_every_drafter():
    """Two drafters take turns, so that neither is left for the end."""
    space = small_space(names=("dflash", "ngram"))

    assert [Knobs(), k(3), k(3, "ngram"), k(8)] == [
        start.knobs for start in design(space, Knobs(), [], size=4)
    ]


def test_warm_starts_replace_only_part_of_the_design():
    """Three at most and never more than half: a bad neighbour must not fill the design."""
    space = small_space()
    warm = [Start(knobs=k(n), why=f"preset {n}") for n in (1, 2, 4, 5, 6)]

    long = design(space, Knobs(), warm, size=8)
    short = design(space, Knobs(), warm, size=4)

    assert ["preset 1", "preset 2", "preset 4"] == [s.why for s in long if "preset" in s.why]
    assert ["preset 1"] == [s.why for s in short if "preset" in s.why]


def test_warm_starts_outside_the_space_are_skipped():
    """A preset of another drafter, or one that vLLM would refuse, costs no place."""
    space = small_space(draft_lengths=(3, 8))
    warm = [Start(knobs=k(13), why="preset"), Start(knobs=k(8), why="neighbour")]

    assert ["neighbour"] == [
        s.why for s in design(space, Knobs(), warm, size=5) if s.why in {"preset", "neighbour"}
    ]


def test_other_axes_are_spread_by_distance():
    """Designed starts do not all stay at the default's batch size."""
    space = small_space(max_num_seqs=(8, 16, 32), max_num_batched_tokens=(512, 2048))

    found = design(space, Knobs(), [], size=6)

    assert len({start.knobs.max_num_seqs for start in found}) > 1
    assert all(not violations(start.knobs, {"dflash": drafter()}) for start in found)
    assert len(found) == len({start.knobs for start in found})


def test_design_is_never_larger_than_the_space():
    """Three points give three starts, whatever was asked for."""
    assert 3 == len(design(small_space(draft_lengths=(1, 2)), Knobs(), [], size=20))
