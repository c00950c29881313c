"""What the live loop writes down, with a real store."""

import time
from types import SimpleNamespace

import pytest

from profiles.errors import InvalidKnobsError
from profiles.knobs import Knobs
from profiles.platform import fingerprint
from profiles.profile import Evidence, Origin, Profile, default_profile
from service.archive import Archive
from service.memory import LiveMemory, remembered
from tuner.cells import Cell
from tuner.objective import Goals

HERE = fingerprint(vllm="0.32.0", model="org/m", model_revision=None, drafters={}, cpu="Xeon")
CLASS = "greedy.balanced.mid"
LIVE = Knobs(drafter="ngram", draft_length=15, live=True)
CELLS = {(8, 3): Cell(steps=100, tokens=1600, seconds=2.0), (8, 6): Cell(steps=9, tokens=9)}


def scheduled(k, knobs=LIVE):
    return knobs.model_copy(update={"draft_schedule": ((1, 64, k),)})


def mixture(name="greedy.balanced"):
    return SimpleNamespace(name=name, why="draft length 3 leads")


@pytest.fixture
async def archive(tmp_path):
    opened = await Archive.open(tmp_path / "tuner.sqlite3")
    await opened.call(opened.store.ensure_platform, HERE, at=1.0)
    yield opened
    await opened.close()


@pytest.fixture
def memory(archive):
    said = []

    async def say(kind, sentence):
        said.append((kind, sentence))

    engine = SimpleNamespace(record=SimpleNamespace(token="t1"))
    parts = SimpleNamespace(archive=archive, platform=HERE, slot=SimpleNamespace(engine=engine))
    made = LiveMemory(parts, say)
    made.said = said
    return made


async def promoted(archive, knobs, goals=Goals()):  # noqa: B008 - frozen
    evidence = Evidence(
        gain=0.4,
        gain_low=0.3,
        gain_high=0.5,
        sentence="+40 %",
        objective=goals.objective,
        limits=dict(goals.limits),
    )
    profile = Profile(
        knobs=knobs, platform=HERE.digest, workload=CLASS, origin=Origin.SEARCH, evidence=evidence
    )
    await archive.promote(profile, kept_default=False)


async def test_a_schedule_is_kept_as_a_row_of_its_class(archive, memory):
    """One measurement of phase `live`: the steps at the schedule, at the load of the cells."""
    await memory.learned(mixture(), scheduled(3), CELLS)
    (row,) = await archive.measurements(HERE.digest, CLASS)

    assert ("live", scheduled(3).canonical(), 8, 800.0) == (
        row.phase, row.knobs, row.concurrency, row.tok_s,
    )  # fmt: skip
    assert [("live", "greedy.balanced: draft length 3; draft length 3 leads")] == memory.said


async def test_the_profile_of_the_class_gets_the_schedule_and_keeps_its_gain(archive, memory):
    """The same engine, other live knobs: a new profile with the evidence of the promotion."""
    await promoted(archive, scheduled(8))
    await memory.learned(mixture(), scheduled(3), CELLS)
    found = (await archive.promoted(HERE.digest))[CLASS]

    assert (scheduled(3), 0.3) == (found.knobs, found.evidence.gain_low)
    assert "+40 %; then learned live: 3" == found.evidence.sentence


@pytest.mark.parametrize(
    "goals", [Goals(objective="tok_per_joule"), Goals(limits={"power_w": 300.0})]
)
async def test_rates_alone_change_no_profile_that_must_be_cool(archive, memory, goals):
    """Live cells have no joules: the row is kept, the proven profile stays as it is."""
    await promoted(archive, scheduled(8), goals)
    archive.goals = goals
    await memory.learned(mixture(), scheduled(3), CELLS)

    assert scheduled(8) == (await archive.promoted(HERE.digest))[CLASS].knobs
    assert 1 == len(await archive.measurements(HERE.digest, CLASS))


@pytest.mark.parametrize("other", [Knobs(), Knobs(drafter="ngram", draft_length=8, live=True)])
async def test_a_profile_of_another_engine_is_left_alone(archive, memory, other):
    """What was learned in one engine is no evidence for another."""
    await promoted(archive, other)
    await memory.learned(mixture(), scheduled(3), CELLS)

    assert other == (await archive.promoted(HERE.digest))[CLASS].knobs


async def test_a_mixture_of_classes_has_no_row(archive, memory):
    """A schedule for two classes together belongs to neither."""
    await memory.learned(mixture("greedy.balanced + sampled.balanced"), scheduled(3), CELLS)

    assert [] == await archive.measurements(HERE.digest, CLASS)
    assert 1 == len(memory.said)


async def test_what_is_learned_again_is_said_once(archive, memory):
    """A loop that runs for weeks used to add a clause to the evidence with every drift."""
    await promoted(archive, scheduled(8))
    for k in (3, 5, 2):
        await memory.learned(mixture(), scheduled(k), CELLS)
    found = (await archive.promoted(HERE.digest))[CLASS]

    assert "+40 %; then learned live: 2" == found.evidence.sentence


async def test_steps_at_other_lengths_are_no_evidence_for_the_schedule(archive, memory):
    """A schedule that no step has run with yet has no row."""
    await memory.learned(mixture(), scheduled(4), CELLS)

    assert [] == await archive.measurements(HERE.digest, CLASS)


DEFAULT = default_profile(HERE.digest, Knobs())
FITTED = Profile(knobs=scheduled(3), platform=HERE.digest, workload=CLASS, origin=Origin.SEARCH)
THERE = fingerprint(vllm="0.31.0", model="org/m", model_revision=None, drafters={}, cpu="Xeon")
ELSEWHERE = FITTED.model_copy(update={"platform": THERE.digest})


@pytest.fixture
def recall(archive):
    """What is remembered of a daemon that had a profile in force."""

    async def ask(last, *, banned=False, refusal=None):
        await archive.call(archive.store.ensure_platform, THERE, at=1.0)
        if last is not None:
            await archive.call(archive.store.put_profile, last)
            await archive.call(archive.store.set_in_force, last.id, why="it was the best", at=1.0)
        if banned:
            await archive.call(
                archive.store.quarantine, last.knobs, platform=HERE.digest, reason="it crashed",
                at=1.0, until=time.time() + 60,
            )  # fmt: skip

        def plan(knobs, *, profile, purpose):
            if refusal is not None:
                raise refusal

        parts = SimpleNamespace(archive=archive, platform=HERE, slot=SimpleNamespace(plan=plan))
        return await remembered(parts, SimpleNamespace(default=DEFAULT))

    return ask


async def test_the_profile_of_last_time_is_remembered_with_its_reason(recall):
    """A restart of tunerd changes nothing: live knobs and schedule come back."""
    assert (FITTED, "it was the best") == await recall(FITTED)


async def test_a_first_start_has_the_operators_own_configuration(recall):
    """Nothing was ever in force."""
    assert (DEFAULT, "your own configuration") == await recall(None)


@pytest.mark.parametrize(
    ("last", "more", "what"),
    [
        (
            FITTED,
            {"refusal": InvalidKnobsError("There is no such drafter.")},
            "does not fit this configuration",
        ),
        (FITTED, {"banned": True}, "is not restored: it did harm here and is in quarantine"),
        (ELSEWHERE, {}, "does not fit this platform"),
    ],
)
async def test_a_profile_that_does_not_fit_is_not_remembered(recall, last, more, what):
    """A drafter that is gone, a quarantine, another GPU: the default, and why."""
    assert (DEFAULT, f"the profile of last time {what}") == await recall(last, **more)
