"""A tuning session over a real store, with engines that are only numbers."""

import asyncio
import itertools
import math
import random
from dataclasses import replace

import pytest

from profiles.knobs import Drafter, Knobs
from profiles.measurement import Block, Failure, FailureKind, Measurement
from profiles.platform import fingerprint
from profiles.profile import Origin
from profiles.records import TrialStatus
from service.archive import Archive
from service.trial import ClassPlan
from service.tuning import Study, TuningSession
from tuner.config import SpaceConfig, TuningConfig
from tuner.design import design
from tuner.space import build_space

HERE = fingerprint(vllm="0.32.0", model="org/m", model_revision=None, drafters={}, cpu="Xeon")
CODE, CHAT = "greedy.balanced.low", "sampled.balanced.low"
TUNING = TuningConfig(trials=5, pairs=3, min_gain=0.03)
DRAFTERS = {"ngram": Drafter(name="ngram", method="ngram")}
SPACE = build_space(
    SpaceConfig(draft_lengths=(1, 3, 5, 8)),
    DRAFTERS,
    frozenset({"--speculative-config", "--model"}),
    Knobs(),
)
PEAK = {0: 100.0, 1: 130.0, 3: 200.0, 5: 160.0, 8: 110.0}
LOSS = {0: 100.0, 1: 90.0, 3: 70.0, 5: 50.0, 8: 30.0}
FLAT = {0: 100.0, 1: 100.4, 3: 101.0, 5: 100.6, 8: 100.2}
OOM = Failure(kind=FailureKind.OOM_LOAD, sentence="Out of memory.")


class Runner:
    """Engines whose speed is known: writes rows as the real one does."""

    def __init__(self, archive, speeds, *, broken=(), wobble=0.0, starts="start"):
        self.archive, self.speeds, self.broken = archive, speeds, broken
        self.wobble, self.plans = wobble, []
        self.noise = random.Random(3)
        self.names = (f"{starts}-{n}" for n in itertools.count())
        self.stop_after = None
        self.reached = asyncio.Event()

    async def run(self, plan):
        self.plans.append(plan)
        workloads = [c.workload for c in plan.classes]
        trial = await self.archive.open_trial(
            study=plan.study,
            platform=plan.platform,
            workloads=workloads,
            knobs=plan.knobs,
            why=plan.why,
        )
        if self.stop_after is not None and len(self.plans) > self.stop_after:
            self.reached.set()
            await asyncio.Event().wait()  # the daemon is killed here
        token = next(self.names)
        found = [self.measure(plan, workload, token) for workload in workloads]
        for measurement in found:
            await self.archive.add_measurement(measurement, trial)
        await self.archive.close_trial(trial, TrialStatus.DONE)
        return found

    def measure(self, plan, workload, token):
        length = plan.knobs.draft_tokens
        speed = self.speeds[workload][length] * math.exp(self.noise.gauss(0, self.wobble))
        block = Block(seconds=10.0, output_tokens=round(10 * speed), requests=50)
        broken = length in self.broken
        return Measurement(
            platform=plan.platform,
            workload=workload,
            knobs=plan.knobs.canonical(),
            started_at=float(len(self.plans)),
            engine_token=token,
            phase=plan.phase,
            pair=plan.pair,
            blocks=() if broken else (block,),
            failure=OOM if broken else None,
        )

    @property
    def searched(self):
        return [plan.knobs.draft_tokens for plan in self.plans if plan.phase == "search"]

    @property
    def promoted(self):
        return [plan.knobs.draft_tokens for plan in self.plans if plan.phase == "promotion"]


@pytest.fixture
async def archive(tmp_path):
    opened = await Archive.open(tmp_path / "tuner.sqlite3")
    await opened.call(opened.store.ensure_platform, HERE, at=1.0)
    yield opened
    await opened.close()


async def never():
    return None


def session(runner, *workloads, pause=never, tuning=TUNING):
    study = Study(
        name="+".join(workloads),
        platform=HERE.digest,
        tuning=tuning,
        space=SPACE,
        design=design(SPACE, Knobs(), [], size=tuning.trials),
        default=Knobs(),
    )
    plans = [ClassPlan(workload=w, concurrency=4, requests=[], samples="live") for w in workloads]
    return TuningSession(study, plans, runner, runner.archive, pause)


async def promotions(archive):
    found = await archive.call(archive.store.promotions, HERE.digest)
    return {w: (p.kept_default, p.evidence) for w, p in found.items()}


