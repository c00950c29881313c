import pytest

from tuner.buckets import assemble, bucket, busiest, span
from tuner.cells import Cell


def test_buckets_double():
    """1, 2, 3-4, 5-8, 9-16, 17-32: the grid on which the best k was seen to change."""
    assert [0, 1, 2, 2, 3, 3, 4, 4, 5, 5] == [
        bucket(batch) for batch in (1, 2, 3, 4, 5, 8, 9, 16, 17, 32)
    ]
    assert [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16)] == [span(number) for number in range(5)]


def test_no_bucket_for_an_empty_batch():
    """A step without requests is not a step."""
    with pytest.raises(ValueError, match="batch of 0"):
        bucket(0)


def test_busiest_counts_steps_of_all_draft_lengths():
    """The bucket whose steps are most of the traffic is learned first."""
    cells = {(1, 3): Cell(steps=9), (3, 3): Cell(steps=5), (4, 8): Cell(steps=6)}

    assert 2 == busiest(cells)
    assert 0 == busiest({(1, 3): Cell(steps=9), (2, 3): Cell(steps=9)})


def test_idle_engine_has_no_busiest_bucket():
    """Without a step there is nothing to learn."""
    assert busiest({}) is None
    assert busiest({(1, 3): Cell()}) is None


def test_nothing_learned_falls_back():
    """The schedule of an untouched engine is one k for every batch."""
    assert ((1, 64, 3),) == assemble({}, ceiling=64, fallback=3)


def test_learned_buckets_become_ranges():
    """Neighbours with the same k are one range, and the last one ends at the ceiling."""
    found = assemble({0: 8, 1: 8, 2: 4, 3: 4, 4: 2}, ceiling=12, fallback=0)

    assert ((1, 2, 8), (3, 8, 4), (9, 12, 2)) == found


def test_gap_takes_the_nearest_and_the_smaller_batch_of_two():
    """Between two learned buckets the nearer one speaks."""
    assert ((1, 2, 8), (3, 16, 4)) == assemble({0: 8, 3: 4}, ceiling=16, fallback=0)
    assert ((1, 2, 8), (3, 4, 4)) == assemble({0: 8, 2: 4}, ceiling=4, fallback=0)


def test_untried_larger_batch_gets_no_longer_draft():
    """A lucky k 8 at 33-64 must not spread down to a batch that the k 3 of a single one borders."""
    found = assemble({0: 3, 6: 8}, ceiling=64, fallback=0)

    assert ((1, 32, 3), (33, 64, 8)) == found


def test_untried_batches_at_both_ends_take_their_neighbour():
    """Smaller and larger batches than ever seen follow the outermost learned ones."""
    assert ((1, 8, 6), (9, 40, 2)) == assemble({2: 6, 4: 2}, ceiling=40, fallback=0)


def test_bucket_above_the_ceiling_leaves_no_range_behind():
    """A bucket learned under a higher batch cap does not lengthen the schedule."""
    assert ((1, 4, 5),) == assemble({2: 5, 6: 1}, ceiling=4, fallback=0)
