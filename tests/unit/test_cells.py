import pytest

from tuner.cells import Cell, by_batch, difference, merge, total


def cell(steps, tokens=None, seconds=None):
    """Two tokens and a hundredth of a second per step unless told otherwise."""
    return Cell(
        steps=steps,
        tokens=2 * steps if tokens is None else tokens,
        seconds=steps / 100 if seconds is None else seconds,
    )


def test_cell_knows_its_rates():
    """Goodput is tokens per second of steps, not of wall time."""
    found = Cell(steps=50, tokens=400, seconds=2.0)

    assert 200.0 == found.goodput_tok_s
    assert 0.04 == found.step_s
    assert 8.0 == found.tokens_per_step


def test_empty_cell_has_no_rates():
    """Nothing is divided by zero: a cell without steps says nothing."""
    found = Cell()

    assert (None, None, None) == (found.goodput_tok_s, found.step_s, found.tokens_per_step)


def test_difference_is_what_was_added():
    """Cells that stood still are left out, new ones are whole."""
    before = {(1, 3): cell(10), (2, 3): cell(5)}
    after = {(1, 3): cell(14), (2, 3): cell(5), (4, 8): cell(2)}

    found = difference(before, after)

    assert {(1, 3), (4, 8)} == set(found)
    assert (4, 8) == (found[1, 3].steps, found[1, 3].tokens)
    assert pytest.approx(0.04) == found[1, 3].seconds
    assert cell(2) == found[4, 8]


def test_difference_survives_an_engine_that_began_anew():
    """A counter that fell belongs to the next engine and counts from zero."""
    assert {(1, 3): cell(4)} == difference({(1, 3): cell(100)}, {(1, 3): cell(4)})


def test_merge_adds_cell_by_cell():
    """Readings of two slices are one reading of both."""
    found = merge({(1, 3): cell(25)}, {(1, 3): cell(50), (2, 3): cell(100)}, {})

    assert {(1, 3): cell(75), (2, 3): cell(100)} == found
    assert cell(175) == total(found)


def test_by_batch_picks_one_draft_length():
    """Other draft lengths do not show."""
    cells = {(1, 3): cell(1), (2, 3): cell(2), (2, 8): cell(3)}

    assert {1: cell(1), 2: cell(2)} == by_batch(cells, 3)
