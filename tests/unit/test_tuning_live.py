"""Tuning sessions whose candidates learn their draft length inside the engine."""

import time

import pytest
from test_tuning import CHAT, CODE, HERE, TUNING, Runner, never, promotions

from profiles.knobs import Drafter, Knobs
from profiles.measurement import Block, Measurement
from profiles.schedule import length_at
from service.archive import Archive
from service.trial import ClassPlan
from service.tuning import RECENT_S, Study, TuningSession
from tuner.config import SpaceConfig
from tuner.design import design
from tuner.space import build_space

DRAFTERS = {"ngram": Drafter(name="ngram", method="ngram", max_draft_length=8)}
LIVE = Knobs(drafter="ngram", draft_length=8, live=True)
FLAGS = frozenset({"--speculative-config", "--model", "--max-num-seqs"})
SPEED = {0: 100.0, 1: 130.0, 3: 200.0, 5: 160.0, 8: 110.0}
SLOW = {0: 100.0, 1: 90.0, 3: 70.0, 5: 150.0, 8: 30.0}


def scheduled(k, knobs=LIVE):
    return knobs.model_copy(update={"draft_schedule": ((1, 64, k),)})


class LiveRunner(Runner):
    """Engines that sweep to the best of their draft lengths, unless they are told what to run."""

    def measure(self, plan, workload, token):
        knobs, speeds = plan.live.get(workload, plan.knobs), self.speeds[workload]
        if knobs.live and workload not in plan.live:
            knobs = scheduled(max(speeds, key=speeds.get), knobs)
        length = length_at(knobs.lengths, 4)
        block = Block(seconds=10.0, output_tokens=round(10 * speeds[length]), requests=50)
        return Measurement(
            platform=plan.platform,
            workload=workload,
            knobs=knobs.canonical(),
            started_at=time.time(),
            engine_token=token,
            phase=plan.phase,
            pair=plan.pair,
            blocks=(block,),
        )

    def of(self, phase):
        return [plan for plan in self.plans if plan.phase == phase]


@pytest.fixture
async def archive(tmp_path):
    opened = await Archive.open(tmp_path / "tuner.sqlite3")
    await opened.call(opened.store.ensure_platform, HERE, at=1.0)
    yield opened
    await opened.close()


def session(runner, *workloads, default=None):
    default = default or Knobs()
    space = build_space(SpaceConfig(), DRAFTERS, FLAGS, default, live=True)
    study = Study(
        name="+".join(workloads),
        platform=HERE.digest,
        tuning=TUNING,
        space=space,
        design=design(space, default, [], size=TUNING.trials),
        default=default,
    )
    plans = [ClassPlan(workload=w, concurrency=4, requests=[], samples="live") for w in workloads]
    return TuningSession(study, plans, runner, runner.archive, never)


async def live_row(archive, k, *, age_s=0.0, phase="live"):
    """What the live loop has written down."""
    row = Measurement(
        platform=HERE.digest,
        workload=CODE,
        knobs=scheduled(k).canonical(),
        started_at=time.time() - age_s,
        engine_token="serving",
        phase=phase,
        blocks=(Block(seconds=10.0, output_tokens=900, requests=0),),
    )
    await archive.call(archive.store.add_measurement, row)


async def test_what_a_sweep_found_is_promoted(archive):
    """One start finds the draft length; it is compared on fresh starts as it was found."""
    runner = LiveRunner(archive, {CODE: SPEED})
    verdicts = await session(runner, CODE).run()

    assert verdicts[CODE].promote
    assert scheduled(3) == (await archive.promoted(HERE.digest))[CODE].knobs
    assert [Knobs(), LIVE] == [plan.knobs for plan in runner.of("search")]
    assert {LIVE: {CODE: scheduled(3)}, Knobs(): {}} == {
        plan.knobs: plan.live for plan in runner.of("promotion")
    }


async def test_classes_that_differ_in_live_knobs_share_their_starts(archive):
    """Two winners, one engine: three rounds of two starts, each class with its own schedule."""
    runner = LiveRunner(archive, {CODE: SPEED, CHAT: SLOW})
    await session(runner, CODE, CHAT).run()

    promoted = await archive.promoted(HERE.digest)
    assert (scheduled(3), scheduled(5)) == (promoted[CODE].knobs, promoted[CHAT].knobs)
    assert 6 == len(runner.of("promotion"))
    assert {(CODE, CHAT)} == {
        tuple(c.workload for c in plan.classes) for plan in runner.of("promotion")
    }


async def test_what_live_traffic_taught_is_measured_instead_of_swept_for(archive):
    """A schedule of the last hour is the candidate; the sweep would have found another one."""
    await live_row(archive, 5)
    runner = LiveRunner(archive, {CODE: SPEED})
    await session(runner, CODE).run()

    (searched,) = [plan for plan in runner.of("search") if plan.knobs.live]
    assert {CODE: scheduled(5)} == searched.live
    assert scheduled(5) == (await archive.promoted(HERE.digest))[CODE].knobs


@pytest.mark.parametrize("row", [{"age_s": RECENT_S + 5}, {"phase": "promotion"}])
async def test_old_schedules_are_swept_for_again(archive, row):
    """After an hour, or from a trial: the traffic may have moved."""
    await live_row(archive, 5, **row)
    runner = LiveRunner(archive, {CODE: SPEED})
    await session(runner, CODE).run()

    assert [{}, {}] == [plan.live for plan in runner.of("search")]
    assert scheduled(3) == (await archive.promoted(HERE.digest))[CODE].knobs


async def test_operators_cap_does_not_hide_what_live_points_gave(archive):
    """A cap in the default is no part of an engine start: its rows used to be foreign points."""
    capped = Knobs(max_active_seqs=8)
    runner = LiveRunner(archive, {CODE: SPEED})
    await session(runner, CODE, default=capped).run()

    assert [capped, LIVE.model_copy(update={"max_active_seqs": 8})] == [
        plan.knobs for plan in runner.of("search")
    ]
    found = (await archive.promoted(HERE.digest))[CODE].knobs
    assert scheduled(3, LIVE.model_copy(update={"max_active_seqs": 8})) == found


@pytest.mark.parametrize("default", [scheduled(8), LIVE])
async def test_live_default_is_compared_as_it_is(archive, default):
    """The operator's own schedule is not swept away: else there was no pair to compare with."""
    runner = LiveRunner(archive, {CODE: SPEED})
    verdicts = await session(runner, CODE, default=default).run()

    assert verdicts[CODE].promote
    assert scheduled(3) == (await archive.promoted(HERE.digest))[CODE].knobs
    assert pytest.approx(200 / 110 - 1, abs=0.01) == verdicts[CODE].evidence.gain
    assert {CODE: False} == {w: kept for w, (kept, _) in (await promotions(archive)).items()}
