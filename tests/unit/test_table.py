"""The table of a sweep."""

import pytest

from tuner.cells import Cell
from tuner.table import Entry, Table


def entry(*rates, batch=8):
    """Rounds of a second each."""
    cells = tuple(Cell(steps=10, tokens=rate, seconds=1.0) for rate in rates)
    return Entry(rounds=cells)


def table(rates, off=None):
    entries = {(8, k): entry(rate, rate + 2) for k, rate in rates.items()}
    return Table(entries=entries, off={} if off is None else {8: entry(off, off)})


def test_a_row_has_its_interval_from_rounds():
    """The interval of Student's t lies around the rate of all rounds together."""
    row = entry(100, 110, 90).row(8)

    assert 100 == row["goodput_tok_s"]
    assert row["low_tok_s"] < 100 < row["high_tok_s"]
    assert (3, 30, 300, 100.0, 1.25) == (
        row["rounds"],
        row["steps"],
        row["tokens"],
        row["step_ms"],
        row["tokens_per_step"],
    )


def test_one_round_has_no_interval_and_no_sensor_is_none():
    """What was not measured is None, never 0."""
    row = entry(100).row(8)

    assert (None, None, None, None) == (
        row["low_tok_s"], row["high_tok_s"], row["power_w"], row["temperature_c"],
    )  # fmt: skip
    assert Entry().row(8)["goodput_tok_s"] is None


def test_sensors_are_kept_with_their_visits():
    """Power is a mean over visits, temperature the highest seen."""
    two = Entry().add(Cell(steps=1, tokens=1, seconds=1), power_w=100.0, temperature_c=50.0)
    two = two.add(Cell(steps=1, tokens=1, seconds=1), power_w=300.0, temperature_c=None)

    assert (200.0, 50.0) == (two.row(1)["power_w"], two.row(1)["temperature_c"])


def test_the_shortest_length_within_one_percent_wins():
    """1000 and 1005 tokens a second are a tie; the shorter draft is the winner."""
    (winner,) = table({0: 500, 3: 1000, 6: 1005, 9: 900}).winners()

    assert 3 == winner["draft_length"]
    assert winner["gain_over_off"] is None
    assert 1.0 == pytest.approx(winner["gain_over_zero"], abs=0.01)


@pytest.mark.parametrize(("off", "wins"), [(1300, True), (1000, True), (900, False)])
def test_off_wins_where_it_is_not_slower(off, wins):
    """Speculation truly off is the winner when no draft length beats it by more than a tie."""
    (winner,) = table({0: 800, 3: 1000}, off=off).winners()

    assert wins == (winner["draft_length"] is None)
    assert (off if wins else 1001) == pytest.approx(winner["goodput_tok_s"])
    assert winner["gain_over_off"] is not None


def test_the_schedule_takes_the_best_of_each_concurrency():
    """Alone 8, at eight clients 3: the ranges go on to the ceiling."""
    entries = {
        (1, 3): entry(100), (1, 8): entry(200), (8, 3): entry(900), (8, 8): entry(700),
    }  # fmt: skip
    found = Table(entries=entries)

    assert ((1, 2, 8), (3, 64, 3)) == found.schedule(64)
    assert [1, 8] == [each["concurrency"] for each in found.winners()]
    assert Table().schedule(64) is None
