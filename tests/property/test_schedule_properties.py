"""Schedules of any shape: normal form, look-up, and the table that vLLM is started with."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from profiles.schedule import (
    DECLARED_BELOW,
    ENDLESS,
    ceilings,
    checked,
    declaring,
    length_at,
    longest,
)


@st.composite
def parts(draw):
    """Ranges that go on from each other, neighbours of equal length among them."""
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=12))
    made, low = [], 1
    for size in sizes:
        made.append((low, low + size - 1, draw(st.integers(0, 6))))
        low += size
    return made


schedules = parts().map(checked)
lengths = st.lists(st.integers(0, 15), max_size=16)
seqs = st.none() | st.integers(1, 300)


def dense(schedule, batches):
    return [length_at(schedule, batch) for batch in batches]


@given(parts())
def test_the_normal_form_says_the_same(ranges):
    """Merging changes no length at any batch size, and is final."""
    found = checked(ranges)
    wished = [k for low, high, k in ranges for _ in range(low, high + 1)]

    assert wished == dense(found, range(1, len(wished) + 1))
    assert found == checked(found)
    assert all(one[2] != other[2] for one, other in pairwise(found))
    assert max(wished) == longest(found)


@given(parts(), parts())
def test_equal_tables_are_equal_schedules(one, other):
    """Two schedules of one reach that agree at every batch size are the same value."""
    one, other = checked(one), checked(other)
    reach = range(1, max(one[-1][1], other[-1][1]) + 1)
    same = one[-1][1] == other[-1][1] and dense(one, reach) == dense(other, reach)

    assert same is (one == other)


@given(schedules)
def test_the_ceilings_say_the_same(schedule):
    """The engine expands them to the same table."""
    table = [0]
    for high, k in ceilings(schedule):
        table += [k] * (high + 1 - len(table))

    assert table[1:] == dense(schedule, range(1, len(table)))


@given(schedules, lengths, seqs)
def test_a_start_table_is_one_that_vllm_takes(schedule, named, most):
    """It begins at 1, ascends without overlap or gap, and ends where the engine does."""
    table = declaring(schedule, named, most)

    assert 1 == table[0][0]
    assert all(low <= high for low, high, _ in table)
    assert all(one[1] + 1 == other[0] for one, other in pairwise(table))
    assert (ENDLESS if most is None else most) == table[-1][1]


@given(schedules, lengths, st.none() | st.integers(24, 300))
def test_a_start_table_has_every_length(schedule, named, most):
    """Those that were asked for and those of the schedule itself, and no other one."""
    table = declaring(schedule, named, most)
    top = most or DECLARED_BELOW
    reach = max(top, schedule[-1][1]) if most is None else top
    wished = set(named) | set(dense(schedule, range(1, reach + 1)))

    assert wished == {k for _, _, k in table}


@given(schedules, lengths, seqs)
def test_a_start_table_keeps_the_schedule_below_the_names(schedule, named, most):
    """Only the largest batches differ, as many as there are lengths to be named."""
    table = declaring(schedule, named, most)
    top = most or DECLARED_BELOW
    differ = [b for b in range(1, top + 1) if length_at(table, b) != length_at(schedule, b)]

    assert length_at(schedule, 1) == length_at(table, 1)
    room = len(set(named) | set(dense(schedule, range(1, top + 1)))) - 1
    assert not differ or differ[0] > top - room
    if most is None:
        assert dense(schedule, range(top + 1, 600)) == dense(table, range(top + 1, 600))
