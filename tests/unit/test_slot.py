"""The slot: the order of a replacement, the gate, and a gateway that comes and goes."""

import asyncio
import errno
import os
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from profiles.errors import UnavailableError
from profiles.knobs import Drafter, Knobs
from profiles.measurement import Failure, FailureKind
from service import card_memory
from service import slot as module
from service.card_memory import CardMemory
from service.engine import EngineStartError
from service.engine_record import EngineRecord
from service.engine_systemd import UnitKeeper
from service.slot import Slot
from tuner.config import Config, EngineConfig, GatewayConfig, LiveConfig
from tuner.gpu_reading import GpuProcess, GpuReading
from tuner.paths import Paths, UnitPlaces

DRAFTING = Knobs(drafter="ngram", draft_length=3)
PLAIN = Knobs()


class Gateway:
    """Remembers routes; can be away, hung or another one."""

    def __init__(self):
        self.said, self.pid, self.away, self.running = [], 1, False, 0
        self.known = None  # what this very process was told
        self.told = asyncio.Event()

    def _check(self):
        if self.away:
            raise UnavailableError("away")

    async def state(self):
        self._check()
        return {"pid": self.pid}

    async def route(self, *, gate, reason, engine, eta_s, ttl_s):
        self._check()
        token = None if engine is None else engine["token"]
        self.known = (gate, token, engine and engine["refuses_plain"])
        self.said.append((gate, token))
        self.wish = {"gate": gate, "reason": reason, "eta_s": eta_s, "ttl_s": ttl_s}
        self.told.set()
        return {"pid": self.pid}

    async def drain(self, deadline_s):
        self._check()
        self.said.append(("drain", deadline_s))
        return self.running

    async def cut(self):
        self.said.append(("cut", self.running))
        return self.running

    def restart(self):
        self.pid, self.known = self.pid + 1, None
        self.told.clear()


class Link:
    """Live knobs that are only remembered."""

    can_admit = True

    def __init__(self):
        self.puts = []

    def put(self, wish):
        self.puts.append(wish)


class Engine:
    """An engine without a process."""

    launched = 0
    slow_stop = None  # an event that a stop waits for
    error = None
    fault = None  # what the self-test of the live knobs finds

    def __init__(self, plan):
        Engine.launched += 1
        self.knobs, self.ended, self.stopped = plan.knobs, asyncio.Event(), 0
        self.record = EngineRecord(
            token=f"t{Engine.launched}",
            profile=plan.profile,
            purpose=plan.purpose,
            knobs=plan.knobs.canonical(),
            launch=plan.digest,
            socket="/s",
            log="/l",
            ready_s=4.0,
            live=plan.live is not None,
            live_fault=Engine.fault if plan.live is not None else None,
        )
        alive = plan.live is not None and Engine.fault is None
        self.link = Link() if alive else None

    @classmethod
    async def launch(cls, plan):
        if cls.error is not None:
            raise cls.error
        engine = cls(plan)
        cls.events.append(f"launch {plan.knobs.label()}")
        return engine

    async def stop(self, *, timeout_s):
        self.stopped += 1
        Engine.events.append(f"stop {self.knobs.label()}")
        if Engine.slow_stop is not None:
            await Engine.slow_stop.wait()
        self.ended.set()

    def on_death(self, callback):
        self.died = callback


@pytest.fixture
def gateway():
    return Gateway()


@pytest.fixture
def engines(monkeypatch, gateway):
    """Replace processes by doubles that share one list of events with the gateway."""
    Engine.events, Engine.launched = gateway.said, 0
    Engine.slow_stop = Engine.error = Engine.fault = None
    monkeypatch.setattr(module, "Engine", Engine)
    monkeypatch.setattr(module, "GATEWAY_RETRY_S", 0.001)
    return Engine


@pytest.fixture
def slot(tmp_path, gateway, engines):
    config = Config(
        engine=EngineConfig(model="org/m", args=("--seed", "1"), env={"A": "b"}),
        drafters=(Drafter(name="ngram", method="ngram"),),
        gateway=GatewayConfig(drain_s=7.0),
        state_dir=tmp_path,
    )
    return Slot(config, Paths.of(config), gateway)


async def serve(slot, knobs=PLAIN):
    return await slot.replace(knobs, profile="p", purpose="serve")


