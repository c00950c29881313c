"""What is maximised, and margins: the direction of every figure."""

import math

import pytest

from profiles.knobs import Knobs
from profiles.measurement import Block, Environment, Failure, FailureKind, Measurement
from profiles.profile import Evidence
from tuner.compare import Interval
from tuner.config import LimitsConfig, TuningConfig
from tuner.objective import AIMS, LIMITS, Goals, unfit

KNOBS = Knobs(drafter="ngram", draft_length=3)


def measured(*, knobs=KNOBS, environment=None, failure=None, invalid=None, **block):
    """A measurement of one block: 1000 tokens in 10 s and 100 requests."""
    fields = {"seconds": 10.0, "output_tokens": 1000, "requests": 100} | block
    return Measurement(
        platform="p",
        workload="w",
        knobs=knobs.canonical(),
        started_at=0.0,
        engine_token="t",
        blocks=() if failure else (Block(**fields),),
        environment=Environment(**(environment or {})),
        failure=failure and Failure(kind=failure, sentence="It ran out of memory."),
        invalid=invalid,
    )


BETTER = {
    "tok_s": (measured(output_tokens=1100), measured()),
    "tok_per_joule": (
        measured(environment={"energy_j": 90.0}),
        measured(environment={"energy_j": 100.0}),
    ),
    "p95_latency": (measured(latency_p95_s=0.9), measured(latency_p95_s=1.0)),
}


@pytest.mark.parametrize("objective", AIMS)
def test_the_better_figure_has_the_higher_score(objective):
    """More tokens, more tokens per joule, less latency: one direction behind this module."""
    better, worse = (Goals(objective=objective).score(each) for each in BETTER[objective])

    assert better > worse


@pytest.mark.parametrize(
    ("objective", "expected"),
    [("tok_s", "100 tok/s"), ("tok_per_joule", "10 tok/J"), ("p95_latency", "1 s p95 latency")],
)
def test_a_score_is_shown_in_its_own_unit(objective, expected):
    """The way back from a logarithm, sign included."""
    goals = Goals(objective=objective)

    assert expected == goals.shown(goals.score(BETTER[objective][1]))


def test_every_objective_of_the_configuration_has_an_aim():
    """A word that the file takes and nobody understands would fail in the middle of a session."""
    annotation = TuningConfig.model_fields["objective"].annotation

    assert set(AIMS) == set(annotation.__args__)
    assert set(LIMITS) == set(LimitsConfig.model_fields)


@pytest.mark.parametrize("objective", AIMS)
def test_a_failure_has_no_score(objective):
    """Least of all the best one where less is better."""
    crashed = measured(failure=FailureKind.OOM_LOAD)

    assert Goals(objective=objective).score(crashed) is None


@pytest.mark.parametrize("objective", AIMS)
def test_an_invalid_measurement_has_no_score(objective):
    """A throttled GPU says nothing in any unit."""
    better = BETTER[objective][0].model_copy(update={"invalid": "throttled"})

    assert Goals(objective=objective).score(better) is None


@pytest.mark.parametrize("objective", AIMS)
def test_an_engine_without_tokens_has_no_score(objective):
    """No token in no time at little power is not the best latency."""
    silent = measured(output_tokens=0, latency_p95_s=0.001, environment={"energy_j": 1.0})

    assert Goals(objective=objective).score(silent) is None


@pytest.mark.parametrize("objective", ["tok_per_joule", "p95_latency"])
def test_a_missing_figure_is_no_score(objective):
    """Without an energy reading, or in rows of an older tunerd, nothing is known."""
    assert Goals(objective=objective).score(measured()) is None


