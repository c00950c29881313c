"""One trial: whatever happens to the engine, there is a row that says it."""

import asyncio
import time
from dataclasses import dataclass, field, replace

import pytest

from profiles.errors import StoreError, UnavailableError
from profiles.knobs import Knobs
from profiles.measurement import Block, Environment, Failure, FailureKind
from profiles.platform import fingerprint
from profiles.records import TrialStatus
from service import trial as module
from service.archive import Archive
from service.engine import EngineStartError
from service.trial import ClassPlan, TrialPlan, TrialRunner
from tuner.config import TuningConfig
from tuner.measure import Measured
from tuner.replay import ReplayRequest

HERE = fingerprint(vllm="0.32.0", model="org/m", model_revision=None, drafters={}, cpu="Xeon")
ONE, TWO = "greedy.balanced.single", "sampled.balanced.low"
KNOBS = Knobs(drafter="ngram", draft_length=3)
TUNING = TuningConfig(warmup_s=0.01, block_s=0.01, blocks=1)
OOM = Failure(kind=FailureKind.OOM_LOAD, sentence="The GPU ran out of memory while loading.")
DIED = Failure(kind=FailureKind.CRASH, sentence="The engine ended by itself.")


@dataclass
class Engine:
    """An engine in the slot."""

    knobs: Knobs
    token: str
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    link: object = None  # without live knobs

    @property
    def record(self):
        facts = {"token": self.token, "socket": "/s", "ready_s": 2.0, "pid": 7, "started_at": 3.0,
                 "control_group": "/e"}  # fmt: skip
        return type("Record", (), facts)

    def failure(self, *, phase):
        assert phase == "serve"
        return DIED


class Slot:
    """A slot without processes; remembers what was asked of it."""

    def __init__(self, running=None):
        self.engine = None if running is None else Engine(running, "running")
        self.starts, self.gate, self.error = 0, [], None
        self.busy = False  # live requests never end
        self.live, self.applied = False, []
        self.short = None

    def lacking(self, knobs):
        return self.short

    def runs(self, knobs):
        return self.engine is not None and self.engine.knobs == knobs

    def reaches(self, knobs):
        return self.live and self.engine.knobs.cold() == knobs.cold()

    async def apply(self, knobs, *, profile):
        self.applied.append(knobs)

    async def replace(self, knobs, *, profile, purpose):
        assert (knobs.digest(), "trial") == (profile, purpose)
        self.starts += 1
        if self.error is not None:
            self.engine = None
            raise EngineStartError(self.error, f"start-{self.starts}")
        self.engine = Engine(knobs, f"start-{self.starts}", link=object() if self.live else None)
        return self.engine

    async def release(self, reason=""):
        self.gate.append("open")

    async def hold(self, reason, *, eta_s):
        self.gate.append("hold")

    async def quiet(self, *, deadline_s):
        self.gate.append("quiet")
        return not self.busy


@pytest.fixture
async def archive(tmp_path):
    opened = await Archive.open(tmp_path / "tuner.sqlite3")
    await opened.call(opened.store.ensure_platform, HERE, at=1.0)
    yield opened
    await opened.close()


@pytest.fixture
def measured(monkeypatch):
    """What measuring gives: 100 tok/s unless the test says otherwise."""
    calls = []

    async def measure(plan, *, socket, telemetry, engine):
        assert (7, 3.0, "/e") == (engine.pid, engine.started_at, engine.group.name)
        calls.append(plan)
        if measure.then is not None:
            await measure.then()
        block = Block(seconds=1.0, output_tokens=100, requests=9)
        return Measured(
            blocks=(block,),
            acceptance=None,
            environment=Environment(),
            invalid=measure.invalid,
            invalid_code=None if measure.invalid is None else "load_limited",
            cache_hits=0.25,
        )

    measure.calls, measure.then, measure.invalid = calls, None, None
    monkeypatch.setattr(module, "measure", measure)
    return measure


def plan(*workloads, knobs=KNOBS):
    request = ReplayRequest("completions", {"model": "m", "prompt": "p", "max_tokens": 4})
    classes = [
        ClassPlan(workload=w, concurrency=4, requests=[request], samples="live") for w in workloads
    ]
    return TrialPlan(study="s", platform=HERE.digest, knobs=knobs, why="a test", classes=classes)


