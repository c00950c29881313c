"""Defects of other tuners that ours must not have: what is sent, counted and timed."""

import asyncio
from collections import Counter

import pytest
from fake_vllm import LOGS
from scripted_engine import scripted_engine
from session_bench import CLASS, HERE

from profiles.classes import CODES
from profiles.knobs import Knobs
from profiles.measurement import FailureKind
from service import trial as module
from service.archive import Archive
from service.trial import ClassPlan, TrialPlan, TrialRunner
from tuner import measure as measuring
from tuner.cones import Cones
from tuner.config import TuningConfig
from tuner.corpus import synthetic_requests
from tuner.failures import classify_failure
from tuner.leader import leader
from tuner.measure import MeasurePlan, measure
from tuner.observation import Observation
from tuner.replay import Load, ReplayRequest


def requests(count=8, tokens=12):
    return [
        ReplayRequest("completions", {"model": "demo", "prompt": f"p{n}", "max_tokens": tokens})
        for n in range(count)
    ]


def plan(**changes):
    fields = {
        "requests": requests(), "concurrency": 2, "warmup_s": 0.1, "block_s": 0.4, "blocks": 2,
    }  # fmt: skip
    return MeasurePlan(**(fields | changes))


async def test_p07_tokens_come_from_usage_not_from_chunks(tmp_path):
    """vllm-tuner counted 11 chunks as 11 tokens where speculation had given 32."""
    async with scripted_engine(tmp_path, tokens_per_chunk=3) as engine:
        load = Load(socket=engine.socket, requests=requests(1, tokens=32), concurrency=1)
        async with load:
            result = await load.window(0.3)
            chunks, generated = engine.steps, engine.generated

    assert {32} == {timing.output_tokens for timing in result.timings}
    assert generated == pytest.approx(result.output_tokens, abs=engine.tokens_per_chunk)
    assert 32 / 11 == pytest.approx(generated / chunks, rel=0.1)


async def test_p07_the_time_per_token_is_not_the_time_per_chunk(tmp_path):
    """The same defect in a latency: a limit on it would refuse every draft length."""
    async with scripted_engine(tmp_path, tokens_per_chunk=4, token_s=0.02) as engine:
        measured = await measure(
            plan(requests=requests(tokens=40)), socket=engine.socket, telemetry=None
        )

    (block, *_) = measured.blocks
    assert block.tpot_p99_s < 0.75 * engine.token_s  # a chunk every 20 ms is a token every 5 ms


async def test_p17_no_prompt_is_sent_twice_into_a_warm_cache(tmp_path):
    """vllm-tuner repeated one prompt per trial: prefill was free after the first request."""
    async with scripted_engine(tmp_path) as engine:
        await measure(plan(), socket=engine.socket, telemetry=None)
        once = [(body["prompt"], body["cache_salt"]) for body in engine.bodies]
        await measure(plan(), socket=engine.socket, telemetry=None)
        both = [(body["prompt"], body["cache_salt"]) for body in engine.bodies]

    assert len({prompt for prompt, _ in once}) == 8
    assert len(once) > 8
    assert {1} == set(Counter(both).values())
    assert not {salt for _, salt in once} & {salt for _, salt in both[len(once) :]}


@pytest.mark.parametrize("request_class", CODES, ids=str)
def test_p17_made_up_prompts_are_distinct(request_class):
    """Without samples of live traffic the prompts of a measurement differ as well."""
    made = synthetic_requests(
        request_class, prompt_tokens=200, max_tokens=16, n=32, seed=0, model="m"
    )

    assert 32 == len({each.body["prompt"] for each in made})


@pytest.fixture
async def archive(tmp_path):
    opened = await Archive.open(tmp_path / "tuner.sqlite3")
    await opened.call(opened.store.ensure_platform, HERE, at=1.0)
    yield opened
    await opened.close()


class MortalEngine:
    """It starts, and runs out of memory as soon as it is loaded."""

    link = None

    def __init__(self, knobs):
        self.knobs, self.ended = knobs, asyncio.Event()
        self.record = type(
            "Record",
            (),
            {
                "token": knobs.digest(),
                "socket": "/s",
                "ready_s": 1.0,
                "pid": None,
                "started_at": None,
                "control_group": None,
            },
        )

    def failure(self, *, phase):
        return classify_failure(exit_code=1, log_tail=LOGS["oom"], phase=phase, timed_out=False)


class Slot:
    """A slot whose every start succeeds."""

    engine = None

    async def replace(self, knobs, *, profile, purpose):
        self.engine = MortalEngine(knobs)
        return self.engine

    async def quiet(self, *, deadline_s):
        return True

    async def hold(self, reason, *, eta_s):
        """The gate closes."""

    async def release(self, reason=""):
        """The gate opens."""

    def reaches(self, knobs):
        return False

    def lacking(self, knobs):
        return None


async def test_p26_memory_is_proven_under_load_not_by_a_start(archive, monkeypatch):
    """auto_tune.sh took the highest memory fraction that starts; under load it ran out."""
    slot = Slot()

    async def loaded(plan, **_):
        slot.engine.ended.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(module, "measure", loaded)
    greedy = Knobs(gpu_memory_utilization=0.97)
    trial = TrialPlan(
        study="s",
        platform=HERE.digest,
        knobs=greedy,
        why="a test",
        classes=[ClassPlan(workload=CLASS, concurrency=2, requests=requests(), samples="live")],
    )
    tuning = TuningConfig(warmup_s=0.01, block_s=0.01, blocks=1)
    await TrialRunner(slot, archive, None, tuning).run(trial)
    rows = await archive.measurements(HERE.digest, CLASS)
    history = [Observation.of(m, trial=n) for n, m in enumerate(rows)]

    assert [FailureKind.OOM_SERVE] == [m.failure.kind for m in rows]
    assert leader(history) is None
    assert Cones.of(history).excludes(Knobs(gpu_memory_utilization=0.98)) is not None


class PacedLoad(Load):
    """Arrivals set the pace, not the engine: each worker thinks before it asks."""

    async def _work(self, number):
        while True:
            await asyncio.sleep(0.05)
            endpoint, body = self._next_body(number, opening=False)
            sent = self._clock()
            self._sent_at[number] = sent
            try:
                await self._ask(endpoint, body, sent)
            finally:
                self._busy_s += self._clock() - self._sent_at.pop(number)


async def test_p29_a_load_below_what_was_asked_for_is_said(tmp_path, monkeypatch):
    """SLOTune's goodput was pinned at the arrival rate, and nothing in its report said so."""
    monkeypatch.setattr(measuring, "Load", PacedLoad)
    async with scripted_engine(tmp_path) as engine:
        measured = await measure(plan(), socket=engine.socket, telemetry=None)

    assert measured.invalid is not None
    assert "of 2 requests in flight" in measured.invalid