async def test_a_replacement_holds_drains_stops_and_starts(slot, gateway):
    """In this order, with the gate closed until somebody opens it."""
    await serve(slot)
    gateway.said.clear()
    drained = []
    await slot.replace(
        DRAFTING, profile="p", purpose="serve", drained=lambda: drained.append(len(gateway.said))
    )
    await slot.release()

    assert [
        ("hold", "t1"),
        ("drain", 7.0),
        "stop off",
        ("hold", None),
        "launch ngram k=3",
        ("open", "t2"),
    ] == gateway.said
    assert [2] == drained
    assert (2, 4.0) == (slot.restarts, slot.eta_s)


async def test_what_does_not_end_is_cut_at_the_deadline(slot, gateway):
    """A request that runs for ever does not keep the old engine alive."""
    await serve(slot)
    gateway.said.clear()
    gateway.running = 2
    await serve(slot, DRAFTING)

    assert ("cut", 2) == gateway.said[2]


async def test_nobody_waits_for_an_engine_that_is_dead(slot, gateway):
    """Its requests cannot finish: the drain is short."""
    engine = await serve(slot)
    engine.ended.set()
    gateway.said.clear()
    await slot.drain()

    assert [("drain", 0.5)] == gateway.said


async def test_a_failed_start_leaves_an_empty_slot_and_a_closed_gate(slot, gateway, engines):
    """Nothing is routed to what did not come up."""
    await serve(slot)
    failure = Failure(kind=FailureKind.BAD_FLAG, sentence="No.")
    engines.error = EngineStartError(failure, "t")
    with pytest.raises(EngineStartError):
        await serve(slot, DRAFTING)
    await slot.release()

    assert slot.engine is None
    assert ("hold", None) == gateway.said[-1]


async def test_a_stop_that_is_cut_off_keeps_its_engine(slot, gateway, engines):
    """The engine stays in the slot until it is gone, so that the next stop finds it."""
    engine = await serve(slot)
    engines.slow_stop = asyncio.Event()
    work = asyncio.create_task(serve(slot, DRAFTING))
    async with asyncio.timeout(30):
        while not engine.stopped:  # noqa: ASYNC110 - a double
            await asyncio.sleep(0)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    assert engine is slot.engine

    engines.slow_stop = None
    await slot.stop()

    assert (2, None) == (engine.stopped, slot.engine)


async def test_a_death_is_told_only_of_the_engine_in_the_slot(slot):
    """A late message of the engine before changes nothing."""
    deaths = []
    slot.on_death(lambda: deaths.append("died"))
    first = await serve(slot)
    second = await serve(slot, DRAFTING)

    first.died()
    assert [] == deaths
    second.died()
    assert ["died"] == deaths


async def test_only_our_own_speculation_refuses_plain_requests(slot, gateway):
    """The gateway holds min_p only where our profile is to blame for the 400."""
    for knobs, refuses in [(PLAIN, False), (DRAFTING, True)]:
        await serve(slot, knobs)
        await slot.release()

        assert refuses is gateway.known[2]


async def test_a_gateway_that_is_away_does_not_stop_a_replacement(slot, gateway):
    """Without a gateway there are no requests; it learns the route when it is back."""
    gateway.away = True
    engine = await serve(slot)
    await slot.release()
    assert engine is slot.engine
    assert gateway.known is None

    keeper = asyncio.create_task(slot.keep_route())
    gateway.away = False
    await asyncio.wait_for(gateway.told.wait(), 30)
    keeper.cancel()

    assert ("open", "t1", False) == gateway.known


async def test_a_restarted_gateway_learns_the_route(slot, gateway):
    """It begins with a closed gate and no engine, and nobody else would tell it."""
    await serve(slot, DRAFTING)
    await slot.release()
    keeper = asyncio.create_task(slot.keep_route())
    for _ in range(2):
        gateway.restart()
        await asyncio.wait_for(gateway.told.wait(), 30)

        assert ("open", "t1", True) == gateway.known
    keeper.cancel()
    count = len(gateway.said)
    await asyncio.sleep(0.02)
    assert count == len(gateway.said)


async def test_a_gateway_that_knows_is_not_told_again(slot, gateway):
    """The keeper of the route is silent as long as nothing changes."""
    await serve(slot)
    await slot.release()
    count = len(gateway.said)
    keeper = asyncio.create_task(slot.keep_route())
    await asyncio.sleep(0.05)
    keeper.cancel()

    assert count == len(gateway.said)


