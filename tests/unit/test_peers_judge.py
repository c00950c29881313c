"""The judge of `scripts/bench peers`: who is measured when, and what follows from the rates."""

import math

import pytest
from benchmark_modules import module

from profiles.knobs import Knobs

judge = module("peers_judge")


def rounds(**rates):
    """The judge's rows of these rates by arm; None is a failed start."""
    rows = zip(*rates.values(), strict=True)
    return [
        {
            name: rate and {"tok_s": rate, "ttft_p95_s": 0.1, "tpot_mean_s": rate / 1e4}
            for name, rate in zip(rates, row, strict=True)
        }
        for row in rows
    ]


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
    rates = [150.0, 300.0, 75.0]
    rows = rounds(off=[100.0, 200.0, 50.0], a=rates)

    found = judge.verdicts(rows)

    assert [1.5] * 3 == pytest.approx(found["a"]["gain"])
    mean, low, high = found["a"]["tok_s"]
    assert 150 == pytest.approx(mean)
    assert low < min(rates)
    assert high > max(rates)
    assert found["off"]["gain"] is None


def test_the_interval_is_students():
    """Two rounds: the 95 % quantile with one degree of freedom is 12.7 standard errors."""
    rows = rounds(off=[100.0, 100.0], a=[110.0, 121.0])

    mean, _, high = judge.verdicts(rows)["a"]["gain"]

    assert 1.1**1.5 == pytest.approx(mean)
    error = math.log(1.1) / 2
    assert 12.7062 == pytest.approx(math.log(high / mean) / error, rel=1e-4)


def test_an_arm_that_does_not_start_has_no_rate():
    """A winner that fails once is reported with its failures, and its round gives no pair."""
    rows = rounds(off=[100.0, 100.0], a=[None, None])

    found = judge.verdicts(rows)["a"]

    assert (0, 2) == (found["starts"], found["failed"])
    assert found["tok_s"] is None
    assert found["gain"] is None
    assert found["ttft_p95_s"] is None


def test_latencies_are_medians_over_rounds():
    """One slow start does not move the latency of an arm."""
    found = judge.verdicts(rounds(off=[100.0, 100.0, 900.0]))["off"]

    assert 0.01 == pytest.approx(found["tpot_mean_s"])
    assert 0.1 == pytest.approx(found["ttft_p95_s"])


def test_what_a_verdict_refused_is_judged_too():
    """A live draft length has an arm of its own beside the same length from the start."""
    live = {"drafter": "dflash", "draft_length": 15, "live": True}
    off = {"draft_length": "off"}
    found = [
        {"winner": off, "refused": {**live, "draft_schedule": [[1, 128, 3]]}},
        {"winner": {"drafter": "dflash", "draft_length": 3}},
    ]

    assert ["off", "dflash k=3 (live)", "dflash k=3"] == list(judge.arms(found))