async def rows(archive):
    (trial,) = await archive.call(archive.store.trials)
    found = await archive.call(archive.store.measurements, HERE.digest, trial=trial.id)
    return trial, found


def runner(slot, archive):
    return TrialRunner(slot, archive, None, TUNING)


async def test_a_start_is_measured_for_every_class(archive, measured):
    """One engine start, one row per class, in the store before the answer."""
    slot = Slot()
    found = await runner(slot, archive).run(plan(ONE, TWO))

    trial, stored = await rows(archive)
    assert stored == found
    assert (TrialStatus.DONE, (ONE, TWO)) == (trial.status, trial.workloads)
    assert [(ONE, 100.0), (TWO, 100.0)] == [(m.workload, m.tok_s) for m in found]
    assert {("start-1", 2.0, "live", 4)} == {
        (m.engine_token, m.ready_s, m.samples, m.concurrency) for m in found
    }
    assert 1 == slot.starts


async def test_the_gate_is_closed_for_every_measurement_and_open_between(archive, measured):
    """Live requests that were held get their answer before the next measurement."""
    slot = Slot()
    measured.then = lambda: asyncio.sleep(0, slot.gate.append("measure"))
    await runner(slot, archive).run(plan(ONE, TWO))

    assert ["open", *["quiet", "hold", "measure", "open"] * 2] == slot.gate


async def test_the_first_trial_of_a_session_costs_no_restart(archive, measured):
    """An engine with these very knobs is measured as it runs, but only once."""
    slot = Slot(running=KNOBS)
    trials = runner(slot, archive)
    first = await trials.run(plan(ONE))
    second = await trials.run(plan(ONE))

    assert ["running", "start-1"] == [m.engine_token for m in (*first, *second)]


async def test_an_engine_that_does_not_start_is_a_row_for_every_class(archive, measured):
    """The kind of the failure is data."""
    slot = Slot()
    slot.error = OOM
    found = await runner(slot, archive).run(plan(ONE, TWO))

    trial, stored = await rows(archive)
    assert (TrialStatus.FAILED, OOM) == (trial.status, trial.failure)
    assert stored == found
    assert [OOM, OOM] == [m.failure for m in found]
    assert [] == measured.calls


async def test_an_engine_that_dies_while_measured_ends_the_trial(archive, measured):
    """The class that killed it has the failure; the others were not measured and have no row."""
    slot = Slot()

    async def die():
        slot.engine.ended.set()
        await asyncio.Event().wait()

    measured.then = die
    found = await runner(slot, archive).run(plan(ONE, TWO))

    trial, _ = await rows(archive)
    assert (TrialStatus.FAILED, DIED) == (trial.status, trial.failure)
    assert [(ONE, DIED)] == [(m.workload, m.failure) for m in found]


async def test_live_requests_that_do_not_end_spoil_a_measurement(archive, measured):
    """Nothing is compared that shared the engine; the gate is open again afterwards."""
    slot = Slot()
    slot.busy = True
    (found,) = await runner(slot, archive).run(plan(ONE))

    assert "live requests kept running at the engine" == found.invalid
    assert "live_requests" == found.invalid_code
    assert "open" == slot.gate[-1]
    assert [] == measured.calls


async def test_what_measuring_calls_invalid_is_kept_as_invalid(archive, measured):
    """The reason is in the row, and the row is not usable."""
    measured.invalid = "The load was not steady."
    (found,) = await runner(Slot(), archive).run(plan(ONE))

    assert (False, "The load was not steady.") == (found.usable, found.invalid)
    assert ("load_limited", 0.25) == (found.invalid_code, found.cache_hits)


async def test_a_trial_that_is_cancelled_is_interrupted(archive, measured):
    """Stopping tunes nothing: no row, the trial is void, and the gate is open again."""
    slot, reached = Slot(), asyncio.Event()

    async def wait():
        reached.set()
        await asyncio.Event().wait()

    measured.then = wait
    work = asyncio.create_task(runner(slot, archive).run(plan(ONE)))
    await asyncio.wait_for(reached.wait(), 30)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)

    trial, stored = await rows(archive)
    assert (TrialStatus.INTERRUPTED, []) == (trial.status, stored)
    assert "open" == slot.gate[-1]