def test_a_plan_is_the_whole_command(slot):
    """Command, model, arguments, knobs; and a compile cache per draft length."""
    plain = slot.plan(PLAIN, profile="p", purpose="serve")
    drafting = slot.plan(DRAFTING, profile="p", purpose="serve")
    longer = slot.plan(Knobs(drafter="ngram", draft_length=4), profile="p", purpose="serve")

    ours = ("--scheduler-cls", "tuner_scheduler.TunedScheduler")
    assert ("--model", "org/m", "--seed", "1", *ours) == plain.command[-6:]
    assert ("--speculative-config", *ours) == (drafting.command[-4], *drafting.command[-2:])
    assert "b" == plain.env["A"]
    caches = {plan.env["VLLM_CACHE_ROOT"] for plan in (plain, drafting, longer)}
    assert 3 == len(caches)


def test_a_changed_configuration_is_another_launch(slot, tmp_path, gateway):
    """An engine is adopted only if it runs what would be started now."""
    same = slot.plan(PLAIN, profile="other", purpose="trial").digest
    changed = Config(engine=EngineConfig(model="org/m"), state_dir=tmp_path)
    other = Slot(changed, Paths.of(changed), gateway).plan(PLAIN, profile="p", purpose="serve")

    assert slot.plan(PLAIN, profile="p", purpose="serve").digest == same
    assert same != other.digest


async def test_the_engine_of_a_trial_may_stay(slot, tmp_path):
    """What is wanted next runs already: its record becomes that of a serving engine."""
    await slot.replace(DRAFTING, profile="trial", purpose="trial")
    assert slot.runs(DRAFTING)
    assert not slot.runs(PLAIN)
    slot.keep(profile="p")

    found = EngineRecord.read(Path(tmp_path) / "engine.json")
    assert ("serve", "p") == (found.purpose, found.profile)


LIVE = Knobs(drafter="ngram", draft_length=15, live=True)


def scheduled(k, **more):
    return LIVE.model_copy(update={"draft_schedule": ((1, 64, k),), **more})


async def test_live_knobs_are_applied_without_a_hold(slot, gateway, tmp_path):
    """Another schedule of the same engine: no restart, no closed gate, and the record knows."""
    engine = await slot.replace(scheduled(3), profile="a", purpose="serve")
    await slot.release()
    count = len(gateway.said)
    assert slot.reaches(scheduled(8, max_active_seqs=4))
    await slot.apply(scheduled(8, max_active_seqs=4), profile="b")

    assert [("open", engine.record.token)] == gateway.said[count:]
    (wish,) = engine.link.puts
    assert (((1, 64, 8),), 4) == (wish.lengths, wish.active)
    found = EngineRecord.read(Path(tmp_path) / "engine.json")
    assert ("b", scheduled(8, max_active_seqs=4).canonical()) == (found.profile, found.knobs)


async def test_what_needs_a_restart_is_not_reached(slot):
    """Another drafter, speculation off, a static engine, or a cap that this vLLM lacks."""
    assert not slot.reaches(scheduled(3))
    engine = await slot.replace(scheduled(3), profile="a", purpose="serve")
    static = Knobs(drafter="ngram", draft_length=15)
    assert [False, False] == [slot.reaches(PLAIN), slot.reaches(static)]
    with pytest.raises(UnavailableError, match="without a restart"):
        await slot.apply(PLAIN, profile="b")
    engine.link.can_admit = False
    assert [True, False] == [
        slot.reaches(scheduled(5)),
        slot.reaches(scheduled(3, max_active_seqs=2)),
    ]
    engine.ended.set()
    assert not slot.reaches(scheduled(3))


async def test_an_engine_whose_live_knobs_fail_is_started_again_without_them(slot, gateway):
    """A vLLM that does not do what our scheduler expects gets a static table, and restarts."""
    Engine.fault = "The engine's counters show no step with draft length 1."
    engine = await slot.replace(scheduled(3), profile="a", purpose="serve")

    assert ["launch", "stop", "launch"] == [
        said.split()[0] for said in gateway.said if isinstance(said, str)
    ]
    assert Engine.fault == slot.live_fault
    assert not engine.record.live
    plan = slot.plan(scheduled(3, max_active_seqs=4), profile="a", purpose="serve")
    assert plan.live is None
    assert "--scheduler-cls" not in plan.command
    assert "--max-num-active-seqs" in plan.command
    assert '"num_speculative_tokens_per_batch_size":[[1,64,3]]' in " ".join(plan.command)
    assert not slot.reaches(scheduled(8))


