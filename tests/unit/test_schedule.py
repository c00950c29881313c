"""The draft length for every batch size: what is one, and how vLLM and people get it."""

import pytest

from profiles.schedule import (
    DECLARED_BELOW,
    ENDLESS,
    LARGEST,
    ceilings,
    checked,
    constant,
    declaring,
    label,
    length_at,
    longest,
)

TABLE = ((1, 1, 13), (2, 4, 9), (5, 8, 3))


def test_a_schedule_stays_as_it_is():
    """Ranges that go on from each other; also as lists, as JSON gives them."""
    assert TABLE == checked(TABLE)
    assert TABLE == checked([list(each) for each in TABLE])
    assert ((1, 1, 0),) == checked([(1, 1, 0)])


def test_neighbours_of_equal_length_are_one():
    """Two ways to say the same are the same knobs, with the same id."""
    assert ((1, 8, 3), (9, 9, 0)) == checked([(1, 2, 3), (3, 3, 3), (4, 8, 3), (9, 9, 0)])


@pytest.mark.parametrize(
    ("ranges", "place"),
    [
        ([(2, 4, 1)], r"\[2, 4, 1\] does not go on at batch size 1"),
        ([(0, 4, 1)], "at batch size 1"),
        ([(1, 4, 1), (6, 8, 2)], r"\[6, 8, 2\] does not go on at batch size 5"),
        ([(1, 4, 1), (4, 8, 2)], "at batch size 5"),
        ([(1, 4, 1), (5, 4, 2)], "at batch size 5"),
        ([(1, 0, 1)], "at batch size 1"),
        ([(1, 4, -1)], "a draft length of 0 or more"),
        ([(1, LARGEST + 1, 1)], "at batch size 1"),
        ([], "there is no range in it"),
        ([(n, n, n) for n in range(1, 66)], "65 ranges are more than 64"),
    ],
)
def test_what_is_no_schedule_is_refused_with_its_place(ranges, place):
    """Gaps, overlaps, wrong ends, negative lengths, nothing at all, more than fits."""
    with pytest.raises(ValueError, match=f"draft_schedule: .*{place}"):
        checked(ranges)


def test_many_equal_ranges_are_few():
    """The limit is one of what remains after merging."""
    assert ((1, 200, 4),) == checked([(n, n, 4) for n in range(1, 201)])


def test_the_length_at_a_batch_size():
    """Both ends of every range belong to it, and the last one goes on for ever."""
    found = [length_at(TABLE, batch) for batch in (1, 2, 4, 5, 8, 9, 10_000)]

    assert [13, 9, 9, 3, 3, 3, 3] == found


def test_longest_is_the_longest_of_all_ranges():
    """Not the first one's."""
    assert 9 == longest(((1, 1, 2), (2, 4, 9), (5, 8, 3)))


def test_ceilings_are_what_the_control_file_wants():
    """Highest batch size and length, in order."""
    assert [(1, 13), (4, 9), (8, 3)] == ceilings(TABLE)


def test_one_length_for_every_batch_size():
    """From 1 to where no engine comes."""
    assert ((1, ENDLESS, 7),) == constant(7)
    assert 7 == length_at(constant(7), 5000)


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (TABLE, "1: 13, 2-4: 9, 5+: 3"),
        (constant(5), "5"),
        (((1, 4, 0),), "0"),
        (((1, 2, 4), (3, 3, 2), (4, 9, 0)), "1-2: 4, 3: 2, 4+: 0"),
    ],
)
def test_a_label_is_for_people(schedule, text):
    """Single batch sizes, ranges, and an open end."""
    assert text == label(schedule)


def test_a_start_names_every_length_once():
    """What vLLM is to prepare: at the largest batch sizes, one each, the rest as wished."""
    table = declaring(constant(3), (0, 1, 2, 3, 5), 16)

    assert ((1, 12, 3), (13, 13, 0), (14, 14, 1), (15, 15, 2), (16, 16, 5)) == table


def test_a_start_without_a_largest_batch_goes_on_as_wished():
    """The names lie below every default of vLLM's, and what is larger follows the schedule."""
    table = declaring(constant(3), (0, 5), None)

    top = DECLARED_BELOW
    assert ((1, top - 2, 3), (top - 1, top - 1, 0), (top, top, 5), (top + 1, ENDLESS, 3)) == table


def test_a_schedule_that_says_all_of_it_is_only_cut():
    """Nothing has to be named, and no range passes the largest batch."""
    assert ((1, 1, 13), (2, 4, 9), (5, 6, 3)) == declaring(TABLE, (3, 9, 13), 6)


def test_a_schedule_that_ends_early_goes_on():
    """Its last length holds up to the first name."""
    assert ((1, 14, 4), (15, 15, 0), (16, 16, 1)) == declaring(((1, 2, 4),), (0, 1), 16)


def test_a_name_does_not_push_out_a_length_of_the_schedule():
    """Once a length that the schedule has only at the largest batches was named nowhere.

    The names of the others lay over it, and vLLM prepared no graph for it.
    """
    table = declaring(((1, 14, 3), (15, 16, 5)), (0, 1, 3), 16)

    assert {0, 1, 3, 5} == {k for _, _, k in table}
    assert ((1, 13, 3), (14, 14, 0), (15, 15, 1), (16, 16, 5)) == table


def test_a_schedule_beyond_the_names_stays():
    """Once everything beyond them had the last length, whatever the schedule said there."""
    table = declaring(((1, 200, 3), (201, 300, 5)), (0,), None)

    assert ((1, 127, 3), (128, 128, 0), (129, 200, 3), (201, ENDLESS, 5)) == table


def test_a_start_may_name_more_lengths_than_a_wish_has_ranges():
    """The limit is that of the control file; vLLM's table has none."""
    table = declaring(constant(100), range(101), 128)

    assert 101 == len(table)


@pytest.mark.parametrize(
    ("seqs", "table"),
    [
        (1, ((1, 1, 4),)),
        (2, ((1, 1, 4), (2, 2, 0))),
        (3, ((1, 1, 4), (2, 2, 0), (3, 3, 1))),
    ],
)
def test_a_small_engine_names_what_it_has_room_for(seqs, table):
    """One request alone keeps the length of the schedule."""
    assert table == declaring(constant(4), (0, 1, 2, 3, 4), seqs)
