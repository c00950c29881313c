"""The account of what is in force, written into a real store."""

import asyncio
from types import SimpleNamespace

import pytest

from profiles.classes import RequestClass
from profiles.errors import StoreError
from profiles.knobs import Knobs
from profiles.platform import fingerprint
from profiles.profile import Evidence, Origin, Profile, default_profile
from profiles.records import StayKind
from service import books
from service.archive import Archive
from service.books import LATE_S, SETTLE_S, Books
from service.policy import Decision
from service.traffic import Record
from tuner.config import Config, EngineConfig

HERE = fingerprint(vllm="0.32.0", model="org/m", model_revision=None, drafters={}, cpu="Xeon")
DEFAULT = default_profile(HERE.digest, Knobs())
FAST = Profile(
    knobs=Knobs(drafter="ngram", draft_length=3),
    platform=HERE.digest,
    workload="greedy.balanced.low",
    origin=Origin.SEARCH,
    evidence=Evidence(gain_low=0.25),
)
RESTART_S = 20.0


class Clock:
    """The time as the test wants it."""

    now = 1000.0

    def time(self):
        return self.now


class Observer:
    """Records that the test puts in."""

    def __init__(self):
        self.records = []

    def since(self, start, end):
        return [r for r in self.records if start <= r.at < end]

    def add(self, at, tokens, under):
        self.records.append(
            Record(
                at=at,
                application="web",
                request=RequestClass.parse("greedy.balanced"),
                outcome="ok",
                prompt_tokens=5,
                completion_tokens=tokens,
                output_bytes=0,
                ttft_s=0.1,
                duration_s=1.0,
                held_s=0.0,
                profile=under.id,
                plain=False,
            )
        )


class Desk:
    """Books with everything around them."""

    def __init__(self, archive, clock):
        self.archive, self.clock, self.observer = archive, clock, Observer()
        self.state = SimpleNamespace(in_force=DEFAULT, why="because", tuned_at=0.0, decision=None)
        parts = SimpleNamespace(
            archive=archive,
            observer=self.observer,
            slot=SimpleNamespace(eta_s=RESTART_S),
            config=Config(engine=EngineConfig(model="org/m")),
        )
        self.books = Books(parts, self.state)

    async def put(self, profile, *, live=False):
        await self.archive.call(self.archive.store.put_profile, profile)
        self.state.in_force = profile
        await self.books.opened(live=live)

    async def stays(self):
        return await self.archive.call(self.archive.store.in_force_history)