def test_live_profiles_of_one_engine_are_one_launch(slot):
    """An engine is adopted for whatever it can be without a restart."""
    digests = {
        slot.plan(knobs, profile="p", purpose="serve").digest
        for knobs in (LIVE, scheduled(3), scheduled(8, max_active_seqs=2))
    }

    assert 1 == len(digests)


def test_without_live_knobs_everything_is_in_the_command(tmp_path, gateway):
    """`live.enabled = false`: vLLM's own scheduler, and a start per knobs."""
    config = Config(
        engine=EngineConfig(model="org/m"),
        drafters=(Drafter(name="ngram", method="ngram"),),
        live=LiveConfig(enabled=False),
        state_dir=tmp_path,
    )
    slot = Slot(config, Paths.of(config), gateway)
    plan = slot.plan(scheduled(3, max_active_seqs=4), profile="p", purpose="serve")

    assert ("live.enabled is false", None) == (slot.live_fault, plan.live)
    assert "--scheduler-cls" not in plan.command
    assert "4" == plan.command[plan.command.index("--max-num-active-seqs") + 1]


async def test_a_hold_keeps_its_end_when_knobs_change_under_it(slot, gateway):
    """Once such a hold had no end: had tunerd died then, requests would have waited for ever."""
    await slot.replace(scheduled(3), profile="a", purpose="serve")
    await slot.hold("a measurement runs", eta_s=5.0)
    before = gateway.wish
    await slot.apply(scheduled(8), profile="b")

    assert "hold" == before["gate"]
    assert before["ttl_s"] > 5.0
    assert before == gateway.wish
    assert before is not gateway.wish  # it was told again, with the new profile


async def test_a_control_file_that_cannot_be_written_is_a_reason_to_restart(slot, gateway):
    """The disk is full: the caller hears that the change needs a restart, not an OSError."""
    engine = await slot.replace(scheduled(3), profile="a", purpose="serve")
    record, count = engine.record, len(gateway.said)

    def full(_):
        raise OSError(28, "No space left on device")

    engine.link.put = full
    with pytest.raises(UnavailableError, match="No space left on device"):
        await slot.apply(scheduled(8), profile="b")

    assert (record, count) == (engine.record, len(gateway.said))


async def test_a_failed_self_test_is_not_tried_again(slot, gateway):
    """Later starts are without our scheduler at once, also when it might work by now."""
    Engine.fault = "No."
    await slot.replace(scheduled(3), profile="a", purpose="serve")
    Engine.fault = None
    count = len(gateway.said)
    engine = await slot.replace(scheduled(8), profile="a", purpose="serve")

    launches = [said for said in gateway.said[count:] if str(said).startswith("launch")]
    assert 1 == len(launches)
    assert (False, None) == (engine.record.live, engine.link)


async def test_the_death_of_an_engine_that_was_started_again_is_told(slot):
    """It is the second one that serves, and the second one that is watched."""
    Engine.fault = "No."
    deaths = []
    slot.on_death(lambda: deaths.append("died"))
    engine = await slot.replace(scheduled(3), profile="a", purpose="serve")
    engine.died()

    assert ["died"] == deaths


async def test_whoever_leaves_opens_the_gate_to_what_stays(slot, gateway):
    """The engine outlives tunerd: it serves meanwhile, also when a measurement held the gate."""
    engine = await serve(slot)
    engine.client = Closed()
    await slot.hold("a measurement runs", eta_s=5.0)
    await slot.forget()

    assert ("open", "t1") == gateway.said[-1]
    assert (0, True) == (engine.stopped, engine.client.closed)


class Closed:
    """A client that only remembers that it was closed."""

    closed = False

    async def close(self):
        self.closed = True


def test_an_engine_in_a_unit_has_its_own_folders(slot, tmp_path, gateway):
    """And so another digest: changing the form is another engine."""
    places = UnitPlaces.below(tmp_path)
    keeper = UnitKeeper(places)
    unit = Slot(slot._config, Paths.of(slot._config), gateway, keeper)
    plan = unit.plan(PLAIN, profile="p", purpose="serve")

    assert (places.run, places.logs, keeper) == (plan.run, plan.logs, plan.keeper)
    assert plan.env["VLLM_CACHE_ROOT"].startswith(str(places.cache))
    assert plan.digest != slot.plan(PLAIN, profile="p", purpose="serve").digest