async def test_the_peak_is_found_and_promoted(archive):
    """The fastest draft length wins on fresh starts, and is a profile with its evidence."""
    runner = Runner(archive, {CODE: PEAK}, wobble=0.01)
    verdicts = await session(runner, CODE).run()

    promoted = await archive.promoted(HERE.digest)
    assert 3 == promoted[CODE].knobs.draft_length
    assert Origin.SEARCH is promoted[CODE].origin
    assert verdicts[CODE].promote
    assert promoted[CODE].evidence.gain == pytest.approx(1.0, abs=0.05)
    assert 0 == runner.searched[0]  # the operator's own configuration first
    assert 3 in runner.searched
    assert len(set(runner.searched)) <= 4  # draft lengths
    assert [0, 0, 0, 3, 3, 3] == sorted(runner.promoted)
    events = await archive.call(archive.store.events)
    assert ["verdict"] == [event.kind for event in events]


async def test_promotion_uses_fresh_starts_only(archive):
    """The best of a search is an optimist: its evidence comes from starts of its own."""
    runner = Runner(archive, {CODE: PEAK})
    await session(runner, CODE).run()

    rows = await archive.measurements(HERE.digest, CODE)
    tokens = {phase: {r.engine_token for r in rows if r.phase == phase} for phase in
              ("search", "promotion")}  # fmt: skip
    assert not tokens["search"] & tokens["promotion"]
    assert {1, 2, 3} == {r.pair for r in rows if r.phase == "promotion"}


async def test_a_default_that_is_best_is_kept_without_a_promotion(archive):
    """Nothing to prove: no further start, and the user is told."""
    runner = Runner(archive, {CODE: LOSS})
    verdicts = await session(runner, CODE).run()

    kept, evidence = (await promotions(archive))[CODE]
    assert kept
    assert [] == runner.promoted
    assert "your configuration is already the best" in verdicts[CODE].sentence
    assert verdicts[CODE].sentence == evidence.sentence
    assert Knobs() == (await archive.promoted(HERE.digest))[CODE].knobs


async def test_a_gain_within_the_noise_is_not_promoted(archive):
    """A leader that is not worth it leaves the default where it is, with the figures."""
    runner = Runner(archive, {CODE: FLAT}, wobble=0.02)
    verdicts = await session(runner, CODE).run()

    assert not verdicts[CODE].promote
    assert Knobs() == (await archive.promoted(HERE.digest))[CODE].knobs


async def test_a_sequential_promotion_ends_as_soon_as_it_is_clear(archive):
    """Twice the speed needs four pairs of the twelve that it may take."""
    runner = Runner(archive, {CODE: PEAK}, wobble=0.01)
    tuning = TUNING.model_copy(update={"most_pairs": 12})
    verdicts = await session(runner, CODE, tuning=tuning).run()

    assert verdicts[CODE].promote
    assert ("sequential", 4) == (verdicts[CODE].evidence.test, verdicts[CODE].evidence.pairs)
    assert [0, 0, 0, 0, 3, 3, 3, 3] == sorted(runner.promoted)


async def test_a_sequential_promotion_goes_on_for_the_class_that_needs_it(archive):
    """Two classes: the clear one is not measured any more, the other one takes all its pairs."""
    runner = Runner(archive, {CODE: PEAK, CHAT: {**FLAT, 5: 104.0}}, wobble=0.03)
    tuning = TUNING.model_copy(update={"most_pairs": 9})
    verdicts = await session(runner, CODE, CHAT, tuning=tuning).run()

    assert verdicts[CODE].promote
    assert verdicts[CODE].evidence.pairs < 9
    assert not verdicts[CHAT].promote
    chat = {plan.pair for plan in runner.plans if plan.pair and len(plan.classes) == 1}
    assert max(chat, default=0) >= verdicts[CODE].evidence.pairs


async def test_a_promotion_that_is_repeated_needs_no_search(archive):
    """A profile that has aged is compared on fresh starts; its search's rows are good enough."""
    first = Runner(archive, {CODE: PEAK}, wobble=0.01)
    await session(first, CODE).run()
    slower = Runner(archive, {CODE: {**PEAK, 3: 90.0}}, wobble=0.01, starts="later")
    repeated = session(slower, CODE)
    repeated._study = replace(repeated._study, again=True)
    verdicts = await repeated.run()

    assert [] == slower.searched
    assert [0, 0, 0, 3, 3, 3] == sorted(slower.promoted)
    assert not verdicts[CODE].promote
    assert "is a loss" in verdicts[CODE].sentence


