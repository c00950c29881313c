"""One measurement, and what makes it invalid."""

import asyncio

import pytest
from scripted_engine import scripted_engine, until

from profiles.measurement import Environment
from tuner.measure import MeasurePlan, invalidity, measure
from tuner.replay import ReplayRequest, ReplayResult
from tuner.scrape import Window, parse_counters


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

    def finish(self):
        self.open -= 1
        return self.environment


def result(**changes):
    fields = {
        "seconds": 1.0, "output_tokens": 100, "requests": 10, "errors": 0, "refused": 0,
        "busy": 2.0, "timings": (),
    }  # fmt: skip
    return ReplayResult(**(fields | changes))


def window(tokens=200):
    return Window(
        generation_tokens=tokens,
        prompt_tokens=0,
        acceptance=None,
        step_seconds=None,
        steps=None,
        preemptions=0,
    )


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

    assert "The engine refuses connections." == measured.invalid
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


def test_sound_blocks_are_valid():
    """Nothing wrong, no reason."""
    assert invalidity(plan(), [result(), result()], window(), Environment(), received=200) is None


def test_an_unsteady_load_is_invalid():
    """Fewer requests in flight than asked for is another load."""
    found = invalidity(plan(), [result(busy=1.5)], window(), Environment(), received=200)

    assert "The load was not steady: 1.5 of 2 requests in flight." == found


@pytest.mark.parametrize(
    ("reasons", "valid"),
    [(("sw_power_cap",), True), (("hw_thermal_slowdown", "sw_power_cap"), False)],
)
def test_heat_spoils_but_a_power_cap_does_not(reasons, valid):
    """A cap holds for every candidate and is part of the platform; heat comes and goes."""
    found = invalidity(
        plan(), [result()], window(), Environment(throttle_reasons=reasons), received=200
    )

    assert valid == (found is None)


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