@pytest.fixture
async def desk(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(books, "time", clock)
    archive = await Archive.open(tmp_path / "tuner.sqlite3")
    await archive.call(archive.store.ensure_platform, HERE, at=1.0)
    yield Desk(archive, clock)
    await archive.close()


async def test_a_restart_costs_its_seconds_times_the_demand(desk):
    """The demand is that of the window before the engine was stopped; the boot is free."""
    await desk.put(DEFAULT)
    desk.clock.now = 1400.0
    for at in (1100, 1200, 1300):
        desk.observer.add(at, 1000, DEFAULT)
    desk.observer.add(1390, 500_000, DEFAULT)  # during the restart: not what was asked for before
    await desk.put(FAST)

    restart, boot = await desk.stays()
    assert (StayKind.AGAIN, None, 0.0) == (boot.kind, boot.restart_s, boot.lost_tokens)
    assert (StayKind.RESTART, RESTART_S) == (restart.kind, restart.restart_s)
    assert RESTART_S * 3000 / 300 == pytest.approx(restart.lost_tokens)


async def test_a_switch_is_entered_once_however_slow_the_store_is(desk):
    """The steward looked after the books while an entry was written, and wrote it once more."""
    await desk.put(DEFAULT)
    desk.state.in_force = FAST
    await asyncio.gather(desk.books.opened(live=False), desk.books.keep())

    assert [StayKind.RESTART, StayKind.AGAIN] == [each.kind for each in await desk.stays()]


async def test_what_was_served_goes_to_the_stay_that_ends(desk):
    """The last requests before a switch are not lost, and not given to the next profile."""
    await desk.put(FAST)
    desk.observer.add(1010, 1000, FAST)
    desk.clock.now = 1020.0
    await desk.put(DEFAULT)

    now, before = await desk.stays()
    assert (1000.0, 200.0) == pytest.approx((before.served_tokens, before.gained_tokens))
    assert 0.0 == now.served_tokens


async def test_every_request_is_entered_once(desk):
    """Entries are written now and then; a record may come a little later than it ended."""
    await desk.put(FAST)
    desk.observer.add(1001, 10, FAST)
    desk.clock.now += SETTLE_S
    await desk.books.keep()
    assert [0.0] == [each.served_tokens for each in await desk.stays()]
    desk.clock.now += LATE_S + 1
    await desk.books.keep()
    assert [10.0] == [each.served_tokens for each in await desk.stays()]
    desk.observer.add(desk.clock.now - 1, 5, FAST)
    await desk.books.keep()
    desk.clock.now += SETTLE_S + LATE_S
    await desk.books.keep()

    assert [15.0] == [each.served_tokens for each in await desk.stays()]


@pytest.mark.parametrize(("live", "kind"), [(True, StayKind.LIVE), (False, StayKind.TUNED)])
async def test_changes_without_a_restart_of_their_own_are_free(desk, live, kind):
    """A live change, and the engine that a search leaves behind."""
    await desk.put(DEFAULT)
    desk.observer.add(1100, 1000, DEFAULT)
    desk.clock.now = 1200.0
    desk.state.tuned_at = 0.0 if live else 1150.0
    await desk.put(FAST, live=live)

    stay = (await desk.stays())[0]
    assert (kind, None, 0.0) == (stay.kind, stay.restart_s, stay.lost_tokens)


async def test_an_avoided_switch_is_counted_and_said(desk):
    """Once, when the class has changed back before the restart was earned."""
    await desk.put(DEFAULT)
    waiting = Decision(profile=DEFAULT, why="code is 80 %; waiting", switch=False, wanted=FAST)
    for decision in (waiting, waiting, Decision(profile=DEFAULT, why="chat", switch=False)):
        desk.state.decision = decision
        await desk.books.keep()

    events = await desk.archive.call(desk.archive.store.events)
    assert [1] == [each.avoided for each in await desk.stays()]
    assert ["stayed with off: ngram k=3 was not worth a restart (code is 80 %; waiting)"] == [
        event.sentence for event in events
    ]


async def test_a_wish_that_came_true_was_not_avoided(desk):
    """The switch was made, however it came about."""
    await desk.put(DEFAULT)
    desk.state.decision = Decision(profile=DEFAULT, why="x", switch=False, wanted=FAST)
    await desk.books.keep()
    await desk.put(FAST)
    await desk.books.keep()
    desk.state.decision = Decision(profile=FAST, why="x", switch=False)
    await desk.books.keep()

    assert [0, 0] == [each.avoided for each in await desk.stays()]


async def test_a_switch_that_fails_was_not_avoided(desk):
    """It was decided and its engine did not start: that is another sentence in the history."""
    await desk.put(DEFAULT)
    decisions = [
        Decision(profile=DEFAULT, why="x", switch=False, wanted=FAST),
        Decision(profile=FAST, why="x", switch=True),
    ]
    for decision in decisions:
        desk.state.decision = decision
        await desk.books.keep()
    await desk.put(DEFAULT)
    desk.state.decision = Decision(profile=DEFAULT, why="x", switch=False)
    await desk.books.keep()

    assert [0, 0] == [each.avoided for each in await desk.stays()]


async def test_an_engine_that_is_started_again_is_no_switch(desk):
    """It died; the wish that was open stays open."""
    await desk.put(DEFAULT)
    desk.state.decision = Decision(profile=DEFAULT, why="x", switch=False, wanted=FAST)
    await desk.books.keep()
    desk.clock.now += 60
    await desk.put(DEFAULT)
    desk.state.decision = Decision(profile=DEFAULT, why="x", switch=False)
    await desk.books.keep()

    assert [(StayKind.AGAIN, 1), (StayKind.AGAIN, 0)] == [
        (each.kind, each.avoided) for each in await desk.stays()
    ]


async def test_before_the_first_engine_there_is_no_account(desk):
    """Nothing is written while nothing is in force."""
    desk.state.decision = Decision(profile=DEFAULT, why="x", switch=False, wanted=FAST)
    await desk.books.keep()

    assert [] == await desk.stays()


async def test_what_the_store_could_not_take_is_written_when_it_can(desk, monkeypatch):
    """A full disk when a profile was put in force: the store names it afterwards, once."""
    await desk.put(DEFAULT)
    store = desk.archive.store
    with monkeypatch.context() as full:

        def refuse(*_, **__):
            raise StoreError

        full.setattr(store, "put_profile", refuse)
        desk.state.in_force = FAST
        with pytest.raises(StoreError):
            await desk.books.opened(live=False)
        with pytest.raises(StoreError):
            await desk.books.keep()
        assert [DEFAULT.id] == [stay.profile for stay in await desk.stays()]
    for _ in range(2):
        await desk.books.keep()

    assert [FAST.id, DEFAULT.id] == [stay.profile for stay in await desk.stays()]
