"""What a search tried, what failed, and what was not tried because of it."""

import math

import pytest
from explaining import CHAT, CODE, OFF, Rows, k
from searching import small_space

from profiles.measurement import FailureKind
from tuner.tried import tried

SPACE = small_space(draft_lengths=(1, 3, 8, 15))


def test_nothing_was_tried():
    """No rows, no figures; every point is open."""
    found = tried(CODE, [], SPACE)

    assert (0, 0, (), (), ()) == (
        found.starts,
        found.configurations,
        found.top,
        found.failed,
        found.excluded,
    )
    assert len(SPACE.points()) == found.open
    assert tried(CODE, [], None).open is None


def test_the_luckiest_start_is_not_what_is_believed():
    """The winner's curse: the best of one start is pulled towards the others, with its error."""
    made = Rows()
    for length, rate in ((1, 100), (3, 104), (8, 110)):
        made.add(k(length), rate)
    first = tried(CODE, made.rows, SPACE).top[0]
    made.add(k(8), 108)
    again = tried(CODE, made.rows, SPACE).top[0]

    assert ("dflash k=8", 1, 2) == (first.label, first.starts, again.starts)
    assert first.figure < first.best == pytest.approx(110)
    assert again.deviation < first.deviation


def test_the_top_is_short_and_the_best_comes_first():
    """Four of five, by belief."""
    made = Rows()
    for number, length in enumerate((1, 3, 8, 15)):
        made.add(k(length), 100 + 20 * number)
    made.add(OFF, 90)
    found = tried(CODE, made.rows, SPACE)

    assert ["dflash k=15", "dflash k=8", "dflash k=3", "dflash k=1"] == [t.label for t in found.top]
    assert (5, 5, 0) == (found.starts, found.configurations, found.open)


def test_a_crash_names_its_trial_and_what_it_rules_out():
    """As `tuner trials` counts: trial 2 ran out of memory, so more is not tried."""
    made = Rows()
    made.add(OFF, 100)
    made.add(k(3), failure=FailureKind.OOM_LOAD)
    found = tried(CODE, made.rows, SPACE)

    assert [(2, "dflash k=3", "oom_load", "It ran out of memory.")] == [
        (f.trial, f.label, f.kind, f.sentence) for f in found.failed
    ]
    assert [
        ("not tried: trial 2 ran out of memory with less", 2, ("dflash k=8", "dflash k=15"))
    ] == [(e.sentence, e.count, e.examples) for e in found.excluded]
    assert 1 == found.open  # k=1


def test_many_excluded_points_are_counted():
    """Three examples, and how many there are."""
    space = small_space(draft_lengths=(1, 3, 8, 15), max_num_seqs=(8, 16, 32))
    made = Rows()
    made.add(k(1, max_num_seqs=8), failure=FailureKind.OOM_LOAD)
    excluded = tried(CODE, made.rows, space).excluded[0]

    assert (11, 3) == (excluded.count, len(excluded.examples))


def test_a_crash_while_loading_a_class_counts_for_all():
    """The engine does not load differently for another class."""
    made = Rows()
    made.add(k(3), failure=FailureKind.OOM_LOAD, workload=CHAT)
    found = tried(CODE, made.rows, SPACE)

    assert ((), 2) == (found.failed, found.excluded[0].count)


def test_without_the_space_nothing_is_called_untried():
    """The engine may not be there to be asked; what was measured is still shown."""
    made = Rows()
    made.add(k(3), failure=FailureKind.OOM_LOAD)
    found = tried(CODE, made.rows, None)

    assert (1, (), None) == (len(found.failed), found.excluded, found.open)


def test_only_the_search_counts_as_tried():
    """Starts of a promotion confirm; those of the live loop are no starts at all."""
    made = Rows()
    made.add(OFF, 100)
    made.add(OFF, 100, phase="promotion", pair=1)
    made.add(k(3, live=True, draft_schedule=((1, 64, 3),)), 100, phase="live", trial=False)

    assert 1 == tried(CODE, made.rows, SPACE).starts


def test_invalid_measurements_are_counted_by_reason():
    """What made them invalid is said once, with its number; they are not believed."""
    made = Rows()
    for _ in range(2):
        made.add(OFF, 100, invalid="the GPU was throttled")
    made.add(OFF, 90, invalid="another process used the GPU", phase="promotion", pair=1)
    found = tried(CODE, made.rows, SPACE)

    assert {"the GPU was throttled": 2, "another process used the GPU": 1} == found.invalid
    assert () == found.top


def test_learned_schedules_of_one_engine_are_one_configuration():
    """Its draft lengths were found inside it: the start is what the search chose."""
    made = Rows()
    for length in (2, 3):
        made.add(k(15, live=True, draft_schedule=((1, 64, length),)), 100 + length)
    found = tried(CODE, made.rows, None)

    assert (2, 1, 2) == (found.starts, found.configurations, found.top[0].starts)
    assert math.sqrt(102 * 103) == pytest.approx(found.top[0].figure, rel=1e-3)