async def test_held_requests_breathe_no_longer_than_a_block(archive, measured, monkeypatch):
    """Short blocks do not pay for long pauses."""
    monkeypatch.setattr(module, "BREATH_S", 60.0)
    started = time.monotonic()
    await runner(Slot(), archive).run(plan(ONE))

    assert time.monotonic() - started < 30


LIVE = Knobs(drafter="ngram", draft_length=15, live=True)


@pytest.fixture
def swept(monkeypatch):
    """A sweep that finds draft length 3, and what it was asked."""
    calls = []

    async def sweep(plan, link, socket, config):
        calls.append(plan)
        return plan.knobs.model_copy(update={"draft_schedule": ((1, 128, 3),)})

    monkeypatch.setattr(module, "sweep", sweep)
    return calls


async def test_an_engine_with_live_knobs_is_swept_before_it_is_measured(archive, measured, swept):
    """Every class gets a schedule of its own in one start, in force when it is measured."""
    slot = Slot()
    slot.live = True
    found = await runner(slot, archive).run(plan(ONE, TWO, knobs=LIVE))
    wanted = LIVE.model_copy(update={"draft_schedule": ((1, 128, 3),)})

    assert (1, 2, 2) == (slot.starts, len(swept), len(measured.calls))
    assert [wanted, wanted] == slot.applied
    assert [wanted.canonical()] * 2 == [m.knobs for m in found]
    assert 4 == swept[0].concurrency


async def test_a_promotion_measures_the_schedule_that_was_found(archive, measured, swept):
    """Classes whose winners differ in live knobs share a start, and nothing is swept again."""
    slot = Slot()
    slot.live = True
    one, two = (LIVE.model_copy(update={"draft_schedule": ((1, 128, k),)}) for k in (2, 5))
    trial = replace(plan(ONE, TWO, knobs=LIVE), phase="promotion", live={ONE: one, TWO: two})
    found = await runner(slot, archive).run(trial)

    assert (1, []) == (slot.starts, swept)
    assert [one, two] == slot.applied
    assert [one.canonical(), two.canonical()] == [m.knobs for m in found]


async def test_a_sweep_that_gets_no_steps_is_an_invalid_measurement(archive, measured, monkeypatch):
    """An engine that stops stepping costs the measurement, not the session."""

    async def sweep(plan, link, socket, config):
        raise UnavailableError("The engine takes no steps.")

    monkeypatch.setattr(module, "sweep", sweep)
    slot = Slot()
    slot.live = True
    (found,) = await runner(slot, archive).run(plan(ONE, knobs=LIVE))

    assert ("The engine takes no steps.", []) == (found.invalid, measured.calls)
    assert "open" == slot.gate[-1]


async def test_the_engine_of_a_trial_is_not_given_up_for_one_that_lacks_room(archive, measured):
    """F41, F14: the promotion went on when the disk had filled, and ended the engine that ran.

    The row says nothing about the knobs.
    """
    slot = Slot(running=Knobs())
    slot.short = "/state has 0 MiB free"
    (row,) = await runner(slot, archive).run(plan(ONE))

    assert (0, Knobs()) == (slot.starts, slot.engine.knobs)
    assert FailureKind.INTERRUPTED is row.failure.kind
    assert "Not started: /state has 0 MiB free." == row.failure.sentence


async def test_a_trial_whose_row_cannot_be_written_is_closed(archive, measured, monkeypatch):
    """It stayed open when its start had failed too, as if it still ran."""
    slot = Slot()
    slot.error = Failure(kind=FailureKind.BAD_FLAG, sentence="No.")

    async def full(*_):
        raise StoreError("The disk is full.")

    monkeypatch.setattr(archive, "add_measurement", full)
    with pytest.raises(StoreError):
        await runner(slot, archive).run(plan(ONE))

    trial, found = await rows(archive)
    assert (TrialStatus.INTERRUPTED, []) == (trial.status, list(found))