async def test_tunerd_does_not_touch_the_caches_of_a_unit(slot, tmp_path, gateway):
    """They belong to another user; its launcher shares what can be shared."""
    places = UnitPlaces.below(tmp_path / "root")
    unit = Slot(slot._config, Paths.of(slot._config), gateway, UnitKeeper(places))
    await serve(unit)

    assert not places.cache.exists()


async def test_old_logs_of_a_unit_are_forgotten_too(slot, tmp_path, gateway, monkeypatch):
    """They are not where those of a child are, and would fill the disk with every search."""
    folders = []
    monkeypatch.setattr(module, "forget_old", folders.append)
    places = UnitPlaces.below(tmp_path / "root")
    await serve(slot)
    await serve(Slot(slot._config, Paths.of(slot._config), gateway, UnitKeeper(places)))

    assert [Paths.of(slot._config).logs, places.logs] == folders


async def test_a_record_that_cannot_be_written_stops_no_engine_that_runs(
    slot, gateway, monkeypatch, caplog
):
    """On a full disk live knobs and the end of a trial go on; the record is only for adoption."""
    await serve(slot)
    monkeypatch.setattr(EngineRecord, "write", full)
    slot.keep(profile="kept")
    await slot.apply(PLAIN, profile="live")

    assert "live" == slot.engine.record.profile
    assert "the record of the engine cannot be written: No space left on device" in caplog.text


async def test_a_start_on_a_full_disk_is_a_sentence(slot, engines):
    """A file that an engine needs and cannot have is a start that failed, not a defect."""
    engines.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(UnavailableError) as caught:
        await serve(slot)

    assert "Cannot write what an engine needs: No space left on device." == caught.value.message
    assert slot.engine is None


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def held_card(*held_mib):
    """A card of 80 000 MiB on which strangers hold so much."""
    processes = tuple(
        GpuProcess(pid=pid, memory_mib=mib, busy=None) for pid, mib in enumerate(held_mib, 1)
    )
    return GpuReading(uuid="GPU-0", memory_total_mib=80_000.0, processes=processes)


@pytest.fixture
def card(slot, monkeypatch):
    """The one card of a slot; `card[0]` is its latest reading."""
    monkeypatch.setattr(card_memory, "WAIT_S", 0.05)
    monkeypatch.setattr(card_memory, "POLL_S", 0.001)
    readings = [held_card()]
    slot._cards = CardMemory(lambda: readings)
    return readings


async def test_no_engine_is_started_into_memory_that_others_hold(slot, gateway, card):
    """F14: vLLM would load for a minute and say the same; the holder is named, the knobs are not.

    A start failed with vLLM's words for it, which name nobody.
    """
    card[0] = held_card(60_000.0)
    with pytest.raises(EngineStartError, match="pid 1 holds 60000 MiB") as caught:
        await serve(slot)

    assert FailureKind.FOREIGN_MEMORY is caught.value.failure.kind
    assert not [event for event in gateway.said if str(event).startswith("launch")]
    assert "pid 1 holds 60000 MiB" in slot.lacking(PLAIN)


async def test_memory_that_comes_back_late_is_waited_for(slot, card, monkeypatch):
    """F3: the driver takes that of a killed engine back after its process is gone."""
    monkeypatch.setattr(card_memory, "WAIT_S", 60.0)
    card[0] = held_card(60_000.0)
    started = asyncio.create_task(serve(slot))
    await asyncio.sleep(0.02)
    assert not started.done()
    card[0] = held_card()

    assert (await started).knobs == PLAIN
    assert slot.lacking(DRAFTING) is None


async def test_the_memory_of_the_running_engine_counts_as_free(slot, card, monkeypatch):
    """It is the engine that would be given up; beside a stranger it is not enough."""
    engine = await serve(slot)
    pid, started_at = os.getpid(), psutil.Process().create_time()
    engine.record = replace(engine.record, pid=pid, started_at=started_at)
    own = GpuProcess(pid=pid, memory_mib=72_000.0, busy=None)
    card[0] = replace(card[0], processes=(own,))
    assert slot.lacking(DRAFTING) is None

    card[0] = replace(card[0], processes=(own, GpuProcess(pid=1, memory_mib=20_000.0, busy=None)))
    assert "pid 1 holds 20000 MiB" in slot.lacking(DRAFTING)
