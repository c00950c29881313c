"""The live loop on a simulated engine."""

import asyncio
import time
from types import SimpleNamespace

import pytest
from live_engine import LIVE, Link, clock, engine
from live_model import goodput, step_s

from profiles.errors import StoreError, UnavailableError
from profiles.schedule import length_at
from service import live_loop as module
from service.live_files import LiveKnobs
from service.live_loop import LiveLoop
from tuner.config import LiveConfig
from tuner.telemetry import Snapshot

LENGTHS = (1, 2, 3, 4, 6, 8)


class Stage:
    """A loop, its engine, and what it was told."""

    def __init__(self, monkeypatch):
        self.link = Link()
        self.slot = SimpleNamespace(engine=engine(self.link))
        self.refusal, self.learned, self.reasons = None, [], ()
        clock(monkeypatch, lambda: self.slot.engine.link, module)
        self.loop = LiveLoop(
            LiveConfig(),
            self.slot,
            SimpleNamespace(snapshot=self._snapshot),
            lengths=LENGTHS,
            may_learn=lambda: self.refusal,
            learned=self._learned,
        )

    def _snapshot(self):
        return Snapshot(throttle_reasons=self.reasons, power_w=70.0, temperature_c=50.0)

    async def _learned(self, mixture, knobs, cells):
        self.learned.append((mixture.name, knobs))

    async def ticks(self, count):
        for _ in range(count):
            await self.loop._tick()

    async def until(self, condition, count=400):
        for _ in range(count):
            if condition():
                return
            await self.loop._tick()
        raise AssertionError(f"not within {count} ticks: {self.loop.mixtures}")


@pytest.fixture
def stage(monkeypatch):
    return Stage(monkeypatch)


def settled(stage):
    return lambda: stage.loop.mixture is not None and stage.loop.mixture.settled_at is not None


async def test_a_schedule_is_learned_and_kept_in_force(stage):
    """What settles is within 2 % of the best of the simulated engine, in force and written down."""
    await stage.until(settled(stage))
    (name, knobs), *_ = stage.learned
    chosen = length_at(knobs.lengths, 8)
    best = max(goodput(8, k) for k in (0, *LENGTHS, 15))

    assert "greedy.balanced" == name
    assert goodput(8, chosen) >= 0.98 * best
    assert knobs.lengths == stage.link.wish.lengths
    stage.link.put(LiveKnobs.constant(15))  # by somebody else, or an old daemon
    await stage.ticks(2)
    assert knobs.lengths == stage.link.wish.lengths


async def test_exploring_is_accounted_and_bounded(stage):
    """What the visits lost is on the account, and a spent allowance ends them."""
    await stage.ticks(3)
    mixture = stage.loop.mixture
    assert 0 < mixture.allowance.explored_share <= 1
    assert 0 < mixture.allowance.forgone_share < 0.6
    assert {70.0} == {each["power_w"] for each in stage.loop.visits}

    spent = type(mixture.allowance)(share=0.0001, burst_s=1.0, spent_s=2.0)
    mixture.allowance = spent
    count = len(stage.loop.visits)
    await stage.ticks(5)
    assert count == len(stage.loop.visits)


async def test_nothing_is_learned_while_it_must_not_be(stage):
    """A pinned profile or a search: the engine's knobs are left alone, and the reason is shown."""
    stage.refusal = "a profile is pinned"
    await stage.ticks(5)

    assert [] == stage.link.puts
    assert "a profile is pinned" == stage.loop.sentence


async def test_a_refusal_within_a_round_leaves_the_engine_to_its_new_owner(stage):
    """A search that begins within a round keeps the knobs that it has set."""
    theirs = LiveKnobs.constant(7)
    original = stage.loop._take

    async def take(mixture, visit):
        await original(mixture, visit)
        if len(stage.link.puts) == 3:
            stage.refusal = "a search runs"
            stage.link.put(theirs)

    stage.loop._take = take
    await stage.ticks(4)

    assert theirs == stage.link.wish


async def test_a_switch_within_a_round_keeps_its_caps(stage):
    """The rest of the round used to put the caps of the profile before back for seconds."""
    original = stage.loop._take

    async def take(mixture, visit):
        await original(mixture, visit)
        if len(stage.link.puts) == 3:  # as Slot.apply does
            capped = LIVE.model_copy(update={"max_active_seqs": 4})
            stage.slot.engine.knobs = capped
            stage.link.put(LiveKnobs.of(capped))

    stage.loop._take = take
    with pytest.raises(UnavailableError):
        await stage.ticks(4)
    await stage.ticks(4)

    assert {4} == {wish.active for wish in stage.link.puts[3:]}
    assert len(stage.link.puts) > 5


async def test_another_engine_is_learned_anew(stage):
    """What was learned holds for one engine start."""
    await stage.until(settled(stage))
    stage.slot.engine = engine(Link(seed=3))
    await stage.ticks(2)

    assert all(one.settled_at is None for one in stage.loop.mixtures.values())


