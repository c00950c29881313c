"""The judge of `scripts/bench peers`: who is measured when, and what follows from the rates."""

import math

import pytest
from benchmark_modules import module

from profiles.knobs import Knobs

judge = module("peers_judge")


def test_every_arm_is_measured_once_in_every_round():
    """Rounds hold the same arms, and each begins with another one."""
    turns = judge.order(["off", "a", "b"], 4)

    assert [["off", "a", "b"]] * 4 == [sorted(turn, key=["off", "a", "b"].index) for turn in turns]
    assert ["off", "a", "b", "off"] == [turn[0] for turn in turns]


def test_equal_winners_are_measured_once():
    """Two tools with one winner share its arm, and the default is always there."""
    three = {"drafter": "dflash", "draft_length": 3}
    found = [{"winner": three}, {"winner": {**three, "cpu_kv_gib": 1}}, {"winner": None}]

    arms = judge.arms(found)

    assert ["off", "dflash k=3"] == list(arms)
    assert Knobs(drafter="dflash", draft_length=3) == arms["dflash k=3"]


def test_a_tool_that_recommends_the_default_adds_no_arm():
    """Off is the default's own arm."""
    assert ["off"] == list(judge.arms([{"winner": {"draft_length": "off", "cpu_kv_gib": 1}}]))


def test_gains_are_paired_by_round():
    """A drift that hits both arms of a round alike leaves the gain exact."""
    rows = [{"off": 100.0, "a": 150.0}, {"off": 200.0, "a": 300.0}, {"off": 50.0, "a": 75.0}]

    found = judge.verdicts(rows)

    assert [1.5] * 3 == pytest.approx(found["a"]["gain"])
    mean, low, high = found["a"]["tok_s"]
    assert 150 == pytest.approx(mean)
    assert low < min(row["a"] for row in rows)
    assert high > max(row["a"] for row in rows)
    assert found["off"]["gain"] is None


def test_the_interval_is_students():
    """Two rounds: the 95 % quantile with one degree of freedom is 12.7 standard errors."""
    rows = [{"off": 100.0, "a": 110.0}, {"off": 100.0, "a": 121.0}]

    mean, _, high = judge.verdicts(rows)["a"]["gain"]

    assert 1.1**1.5 == pytest.approx(mean)
    error = math.log(1.1) / 2
    assert 12.7062 == pytest.approx(math.log(high / mean) / error, rel=1e-4)


def test_an_arm_that_does_not_start_has_no_rate():
    """A winner that fails once is reported with its failures, and its round gives no pair."""
    rows = [{"off": 100.0, "a": None}, {"off": 100.0, "a": None}]

    found = judge.verdicts(rows)["a"]

    assert (0, 2) == (found["starts"], found["failed"])
    assert found["tok_s"] is None
    assert found["gain"] is None