def test_the_latency_of_a_measurement_is_the_median_of_its_blocks():
    """One block with a hiccup does not move it."""
    blocks = tuple(
        Block(seconds=1, output_tokens=9, requests=1, latency_p95_s=each) for each in (1.0, 9.0, 2)
    )
    found = measured().model_copy(update={"blocks": blocks})

    assert pytest.approx(-math.log(2)) == Goals(objective="p95_latency").score(found)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("tok_s", "+10.0 % tok/s [+5.0, +20.0]"),
        ("tok_per_joule", "+10.0 % tokens per joule [+5.0, +20.0]"),
        ("p95_latency", "-9.1 % p95 latency [-16.7, -4.8]"),
    ],
)
def test_a_gain_is_said_as_the_change_of_the_figure(objective, expected):
    """Less latency is a minus, and the interval stays in order."""
    gain = Interval(mean=math.log(1.1), low=math.log(1.05), high=math.log(1.2))

    assert expected == Goals(objective=objective).change(gain)


MARGINS = [
    ("ttft_p95_s", 0.5, {"ttft_p95_s": 0.6}, 0.2),
    ("ttft_p95_s", 0.5, {"ttft_p95_s": 0.4}, -0.2),
    ("itl_p99_s", 0.02, {"tpot_p99_s": 0.03}, 0.5),
    ("itl_p99_s", 0.02, {"tpot_p99_s": 0.01}, -0.5),
    ("temperature_c", 80, {"environment": {"temperature_c": 83.0}}, 3.0),
    ("temperature_c", 80, {"environment": {"temperature_c": 75.0}}, -5.0),
    ("power_w", 400, {"environment": {"power_w": 500.0}}, 0.25),
    ("power_w", 400, {"environment": {"power_w": 300.0}}, -0.25),
    ("error_rate", 0.1, {"errors": 25, "requests": 75}, 0.15),
    ("error_rate", 0.1, {"errors": 5, "requests": 95}, -0.05),
]


@pytest.mark.parametrize(("name", "limit", "figures", "expected"), MARGINS)
def test_a_margin_is_above_zero_when_its_limit_is_broken(name, limit, figures, expected):
    """Signed, so that the model learns how near the edge is."""
    found = Goals(limits={name: limit}).margins(measured(**figures))

    assert {name: pytest.approx(expected)} == found


@pytest.mark.parametrize(("name", "limit", "figures", "expected"), MARGINS)
def test_what_breaks_a_limit_is_said_with_both_figures(name, limit, figures, expected):
    """An operator sees how much is missing."""
    words = Goals(limits={name: limit}).broken([measured(), measured(**figures)])

    assert (expected > 0) == (words is not None)
    assert words is None or f"breaks limits.{name} = {limit:g}" in words


@pytest.mark.parametrize(
    ("name", "limit", "figures"),
    [
        ("ttft_p95_s", 0.5, {"ttft_p95_s": 0.5}),
        ("itl_p99_s", 0.02, {"tpot_p99_s": 0.02}),
        ("temperature_c", 80, {"environment": {"temperature_c": 80.0}}),
        ("power_w", 400, {"environment": {"power_w": 400.0}}),
        ("error_rate", 0.05, {"errors": 5, "requests": 95}),
        ("error_rate", 0.0, {}),
    ],
)
def test_a_limit_that_is_just_reached_is_kept(name, limit, figures):
    """The edge belongs to what is allowed."""
    goals = Goals(limits={name: limit})

    assert goals.margins(measured(**figures))[name] == pytest.approx(0, abs=1e-12)
    assert goals.broken([measured(**figures)]) is None


def test_an_unknown_figure_has_no_margin():
    """A missing sensor neither keeps nor breaks anything."""
    every = dict.fromkeys(LIMITS, 1.0)

    assert {"error_rate"} == set(Goals(limits=every).margins(measured()))


def test_a_void_measurement_still_shows_its_errors():
    """Latency of a spoilt measurement means nothing; that its requests failed is the point."""
    void = measured(errors=50, ttft_p95_s=9.0, invalid="50 of 150 requests failed.")
    found = Goals(limits={"ttft_p95_s": 1.0, "error_rate": 0.01}).margins(void)

    assert {"error_rate"} == set(found)
    assert found["error_rate"] > 0


