"""The lab: what a session needs from this machine before the engine is touched."""

from types import SimpleNamespace

import pytest

from profiles.errors import ConflictError
from profiles.platform import fingerprint
from service.lab import Lab
from tuner.config import Config, EngineConfig, TuningConfig
from tuner.telemetry import Snapshot

HERE = fingerprint(vllm="0.32.0", model="org/m", model_revision=None, drafters={}, cpu="Xeon")


class Archive:
    """Remembers events."""

    def __init__(self):
        self.events = []

    async def event(self, kind, sentence):
        self.events.append((kind, sentence))


def lab(archive=None, sensors=None, **tuning):
    """A lab on a machine with these sensors."""
    return Lab(
        Config(engine=EngineConfig(model="org/m"), tuning=TuningConfig(**tuning)),
        SimpleNamespace(),
        slot=SimpleNamespace(),
        archive=archive or Archive(),
        gateway=SimpleNamespace(),
        telemetry=SimpleNamespace(snapshot=lambda: sensors or Snapshot()),
    )


async def nobody():
    """Nobody wants the engine back."""


async def test_energy_without_a_counter_ends_a_session_before_it_begins():
    """No engine start, no space, only the sentence."""
    made = lab(objective="tok_per_joule")

    with pytest.raises(ConflictError, match="this machine has no energy counter"):
        await made.tune(HERE, [], {}, nobody)
    assert made.progress is None


def test_a_machine_with_a_power_sensor_may_look_for_energy():
    """What the sensors say decides, at every session anew."""
    assert lab(sensors=Snapshot(power_w=80.0), objective="tok_per_joule").refusal() is None
    assert lab(objective="p95_latency").refusal() is None


async def test_limits_that_cannot_be_checked_are_in_the_history():
    """A limit without a sensor is said once per session, and the session goes on."""
    archive = Archive()
    made = lab(archive, limits={"temperature_c": 80.0, "ttft_p95_s": 1.0})

    async def stop():
        raise ConflictError("There is nothing to search.")

    made.space = stop
    with pytest.raises(ConflictError, match="nothing to search"):
        await made.tune(HERE, [], {}, nobody)
    assert [
        (
            "limits",
            "tuning.limits.temperature_c is never checked: this machine has no temperature sensor",
        )
    ] == archive.events
