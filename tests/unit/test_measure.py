"""One measurement, and what makes it invalid."""

import asyncio
import os
import time

import psutil
import pytest
from scripted_engine import scripted_engine, until

from profiles.measurement import Environment
from tuner.measure import MeasurePlan, measure
from tuner.processes import EngineProcess
from tuner.replay import ReplayRequest
from tuner.scrape import parse_counters


def plan(**changes):
    body = {"model": "demo", "prompt": "a", "max_tokens": 12}
    fields = {
        "requests": [ReplayRequest("completions", body | {"prompt": str(n)}) for n in range(8)],
        "concurrency": 2, "warmup_s": 0.1, "block_s": 0.2, "blocks": 2,
    }  # fmt: skip
    return MeasurePlan(**(fields | changes))


class Sensors:
    """Sensors that answer a fixed environment and remember whether they were let go."""

    def __init__(self, environment=None):
        self.environment = environment or Environment(power_w=100.0)
        self.open = 0

    def window(self):
        self.open += 1
        return self

    def finish(self, ours):
        self.ours = ours
        self.open -= 1
        return self.environment


async def test_blocks_are_timed_after_the_warm_up(tmp_path):
    """Blocks have tokens, step time and latencies; acceptance and sensors cover only them."""
    async with scripted_engine(tmp_path) as engine:
        measured = await measure(plan(), socket=engine.socket, telemetry=Sensors())
        everything = engine.steps

    assert measured.invalid is None
    assert 2 == len(measured.blocks)
    assert measured.acceptance is not None
    assert 0 < measured.acceptance.drafts < everything
    assert 100.0 == measured.environment.power_w
    for block in measured.blocks:
        assert block.output_tokens > 0
        assert block.seconds == pytest.approx(0.2, rel=0.5)
        assert block.step_mean_s == pytest.approx(engine.token_s)
        assert block.ttft_p50_s is not None
        assert block.tpot_mean_s is not None
        assert block.tpot_mean_s <= block.tpot_p99_s
        assert block.ttft_p95_s <= block.latency_p95_s


async def test_no_block_finds_the_prefixes_of_another(tmp_path):
    """Warm-up and blocks have salts of their own, and so have two measurements of one engine."""
    async with scripted_engine(tmp_path) as engine:
        await measure(plan(), socket=engine.socket, telemetry=None)
        once = {body["cache_salt"].rpartition("-")[0] for body in engine.bodies}
        await measure(plan(), socket=engine.socket, telemetry=None)
        twice = {body["cache_salt"].rpartition("-")[0] for body in engine.bodies}

    assert (3, 6) == (len(once), len(twice))


async def test_blocks_begin_at_different_requests(tmp_path):
    """Every part of the samples is measured, the same part in the same block for everybody."""
    async with scripted_engine(tmp_path) as engine:
        await measure(plan(), socket=engine.socket, telemetry=None)

    first = {}
    for body in engine.bodies:
        _, block, lap = body["cache_salt"].split("-")[0:3]
        if block != "warm":
            first.setdefault(block, (lap, body["prompt"]))
    assert {"0": ("0", "0"), "1": ("0", "4")} == first


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ({"status": 500}, "requests failed"),
        ({"status": 400}, "as malformed"),
        ({"foreign_tokens": 5000}, "something else used it"),
        ({"falling": True}, "counters fell"),
        ({"token_s": 2.0}, "make tuning.block_s longer"),
    ],
)
async def test_what_spoils_a_measurement_is_said(tmp_path, behaviour, words):
    """An engine that misbehaves gives blocks with the reason why they must not be used."""
    async with scripted_engine(tmp_path, **behaviour) as engine:
        measured = await measure(plan(warmup_s=0.02), socket=engine.socket, telemetry=None)

    assert measured.invalid is not None
    assert words in measured.invalid


async def test_an_engine_that_is_gone_is_said(tmp_path):
    """A socket that nobody listens on ends the measurement early with its reason."""
    sensors = Sensors()
    async with asyncio.timeout(5):
        measured = await measure(
            plan(concurrency=8, block_s=60, warmup_s=60), socket=tmp_path / "no", telemetry=sensors
        )

    assert ("The engine refuses connections.", "unreachable") == (
        measured.invalid,
        measured.invalid_code,
    )
    assert () == measured.blocks


async def test_a_cancelled_measurement_lets_the_sensors_go(tmp_path):
    """The daemon may stop in the middle of a block."""
    sensors = Sensors()
    async with scripted_engine(tmp_path) as engine:
        running = asyncio.create_task(
            measure(plan(block_s=60), socket=engine.socket, telemetry=sensors)
        )
        await until(lambda: sensors.open)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    assert running.cancelled()
    assert 0 == sensors.open


async def test_an_engine_older_than_the_intended_one_is_noticed(tmp_path):
    """The socket may be that of an earlier engine; who listens there is asked of the kernel."""
    meant = EngineProcess(pid=os.getpid(), started_at=time.time())
    async with scripted_engine(tmp_path) as engine:
        measured = await measure(plan(), socket=engine.socket, telemetry=None, engine=meant)

    assert "other_engine" == measured.invalid_code
    assert "Another engine than the intended one" in measured.invalid


async def test_the_sensors_learn_which_processes_are_the_engine(tmp_path):
    """What else computes on the GPU can then be told apart."""
    meant = EngineProcess(pid=os.getpid(), started_at=psutil.Process().create_time())
    sensors = Sensors()
    async with scripted_engine(tmp_path) as engine:
        measured = await measure(plan(), socket=engine.socket, telemetry=sensors, engine=meant)

    assert measured.invalid is None
    assert os.getpid() in sensors.ours


@pytest.mark.parametrize(
    ("environment", "code"),
    [
        (Environment(throttle_reasons=("hw_thermal_slowdown",)), "throttled"),
        (Environment(gpu_fault="GPU-1 is lost."), "gpu_fault"),
        (Environment(foreign_gpu_busy=0.5), "foreign_gpu"),
    ],
)
async def test_what_the_sensors_saw_spoils_it(tmp_path, environment, code):
    """The environment is kept with the reason, so that anybody can check it."""
    async with scripted_engine(tmp_path) as engine:
        measured = await measure(plan(), socket=engine.socket, telemetry=Sensors(environment))

    assert (code, environment) == (measured.invalid_code, measured.environment)


async def test_the_share_of_cached_prompts_is_recorded(tmp_path):
    """Two arms are compared only when their prefix caches were in the same state."""
    async with scripted_engine(tmp_path, cached=0.4) as engine:
        measured = await measure(plan(), socket=engine.socket, telemetry=None)

    assert pytest.approx(0.4) == measured.cache_hits


async def test_a_slow_engine_gets_more_blocks_for_its_steps(tmp_path):
    """Two blocks of few steps are followed by more, up to four times as many."""
    async with scripted_engine(tmp_path, token_s=0.08, tokens_per_chunk=12) as engine:
        measured = await measure(
            plan(block_s=0.2, concurrency=1), socket=engine.socket, telemetry=None
        )

    assert len(measured.blocks) > 2


async def test_an_engine_replaced_between_blocks_is_noticed(tmp_path, monkeypatch):
    """A new engine soon counts beyond the old one, so each pair of readings is compared."""
    async with scripted_engine(tmp_path) as engine:
        totals = iter([1000, 10, 2000])
        monkeypatch.setattr(
            "tuner.measure.parse_counters",
            lambda text: parse_counters(f"vllm:generation_tokens_total {next(totals)}\n"),
        )
        measured = await measure(plan(), socket=engine.socket, telemetry=None)

    assert measured.invalid is not None
    assert "counters fell" in measured.invalid