async def test_a_crash_is_recorded_and_never_wins(archive):
    """The would-be peak does not start: the next best is promoted."""
    runner = Runner(archive, {CODE: PEAK}, broken={3})
    await session(runner, CODE).run()

    rows = await archive.measurements(HERE.digest, CODE)
    assert {OOM} == {row.failure for row in rows if row.failure}
    promoted = (await archive.promoted(HERE.digest))[CODE].knobs.draft_length
    assert promoted in {1, 5, 8}
    assert 3 not in runner.promoted


async def test_a_session_goes_on_from_its_rows(archive):
    """Killed in its third trial: the next session asks only for what is missing."""
    first = Runner(archive, {CODE: PEAK}, starts="first")
    first.stop_after = 2
    work = asyncio.create_task(session(first, CODE).run())
    await asyncio.wait_for(first.reached.wait(), 30)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    swept = await archive.call(archive.store.sweep_open_trials, "killed", at=2.0)

    second = Runner(archive, {CODE: PEAK}, starts="second")
    resumed = session(second, CODE)
    await resumed.run()

    assert 1 == swept
    assert not set(first.searched[:2]) & set(second.searched)
    # the search is a function of its rows: the cut-off trial is the first one of the next session
    assert first.searched[2] == second.searched[0]
    assert 2 + len(second.searched) == resumed.progress.trial
    assert 3 == (await archive.promoted(HERE.digest))[CODE].knobs.draft_length


async def test_progress_does_not_start_at_zero_after_a_resume(archive):
    """The first sentence of a resumed session counts what is there."""
    first = Runner(archive, {CODE: PEAK}, starts="first")
    first.stop_after = 2
    work = asyncio.create_task(session(first, CODE).run())
    await asyncio.wait_for(first.reached.wait(), 30)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)

    second = Runner(archive, {CODE: PEAK}, starts="second")
    second.stop_after = 0
    resumed = session(second, CODE)
    work = asyncio.create_task(resumed.run())
    await asyncio.wait_for(second.reached.wait(), 30)

    assert (2, 5, "search") == (
        resumed.progress.trial,
        resumed.progress.trials,
        resumed.progress.phase,
    )
    assert {CODE} == set(resumed.progress.best)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def test_returning_traffic_pauses_the_search(archive):
    """Between two trials the engine is given back; no verdict, and the rows stay."""
    runner = Runner(archive, {CODE: PEAK})
    asked = iter([None, None, "live traffic is back"])

    async def pause():
        return next(asked)

    paused = session(runner, CODE, pause=pause)
    verdicts = await paused.run()

    assert {} == verdicts
    assert ("done", "paused: live traffic is back") == (
        paused.progress.phase,
        paused.progress.sentence,
    )
    assert 2 == len(await archive.measurements(HERE.digest, CODE))
    assert {} == await promotions(archive)


async def test_two_classes_share_every_start(archive):
    """One search for both, a winner for each, and one default arm for all."""
    runner = Runner(archive, {CODE: PEAK, CHAT: LOSS | {1: 150.0}})
    verdicts = await session(runner, CODE, CHAT).run()

    promoted = await archive.promoted(HERE.digest)
    assert (3, 1) == (promoted[CODE].knobs.draft_length, promoted[CHAT].knobs.draft_length)
    assert all(verdict.promote for verdict in verdicts.values())
    assert [0, 0, 0, 1, 1, 1, 3, 3, 3] == sorted(runner.promoted)
    measured = {len(plan.classes) for plan in runner.plans if plan.phase == "search"}
    assert {2} == measured


async def test_a_promotion_measures_only_whom_it_concerns(archive):
    """The winner of one class is not measured for the other."""
    runner = Runner(archive, {CODE: PEAK, CHAT: LOSS})
    await session(runner, CODE, CHAT).run()

    arms = [plan for plan in runner.plans if plan.phase == "promotion"]
    assert {(CODE,)} == {tuple(c.workload for c in plan.classes) for plan in arms}
    kept = {w: kept for w, (kept, _) in (await promotions(archive)).items()}
    assert {CODE: False, CHAT: True} == kept


async def test_nothing_that_starts_ends_with_the_default(archive):
    """Every candidate fails: the session ends by itself and says that the default stays."""
    runner = Runner(archive, {CODE: PEAK}, broken={1, 3, 5, 8})
    verdicts = await session(runner, CODE).run()

    assert not verdicts[CODE].promote
    assert Knobs() == (await archive.promoted(HERE.digest))[CODE].knobs