def test_energy_without_a_counter_is_refused_before_a_session():
    """One sentence at the start instead of an engine start per candidate for nothing."""
    goals = Goals(objective="tok_per_joule")

    assert "this machine has no energy counter" in goals.refusal(power_w=None)
    assert goals.refusal(power_w=120.0) is None
    assert Goals().refusal(power_w=None) is None


def test_limits_without_a_sensor_are_named():
    """A limit that nothing can check is a wish, and the operator is told."""
    goals = Goals(limits={"power_w": 300.0, "temperature_c": 80.0, "ttft_p95_s": 1.0})

    assert [] == goals.unchecked(power_w=1.0, temperature_c=1.0)
    (said,) = goals.unchecked(power_w=1.0, temperature_c=None)
    assert "tuning.limits.temperature_c is never checked: this machine has no temperature" in said
    assert 2 == len(goals.unchecked(power_w=None, temperature_c=None))
    assert [] == Goals().unchecked(power_w=None, temperature_c=None)


def test_a_verdict_under_other_goals_decides_nothing():
    """Objective and limits are part of the question that a verdict answers."""
    goals = Goals(objective="p95_latency", limits={"power_w": 300.0})
    same = Evidence(objective="p95_latency", limits={"power_w": 300})

    assert goals.decided(same)
    assert not goals.decided(same.model_copy(update={"objective": "tok_s"}))
    assert not goals.decided(same.model_copy(update={"limits": {"power_w": 250.0}}))
    assert not goals.decided(same.model_copy(update={"limits": {}}))
    assert Goals().decided(Evidence())  # those from before there were goals


def test_goals_are_what_the_configuration_asks_for():
    """Limits that are not set are not there."""
    tuning = TuningConfig(objective="tok_per_joule", limits={"error_rate": 0.0})

    assert Goals(objective="tok_per_joule", limits={"error_rate": 0.0}) == Goals.of(tuning)
    assert Goals() == Goals.of(TuningConfig())


@pytest.mark.parametrize(
    ("goals", "expected"),
    [
        (Goals(), True),
        (Goals(objective="p95_latency", limits={"ttft_p95_s": 1.0}), True),
        (Goals(objective="tok_per_joule"), False),
        (Goals(limits={"power_w": 300.0}), False),
        (Goals(limits={"temperature_c": 80.0}), False),
    ],
)
def test_live_rates_do_not_show_heat(goals, expected):
    """The live loop sees steps and tokens, no joules."""
    assert expected == goals.seen_in_rates


LIVE = Knobs(drafter="ngram", draft_length=8, live=True)
SCHEDULED = LIVE.model_copy(update={"draft_schedule": ((1, 64, 3),)})


def test_what_failed_once_is_unfit():
    """Whatever else was measured of it."""
    rows = [measured(), measured(failure=FailureKind.OOM_SERVE), measured()]

    assert "it failed here: It ran out of memory." == unfit(KNOBS, rows, Goals())
    assert unfit(Knobs(), rows, Goals()) is None


def test_a_failure_by_somebody_else_condemns_nothing():
    """Foreign memory is not the fault of the knobs."""
    assert unfit(KNOBS, [measured(failure=FailureKind.FOREIGN_MEMORY)], Goals()) is None


def test_a_failed_engine_condemns_its_schedules():
    """Live knobs differ within one kind of engine start."""
    assert unfit(SCHEDULED, [measured(knobs=LIVE, failure=FailureKind.CRASH)], Goals()) is not None


def test_a_limit_is_judged_on_average_over_the_same_knobs():
    """One start above the limit by a hair is noise; the average above it is not."""
    goals = Goals(limits={"ttft_p95_s": 1.0})
    over, under = measured(ttft_p95_s=1.2), measured(ttft_p95_s=0.7)

    assert unfit(KNOBS, [over, under], goals) is None
    assert "breaks tuning.limits.ttft_p95_s" in unfit(KNOBS, [over, over, under], goals)
    assert unfit(KNOBS, [over, over, under], Goals()) is None
    assert unfit(SCHEDULED, [measured(knobs=LIVE, ttft_p95_s=9.0)], goals) is None