async def test_another_mixture_has_a_schedule_of_its_own(stage):
    """Each mixture is learned by itself, and its schedule comes back with its traffic."""
    await stage.until(settled(stage))
    first = stage.link.wish
    stage.link.code = 5  # sampled.balanced, for which no draft pays
    stage.link.model = {"survival": (0.01,) * 15}
    await stage.until(lambda: stage.loop.mixture.name == "sampled.balanced" and settled(stage)())
    assert 0 == stage.link.length
    stage.link.code, stage.link.model = 1, {}
    await stage.until(lambda: stage.loop.mixture.name == "greedy.balanced", count=3)

    assert first.lengths == stage.loop.mixture.schedule
    assert first.lengths == stage.link.wish.lengths


async def test_a_move_of_acceptance_opens_the_question_again(stage):
    """Text that is accepted far less than before is learned anew."""
    await stage.until(settled(stage))
    stage.link.model = {"survival": (0.05,) * 15}
    await stage.until(lambda: stage.loop.mixture.reopened > 0)

    assert "acceptance length fell" in stage.loop.mixture.moved


async def test_easier_text_gets_longer_drafts_within_seconds(stage):
    """A phase of easy text: the loop used to keep the short drafts of the text before for long."""
    await stage.until(settled(stage))
    easy = tuple(0.95 * 0.9**place for place in range(15))
    stage.link.model = {"survival": easy}
    began = stage.link._now
    await stage.until(lambda: stage.loop.mixture.reopened > 0)
    await stage.until(settled(stage))
    rates = {k: (1 + sum(easy[:k])) / step_s(8, k) for k in (0, *LENGTHS, 15)}

    assert rates[stage.link.length] >= 0.97 * max(rates.values())
    assert stage.link._now - began < 30


async def test_easier_text_is_heard_where_nothing_is_drafted(stage):
    """Without drafts there is no acceptance to rise: a loop at 0 used to stay there for good."""
    stage.link.model = {"survival": (0.01,) * 15}
    await stage.until(settled(stage))
    assert 0 == stage.link.length
    explored = stage.loop.mixture.allowance.explored_share
    await stage.ticks(60)
    assert 0 == stage.link.length
    assert stage.loop.mixture.allowance.explored_share < explored + 0.1

    stage.link.model = {}
    began = stage.link._now
    await stage.until(lambda: stage.loop.mixture.reopened > 0)
    await stage.until(settled(stage))

    assert "acceptance length rose" in stage.loop.mixture.moved
    assert stage.link.length in {2, 3, 4}
    assert stage.link._now - began < 60


async def test_a_load_that_was_never_seen_is_learned(stage):
    """A schedule for eight says nothing about two."""
    await stage.until(settled(stage))
    stage.link.batch = 2
    await stage.until(lambda: 1 in stage.loop.mixture.learner.races)

    assert {1, 3} <= set(stage.loop.mixture.learner.races)


async def test_throttled_visits_are_shown_but_not_used(stage):
    """A GPU that was slowed down says nothing about a draft length."""
    stage.reasons = ("hw_thermal_slowdown",)
    await stage.ticks(4)

    assert {"hw_thermal_slowdown"} == {each["invalid"] for each in stage.loop.visits}
    assert {} == stage.loop.mixture.learner.cells()


async def test_an_engine_without_steps_is_waited_out(stage):
    """Traffic that ends within a round: the schedule is put back, and learning goes on later."""
    await stage.ticks(2)
    stage.link.idle = True
    task = asyncio.create_task(stage.loop.run())
    for _ in range(20):
        await asyncio.sleep(0)
    stage.link.idle = False
    for _ in range(5000):
        if settled(stage)():
            break
        await asyncio.to_thread(time.sleep, 0.001)  # the loop reads in threads
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert settled(stage)()


async def test_an_engine_without_live_knobs_is_left_alone(stage):
    """A static engine has nothing to learn."""
    stage.slot.engine = engine(stage.link, LIVE.model_copy(update={"live": False}))
    await stage.ticks(3)

    assert [] == stage.link.puts
    assert "no live draft length" in stage.loop.sentence


async def test_caps_of_the_profile_stay_in_force_while_lengths_are_visited(stage):
    """A visit changes the draft length only: it used to lift max_active_seqs for its slice."""
    capped = LIVE.model_copy(update={"max_active_seqs": 4, "max_scheduled_tokens": 512})
    stage.slot.engine = engine(stage.link, capped)
    await stage.ticks(4)

    assert {(4, 512)} == {(wish.active, wish.budget) for wish in stage.link.puts}
    assert len({length_at(wish.lengths, 8) for wish in stage.link.puts}) > 3


async def test_what_cannot_be_written_down_ends_no_learning(stage):
    """On a full disk a schedule is not remembered; the loop goes on with the next tick."""
    ticks = []

    async def tick():
        ticks.append(1)
        if len(ticks) == 3:
            raise asyncio.CancelledError
        raise StoreError

    stage.loop._config = LiveConfig(interval_s=0.001)
    stage.loop._tick = tick
    with pytest.raises(asyncio.CancelledError):
        await stage.loop.run()

    assert 3 == len(ticks)
