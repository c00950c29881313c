import math

import pytest
from pydantic import ValidationError

from profiles.measurement import (
    Acceptance,
    Block,
    Environment,
    Failure,
    FailureKind,
    Measurement,
)

IDENTITY = {
    "platform": "p" * 12,
    "workload": "greedy.balanced.low",
    "knobs": "{}",
    "started_at": 1.0,
    "engine_token": "token",
}


def measured(*rates, **fields):
    """A measurement of ten-second blocks with these rates."""
    blocks = tuple(Block(seconds=10, output_tokens=10 * rate, requests=1) for rate in rates)
    return Measurement(**IDENTITY, blocks=blocks, **fields)


def test_the_rate_is_tokens_over_seconds_of_all_blocks():
    """A long block weighs more than a short one."""
    blocks = (
        Block(seconds=1, output_tokens=100, requests=1),
        Block(seconds=3, output_tokens=900, requests=1),
    )

    assert 250.0 == Measurement(**IDENTITY, blocks=blocks).tok_s


def test_a_failure_has_no_rate():
    """What failed is None, never 0, so that it cannot be compared."""
    failure = Failure(kind=FailureKind.OOM_LOAD, sentence="No memory.")
    measurement = Measurement.of_failure(failure, **IDENTITY)

    assert (None, False) == (measurement.tok_s, measurement.usable)
    with pytest.raises(ValueError, match="no usable rate"):
        measurement.log_rate()


def test_an_invalid_measurement_has_no_rate():
    """A measurement under throttling keeps its blocks but must not be used."""
    measurement = measured(100, 100, invalid="The GPU throttled.")

    assert (None, False) == (measurement.tok_s, measurement.usable)


def test_blocks_without_tokens_have_a_rate_of_zero_but_no_logarithm():
    """An engine that answered nothing is slow, and cannot enter a ratio."""
    measurement = measured(0)

    assert 0.0 == measurement.tok_s
    with pytest.raises(ValueError, match="no usable rate"):
        measurement.log_rate()


def test_the_spread_is_relative():
    """Noise between blocks is given as a share of the mean, and needs two blocks."""
    assert pytest.approx(math.sqrt(2) / 10) == measured(90, 110).spread
    assert measured(100).spread is None
    assert measured(0, 0).spread is None
    assert pytest.approx(math.log(100)) == measured(100).log_rate()


def test_energy_needs_a_sensor_and_tokens():
    """A missing sensor is None, never 0 joule."""
    environment = Environment(energy_j=500.0)

    assert 0.5 == measured(100, environment=environment).joule_per_token
    assert measured(100).joule_per_token is None
    assert measured(0, environment=environment).joule_per_token is None


def test_the_acceptance_length_counts_the_bonus_token():
    """Three accepted of two drafts are 2.5 tokens per step; without drafts it is unknown."""
    accepted = Acceptance(drafts=2, draft_tokens=8, accepted_tokens=3)

    assert 2.5 == accepted.mean_length
    assert Acceptance(drafts=0, draft_tokens=0, accepted_tokens=0).mean_length is None


def test_only_failures_of_the_knobs_are_blamed_on_them():
    """A foreign process or our own death says nothing about a configuration."""
    innocent = {kind for kind in FailureKind if not kind.blames_knobs}

    assert {FailureKind.FOREIGN_MEMORY, FailureKind.INTERRUPTED} == innocent


def test_measurements_are_frozen_and_known():
    """Neither a change nor an unknown field passes unnoticed."""
    measurement = measured(100)
    with pytest.raises(ValidationError):
        measurement.workload = "other"
    with pytest.raises(ValidationError):
        Measurement(**IDENTITY, tokens=3)


def test_json_keeps_everything():
    """What the store writes comes back equal."""
    measurement = measured(
        100,
        110,
        acceptance=Acceptance(
            drafts=9, draft_tokens=90, accepted_tokens=30, accepted_per_position=(9, 8, 7)
        ),
        environment=Environment(power_w=412.5, throttle_reasons=("SW_POWER_CAP",)),
    )

    assert measurement == Measurement.model_validate_json(measurement.model_dump_json())
