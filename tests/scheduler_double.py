"""Our scheduler on a parent without vLLM, and what tests do with it."""

import importlib
from types import SimpleNamespace

import pytest
from scheduler_base import Base, Request

from profiles.schedule import constant
from service.engine_site import tuner_layout as layout
from service.launch import SITE
from service.live_files import ControlFile, LiveKnobs, read_telemetry

LONGEST, SEQS, BUDGET = 4, 8, 64
STEP_NS = 10_000_000


@pytest.fixture
def module(monkeypatch):
    """The module as the engine loads it: from a folder on its path, with a clock of ours."""
    monkeypatch.syspath_prepend(str(SITE))
    module = importlib.import_module("tuner_scheduler")
    clock = SimpleNamespace(now=1_000_000_000)
    fake = SimpleNamespace(perf_counter_ns=lambda: clock.now, time_ns=lambda: 1)
    monkeypatch.setattr(module, "time", fake)
    module.clock = clock
    yield module
    del module.clock


@pytest.fixture
def control(tmp_path):
    return ControlFile(tmp_path / "control")


@pytest.fixture
def telemetry(tmp_path):
    return tmp_path / "telemetry"


@pytest.fixture
def start(module, control, telemetry, monkeypatch):
    """Starts a scheduler as `--scheduler-cls` would."""
    monkeypatch.setenv(layout.CONTROL_VARIABLE, str(control.path))
    monkeypatch.setenv(layout.TELEMETRY_VARIABLE, str(telemetry))

    def make(base=Base, *, trims=True, **more):
        live = type("Live", (module.Tuned, base), {"tuner_trims": trims})
        made = live(**{"longest": LONGEST, "seqs": SEQS, "budget": BUDGET, **more})
        made.tuner_begin()
        made.clock = module.clock
        return made

    return make


def step(stage, accepted=0, took=STEP_NS):
    """One step of an engine."""
    output = stage.schedule()
    stage.clock.now += took
    return output, stage.update_from_output(output, accepted)


def add(stage, *ids, **more):
    for each in ids:
        stage.add_request(Request(each, **more))


def warm(stage, count=1, **more):
    """So many requests, past their prompts, in steps that only decode."""
    add(stage, *(f"cmpl-r{number}~t3-0-abcdef01" for number in range(count)), **more)
    step(stage)
    step(stage)


def look(stage, telemetry):
    """What tunerd would read now."""
    stage.tuner_meter.publish(stage.clock.now)
    return read_telemetry(telemetry)


def live(lengths=None, **more):
    return LiveKnobs(lengths=constant(LONGEST) if lengths is None else lengths, **more)
