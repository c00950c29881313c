"""The daemon's loop and its steward, with a real store and without processes."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from profiles.errors import (
    ConflictError,
    InvalidKnobsError,
    RestartError,
    TunerError,
    UnavailableError,
)
from profiles.knobs import Knobs
from profiles.measurement import Failure, FailureKind
from profiles.platform import fingerprint
from profiles.profile import Origin, Profile
from service.archive import Archive
from service.daemon import Daemon
from service.engine import EngineStartError
from service.modes import Event, Mode
from service.policy import Decision
from service.state import Parts
from service.table_sweep import SweepRequest
from service.traffic import summarise
from tuner.config import Config, EngineConfig, PolicyConfig
from tuner.gpu_reading import FaultCode, GpuFault

HERE = fingerprint(vllm="0.32.0", model="org/m", model_revision=None, drafters={}, cpu="Xeon")
OFF = Knobs()
BAD_FLAG = Failure(kind=FailureKind.BAD_FLAG, sentence="No such flag.")


def profile(length, platform=HERE.digest):
    return Profile(
        knobs=Knobs(drafter="ngram", draft_length=length),
        platform=platform,
        workload="greedy.balanced.single",
        origin=Origin.SEARCH,
    )


class Slot:
    """Engines that are only knobs."""

    eta_s = 0.001
    restarts = 0
    live_caps = True

    def __init__(self):
        self.engine, self.calls = None, []
        self.broken = set()  # draft lengths that do not start
        self.stop_error = None
        self.apply_error = None
        self.died = None

    def on_death(self, callback):
        self.died = callback

    live_fault = None
    room = SimpleNamespace(keep=lambda: None)
    start_failure = BAD_FLAG

    def lacking(self, knobs):
        return None

    def plan(self, knobs, *, profile, purpose):
        return SimpleNamespace(digest=knobs.digest())

    def reaches(self, knobs):
        """Only engines with live knobs can change without a restart."""
        running = self.engine
        return running is not None and knobs.live and running.knobs.cold() == knobs.cold()

    async def apply(self, knobs, *, profile):
        if self.apply_error is not None:
            raise self.apply_error
        self.calls.append(("apply", knobs.label()))
        self.engine = SimpleNamespace(**{**vars(self.engine), "knobs": knobs})

    async def adopt(self):
        return None

    async def replace(self, knobs, *, profile, purpose, drained):
        self.engine = None
        await asyncio.sleep(0)
        drained()
        if knobs.draft_tokens in self.broken:
            self.calls.append(f"failed {knobs.label()}")
            raise EngineStartError(self.start_failure, "t")
        self.calls.append(knobs.label())
        self.engine = SimpleNamespace(
            failure=lambda phase: Failure(kind="crash", sentence="Bang."), knobs=knobs
        )

    def runs(self, knobs):
        return False

    def keep(self, *, profile):
        self.calls.append("keep")

    async def release(self, reason=""):
        self.calls.append("open")

    async def hold(self, reason, *, eta_s):
        self.calls.append("hold")

    async def refuse(self, reason, *, eta_s):
        self.calls.append(f"refuse {reason}")

    async def stop(self):
        self.calls.append("stop")
        if self.stop_error is not None:
            raise self.stop_error

    async def forget(self):
        self.calls.append("forget")

    async def keep_route(self):
        await asyncio.Event().wait()


class Gateway:
    """A gateway that has nothing to say."""

    plain_waiting = 0

    async def state(self):
        return {"plain_waiting": self.plain_waiting, "last_request_at": None}


class Observer:
    """No traffic."""

    seen: dict = {}  # noqa: RUF012 - a double
    last_plain_at = None

    async def pump(self):
        await asyncio.Event().wait()

    def window(self):
        return summarise([], now=0.0, span_s=60.0)

    def since(self, *_):
        return []


class Lab:
    """A session that lasts until it is told to end."""

    fault = None  # of the GPU

    def __init__(self):
        self.end = asyncio.Event()
        self.error = None
        self.refused = None

    def refusal(self):
        return self.refused

    async def tune(self, *_, again=False):
        self.again = again
        await self.end.wait()
        if self.error is not None:
            raise self.error
        return {}


@pytest.fixture
async def daemon(tmp_path):
    """A daemon that runs; decisions are taken only when a test asks for one."""
    archive = await Archive.open(tmp_path / "tuner.sqlite3")
    config = Config(
        engine=EngineConfig(model="org/m"),
        policy=PolicyConfig(interval_s=3600.0, probation_s=0.001, plain_s=100.0),
    )
    made = Daemon(
        Parts(
            config=config,
            platform=HERE,
            archive=archive,
            gateway=Gateway(),
            slot=Slot(),
            observer=Observer(),
            lab=Lab(),
        )
    )
    made.work = asyncio.create_task(made.run())
    await becomes(made, Mode.PROBATION)
    made.post(Event.PROBATION_PASSED)
    await becomes(made, Mode.SERVING)
    yield made
    made.post(Event.STOP_WANTED)
    await asyncio.gather(made.work, return_exceptions=True)
    await archive.close()


async def becomes(daemon, mode, condition=lambda: True):
    async with asyncio.timeout(60):
        while daemon.state.mode is not mode or not condition():  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.002)


async def put(daemon, wanted):
    archive = daemon.parts.archive
    await archive.call(archive.store.put_profile, wanted)


async def use(daemon, wanted, then=Mode.SERVING):
    """Put a profile in force by hand and let it pass its probation."""
    await put(daemon, wanted)
    await daemon.steward.use(wanted.id)
    await becomes(daemon, Mode.PROBATION, lambda: daemon.state.in_force == wanted)
    if then is Mode.SERVING:
        daemon.post(Event.PROBATION_PASSED)
        await becomes(daemon, Mode.SERVING)


async def die(daemon, then=Mode.SERVING):
    starts = len(daemon.parts.slot.calls)
    daemon.parts.slot.died()
    await becomes(daemon, then, lambda: daemon.parts.slot.calls[starts:][-1:] == ["open"])


async def test_a_choice_comes_into_force(daemon):
    """Replaced, committed, remembered, and the gate open."""
    await use(daemon, profile(3))

    archive = daemon.parts.archive
    assert profile(3).id == (await archive.call(archive.store.in_force)).profile
    assert ["off", "open", "ngram k=3", "open"] == daemon.parts.slot.calls
    assert profile(3) == daemon.state.last_good


async def test_a_choice_that_does_not_start_gives_way_to_the_last_good_one(daemon):
    """The bad one is barred and forgotten, and the reason is in the history."""
    await use(daemon, profile(3))
    daemon.parts.slot.broken = {8}
    await put(daemon, profile(8))
    await daemon.steward.use(profile(8).id)
    calls = daemon.parts.slot.calls
    await becomes(daemon, Mode.SERVING, lambda: calls[-3:-1] == ["failed ngram k=8", "ngram k=3"])

    assert (profile(3), None) == (daemon.state.in_force, daemon.state.manual)
    archive = daemon.parts.archive
    assert {profile(8).knobs.digest()} == await archive.banned(HERE.digest)
    events = [e.sentence for e in await archive.call(archive.store.events)]
    assert "ngram k=8: No such flag." in events


async def test_a_profile_is_not_barred_for_memory_that_others_hold(daemon):
    """F14: the choice gives way, and may be made again; its knobs were not to blame.

    It was not used for an hour after a start into a GPU that another process had filled.
    """
    slot, archive = daemon.parts.slot, daemon.parts.archive
    slot.broken = {8}
    slot.start_failure = Failure(kind=FailureKind.FOREIGN_MEMORY, sentence="pid 1 holds it.")
    await put(daemon, profile(8))
    await daemon.steward.use(profile(8).id)
    await becomes(daemon, Mode.SERVING, lambda: "failed ngram k=8" in slot.calls)
    assert frozenset() == await archive.banned(HERE.digest)

    slot.broken = set()
    await use(daemon, profile(8), then=Mode.PROBATION)
    await die(daemon)  # and what it does now is its own doing
    assert {profile(8).knobs.digest()} == await archive.banned(HERE.digest)


async def test_a_rollback_that_fails_ends_with_the_default(daemon):
    """F27: neither the choice nor the last good profile starts: the default serves."""
    await use(daemon, profile(3))
    daemon.parts.slot.broken = {8, 3}
    await put(daemon, profile(8))
    await daemon.steward.use(profile(8).id)
    calls = daemon.parts.slot.calls
    await becomes(daemon, Mode.SERVING, lambda: calls[-2:] == ["off", "open"])

    assert ["failed ngram k=8", "failed ngram k=3"] == calls[-5:-3]
    assert calls[-3].startswith("refuse no engine starts (ngram k=3")
    assert (daemon.state.default, None) == (daemon.state.in_force, daemon.state.manual)


async def test_the_third_death_restores_the_default(daemon):
    """Two deaths restart the profile, the third one bars it; then the count begins anew."""
    await use(daemon, profile(3))
    await die(daemon)
    await die(daemon)
    assert profile(3) == daemon.state.in_force
    await die(daemon)
    assert daemon.state.default == daemon.state.in_force

    await use(daemon, profile(5))
    await die(daemon)

    assert profile(5) == daemon.state.in_force


async def test_deaths_of_trials_do_not_count(daemon):
    """A session may kill as many engines as it likes."""
    await use(daemon, profile(3))
    await daemon.steward.tune(["greedy.balanced.single"], by_hand=True)
    await becomes(daemon, Mode.TUNING)
    for _ in range(5):
        daemon.parts.slot.died()

    assert [] == list(daemon.state.deaths.recent)
    daemon.parts.lab.end.set()
    await becomes(daemon, Mode.PROBATION)


async def test_a_death_in_probation_bars_the_profile(daemon):
    """It has not proved itself yet: the last good one comes back at once."""
    await use(daemon, profile(3))
    await use(daemon, profile(8), then=Mode.PROBATION)
    await die(daemon)

    assert profile(3) == daemon.state.in_force
    assert profile(8).knobs.digest() in await daemon.parts.archive.banned(HERE.digest)


async def test_a_wish_outlives_the_failure_of_another_profile(daemon):
    """What the operator chose meanwhile is not thrown away with what failed."""
    await use(daemon, profile(8), then=Mode.PROBATION)
    daemon.state.manual = profile(3)
    await die(daemon)

    assert profile(3) == daemon.state.manual


async def test_nothing_starts_until_something_does(daemon):
    """Degraded: a choice is tried at once instead of waiting for the next retry."""
    daemon.parts.slot.broken = {0}
    daemon.parts.slot.died()
    await becomes(daemon, Mode.DEGRADED)
    await use(daemon, profile(3))

    assert profile(3) == daemon.state.in_force


async def test_a_session_that_cannot_begin_gives_the_engine_back(daemon):
    """The reason is said, and the daemon serves on."""
    daemon.parts.lab.error = UnavailableError("No vLLM.")
    daemon.parts.lab.end.set()
    await daemon.steward.tune(["greedy.balanced.single"], by_hand=True)
    await becomes(daemon, Mode.PROBATION)

    archive = daemon.parts.archive
    events = [e.sentence for e in await archive.call(archive.store.events)]
    assert "cannot tune: No vLLM." in events


async def test_a_stopped_session_ends(daemon):
    """`tuner tune --stop`: the engine goes back to the profile that should serve."""
    await daemon.steward.tune(["greedy.balanced.single"], by_hand=True)
    await becomes(daemon, Mode.TUNING)
    assert "rows are kept" in await daemon.stop_tuning()
    await becomes(daemon, Mode.PROBATION)

    with pytest.raises(ConflictError, match="Nothing is being tuned"):
        await daemon.stop_tuning()


async def test_a_defect_ends_the_daemon_but_not_the_engine(daemon):
    """A task that dies is a crash: exit status 70, and the engine waits for the next daemon."""
    daemon.parts.lab.error = ValueError("a defect")
    daemon.parts.lab.end.set()
    await daemon.steward.tune(["greedy.balanced.single"], by_hand=True)

    with pytest.raises(TunerError, match="'tuning' died") as caught:
        await asyncio.wait_for(asyncio.shield(daemon.work), 60)
    assert 70 == caught.value.exit_code
    assert "forget" == daemon.parts.slot.calls[-1]
    assert "stop" not in daemon.parts.slot.calls


async def test_a_start_that_fails_under_a_changed_configuration_ends_the_daemon(daemon, caplog):
    """An engine's launcher obeys the file on disk: the next daemon reads it, and starts engines.

    It once left a traceback and exit status 70, as a defect does.
    """

    def changed():
        raise RestartError("tuner.toml has changed.")

    daemon.parts.check_config = changed
    daemon.parts.slot.broken = {8}
    daemon.state.target = profile(8)
    daemon.post(Event.SWITCH_WANTED)

    with pytest.raises(RestartError, match="has changed") as caught:
        await asyncio.wait_for(asyncio.shield(daemon.work), 60)
    assert 69 == caught.value.exit_code
    assert "forget" == daemon.parts.slot.calls[-1]
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_stop_that_fails_is_still_the_end(daemon):
    """Whatever goes wrong while stopping, the daemon ends."""
    daemon.parts.slot.stop_error = UnavailableError("away")
    daemon.post(Event.STOP_WANTED)

    await asyncio.wait_for(asyncio.shield(daemon.work), 60)
    assert Mode.STOPPING is daemon.state.mode


async def test_a_class_that_is_none_is_refused(daemon):
    """A misspelt class ends in a sentence, not in a session."""
    with pytest.raises(InvalidKnobsError, match="'greedy' is not a workload class"):
        await daemon.steward.tune(["greedy"], by_hand=True)

    assert Mode.SERVING is daemon.state.mode


async def test_without_traffic_there_is_nothing_to_tune(daemon):
    """No class is named and none was seen."""
    with pytest.raises(ConflictError, match="No traffic was seen yet"):
        await daemon.steward.tune([], by_hand=True)


async def test_a_decision_that_was_overtaken_changes_nothing(daemon):
    """The target belongs to a running replacement, whatever the facts said before it began."""
    target = daemon.state.target
    daemon.state.manual = profile(3)
    original = daemon.steward.facts

    async def slow():
        facts = await original()
        daemon.state.mode = Mode.SWITCHING
        return facts

    daemon.steward.facts = slow
    await daemon.steward.consider()

    assert target == daemon.state.target
    daemon.state.mode = Mode.SERVING


async def test_a_barred_profile_does_not_come_back_through_a_pin(daemon):
    """Quarantine holds for pins as well; the pin itself stays."""
    await put(daemon, profile(3))
    archive = daemon.parts.archive
    await archive.call(archive.store.set_pin, "a", profile(3).id, platform=HERE.digest, at=1.0)
    assert {"a": profile(3)} == dict((await daemon.steward.facts()).pins)

    await archive.call(
        archive.store.quarantine,
        profile(3).knobs,
        platform=HERE.digest,
        reason="it died",
        at=1.0,
        until=None,
    )

    assert {} == (await daemon.steward.facts()).pins
    assert {"a": profile(3)} == await archive.pins(HERE.digest)


async def test_a_waiting_plain_request_is_remembered(daemon):
    """Between its release and its record speculation must not come back."""
    daemon.parts.gateway.plain_waiting = 1
    waiting = await daemon.steward.facts()
    daemon.parts.gateway.plain_waiting = 0
    after = await daemon.steward.facts()

    assert waiting.now == pytest.approx(after.last_plain_at, abs=5)

    daemon.parts.gateway.plain_waiting = 1
    daemon.state.mode = Mode.SWITCHING
    await daemon.steward.consider()
    daemon.state.mode = Mode.SERVING
    daemon.parts.gateway.plain_waiting = 0

    assert (await daemon.steward.facts()).last_plain_at > after.last_plain_at


def scheduled(k):
    knobs = Knobs(drafter="ngram", draft_length=15, live=True, draft_schedule=((1, 64, k),))
    return profile(3).model_copy(update={"knobs": knobs})


async def test_live_knobs_come_into_force_without_a_restart(daemon):
    """A second schedule of the same engine is applied; the gate is not touched."""
    await use(daemon, scheduled(3))
    slot, archive = daemon.parts.slot, daemon.parts.archive
    count, mode = len(slot.calls), daemon.state.mode
    await put(daemon, scheduled(8))
    await daemon.steward.use(scheduled(8).id)
    await becomes(daemon, mode, lambda: daemon.state.in_force == scheduled(8))
    async with asyncio.timeout(5):
        while (await archive.call(archive.store.in_force)).profile != scheduled(8).id:  # noqa: ASYNC110
            await asyncio.sleep(0.002)

    assert [("apply", "ngram k=8")] == slot.calls[count:]


async def test_live_knobs_that_cannot_be_applied_are_restarted_into(daemon):
    """The engine was lost between the decision and its application."""
    await use(daemon, scheduled(3))
    slot = daemon.parts.slot
    slot.apply_error = UnavailableError("gone")
    count = len(slot.calls)
    await put(daemon, scheduled(8))
    await daemon.steward.use(scheduled(8).id)
    await becomes(daemon, Mode.PROBATION, lambda: slot.calls[-1] == "open")

    assert ["ngram k=8", "open"] == slot.calls[count:]


async def test_nothing_is_learned_over_a_choice(daemon):
    """The live loop rests while the operator has chosen, and goes on with `auto`."""
    assert daemon.steward.may_learn() is None
    await use(daemon, scheduled(3))
    await daemon.steward.consider()
    assert "chosen by hand" in daemon.steward.may_learn()
    await daemon.steward.use("auto")
    await daemon.steward.consider()

    assert daemon.steward.may_learn() is None or "while" in daemon.steward.may_learn()


async def test_the_engine_of_a_session_is_kept_when_it_reaches_the_target(daemon):
    """The last trial left an engine that can be the wanted one at its next step."""
    await put(daemon, scheduled(8))
    slot = daemon.parts.slot
    await use(daemon, scheduled(3))
    await daemon.steward.tune(["greedy.balanced.single"], by_hand=True)
    await becomes(daemon, Mode.TUNING)
    daemon.state.manual = scheduled(8)
    count = len(slot.calls)
    daemon.parts.lab.end.set()
    await becomes(daemon, Mode.PROBATION, lambda: slot.calls[-1] == "open")

    assert [("apply", "ngram k=8"), "keep", "open"] == slot.calls[count:]
    assert scheduled(8) == daemon.state.in_force


async def test_an_engine_that_goes_while_it_is_kept_is_replaced(daemon):
    """Once this ended the daemon: nobody expected that what is reached cannot be applied."""
    await put(daemon, scheduled(8))
    slot = daemon.parts.slot
    await use(daemon, scheduled(3))
    await daemon.steward.tune(["greedy.balanced.single"], by_hand=True)
    await becomes(daemon, Mode.TUNING)
    daemon.state.manual = scheduled(8)
    slot.apply_error = UnavailableError("gone")
    count = len(slot.calls)
    daemon.parts.lab.end.set()
    await becomes(daemon, Mode.PROBATION, lambda: slot.calls[-1] == "open")

    assert ["ngram k=8", "open"] == slot.calls[count:]


async def test_a_live_change_is_said_and_earns_nothing(daemon):
    """It is in the history, and not a switch that dwell and hourly limit count."""
    await use(daemon, scheduled(3))
    await put(daemon, scheduled(8))
    switches = daemon.state.ledger.switched_at
    await daemon.steward.use(scheduled(8).id)
    await becomes(daemon, Mode.SERVING, lambda: daemon.state.in_force == scheduled(8))

    archive = daemon.parts.archive
    async with asyncio.timeout(5):
        while not (  # noqa: ASYNC110 - no event for it
            said := [e for e in await archive.call(archive.store.events) if e.kind == "live"]
        ):
            await asyncio.sleep(0.002)
    assert ["ngram k=8 is in force, live: the operator chose it (`tuner use`)"] == [
        e.sentence for e in said
    ]
    assert switches == daemon.state.ledger.switched_at


async def bar(daemon, wanted):
    archive = daemon.parts.archive
    await archive.call(
        archive.store.quarantine,
        wanted.knobs,
        platform=HERE.digest,
        reason="it died",
        at=1.0,
        until=None,
    )


async def test_a_barred_profile_cannot_be_chosen_by_hand(daemon):
    """`tuner use` would bring back what has just done harm; the default always may be chosen."""
    await put(daemon, profile(3))
    await bar(daemon, profile(3))

    with pytest.raises(ConflictError, match="is in quarantine") as caught:
        await daemon.steward.use(profile(3).id)
    assert 1 == caught.value.exit_code
    assert daemon.state.manual is None
    await daemon.steward.use("default")
    assert daemon.state.default == daemon.state.manual


async def test_a_session_without_the_sensor_for_its_objective_is_refused(daemon):
    """Before the engine is touched, with the reason; and an idle daemon does not try it."""
    daemon.parts.lab.refused = "this machine has no energy counter"

    with pytest.raises(ConflictError, match="Cannot tune: this machine has no energy counter"):
        await daemon.steward.tune(["greedy.balanced.single"], by_hand=True)
    assert Mode.SERVING is daemon.state.mode

    facts = await daemon.steward.facts()
    daemon.state.since = daemon.state.tuned_at = 0.0
    daemon.parts.observer.seen = {"greedy.balanced.single": None}
    assert not daemon.steward._idle(facts)
    daemon.parts.lab.refused = None
    assert daemon.steward._idle(facts)


LOST = GpuFault.of(FaultCode.GPU_LOST, "GPU-1")
MIG = GpuFault.of(FaultCode.MIG, "GPU-1")


async def sentences(daemon):
    archive = daemon.parts.archive
    return [event.sentence for event in await archive.call(archive.store.events)]


async def test_a_machine_that_cannot_be_measured_tunes_nothing(daemon):
    """Neither by hand nor live; one line says why, once, and another that it is over."""
    daemon.parts.lab.fault = MIG
    with pytest.raises(ConflictError, match="Tuning is paused: GPU-1 is split by MIG"):
        await daemon.steward.tune(["greedy.balanced.single"], by_hand=True)
    with pytest.raises(ConflictError, match="Tuning is paused"):
        daemon.steward.sweep(SweepRequest(drafter="ngram"))
    await daemon.steward.consider()
    await daemon.steward.consider()
    refused = daemon.steward.may_learn()
    daemon.parts.lab.fault = None
    await daemon.steward.consider()

    said = await sentences(daemon)
    assert MIG.sentence == refused
    assert 1 == said.count(f"tuning is paused, serving goes on: {MIG.sentence}")
    assert 1 == said.count("the GPU can be measured again; tuning may go on")
    assert Mode.SERVING is daemon.state.mode


async def test_a_fault_ends_a_session_that_runs(daemon):
    """The session ends with its rows kept, and the engine serves on."""
    await daemon.steward.tune(["greedy.balanced.single"], by_hand=True)
    await becomes(daemon, Mode.TUNING)
    daemon.parts.lab.fault = MIG
    assert MIG.sentence == await daemon.steward.paused()
    await daemon.steward.consider()
    await becomes(daemon, Mode.PROBATION)

    assert "tuning was stopped; its rows are kept" in await sentences(daemon)


async def test_a_session_that_ends_without_a_driver_leaves_its_engine(daemon):
    """A lost driver can start no engine, so the one of the trial goes on serving."""
    slot = daemon.parts.slot
    slot.runs = lambda knobs: slot.engine is not None and slot.engine.knobs == knobs
    await daemon.steward.tune(["greedy.balanced.single"], by_hand=True)
    await becomes(daemon, Mode.TUNING)
    slot.engine = SimpleNamespace(**{**vars(slot.engine), "knobs": profile(8).knobs})
    daemon.parts.lab.fault = LOST
    starts = len(slot.calls)
    await daemon.steward.consider()
    await becomes(daemon, Mode.PROBATION, lambda: slot.calls[-1:] == ["open"])

    assert ["keep", "open"] == slot.calls[starts:]
    assert profile(8).knobs == daemon.state.in_force.knobs
    assert "no other engine could be started: GPU-1 is lost" in daemon.state.why


@pytest.mark.parametrize(("fault", "restarts"), [(LOST, False), (MIG, True), (None, True)])
async def test_no_engine_is_restarted_that_could_not_start_again(daemon, fault, restarts):
    """A switch of the policy waits for the driver; with MIG engines start as ever."""
    wish = Decision(profile=profile(8), why="it is faster", switch=True)
    daemon.parts.lab.fault = fault
    facts = await daemon.steward.facts()
    found = daemon.steward._spared(wish, facts)

    assert restarts == found.switch
    assert restarts or found.why.startswith("it is faster; waiting: GPU-1 is lost")
    assert daemon.steward._spared(wish, replace(facts, manual=profile(8))).switch


async def test_no_engine_is_given_up_on_a_full_disk(daemon, monkeypatch):
    """F41: a switch of the policy ended the engine that served, and none could be started.

    Nor is a search begun or gone on with; what a live change can have needs no disk.
    """
    monkeypatch.setattr(daemon.parts.slot, "lacking", lambda knobs: "/state has 0 MiB free")
    wish = Decision(profile=profile(8), why="it is faster", switch=True)
    facts = await daemon.steward.facts()
    found = daemon.steward._spared(wish, facts)

    assert (False, facts.in_force) == (found.switch, found.profile)
    assert "it is faster; waiting: /state has 0 MiB free" == found.why
    assert daemon.steward._spared(replace(wish, live=True), facts).switch
    assert not daemon.steward._spared(wish, replace(facts, manual=profile(8))).switch
    assert "/state has 0 MiB free" == await daemon.steward.paused()
    with pytest.raises(ConflictError, match="paused: /state has 0 MiB free"):
        await daemon.steward.tune(["greedy.balanced.single"], by_hand=True)
    with pytest.raises(ConflictError, match="paused: /state has 0 MiB free"):
        daemon.steward.sweep(SweepRequest())


async def test_what_a_session_has_left_keeps_its_name(daemon, monkeypatch):
    """F41: a promoted profile that ran on became an anonymous one, without class and gain."""
    await use(daemon, profile(3))
    slot, state = daemon.parts.slot, daemon.state
    monkeypatch.setattr(slot, "lacking", lambda knobs: "/state has 0 MiB free")
    monkeypatch.setattr(slot, "runs", lambda knobs: True)
    kept, why = await daemon.steward.best_now()
    monkeypatch.setattr(slot, "engine", SimpleNamespace(knobs=profile(8).knobs))
    left, said = await daemon.steward.best_now()

    assert (state.in_force, state.why) == (kept, why)
    assert (profile(8).knobs, "any") == (left.knobs, left.workload)
    assert said == "it runs, and no other engine could be started: /state has 0 MiB free"


async def test_a_profile_that_has_aged_is_promoted_again_when_there_is_time(daemon):
    """No search: only the comparison with the default is repeated, once the traffic has ended."""
    state, steward = daemon.state, daemon.steward
    state.in_force = profile(3)
    state.stale.add("greedy.balanced.single")
    daemon.parts.observer.seen = {"greedy.balanced.single": None}
    await daemon.parts.archive.promote(profile(3), kept_default=False)
    state.since = state.tuned_at = 0.0
    await steward.consider()
    await becomes(daemon, Mode.TUNING, lambda: hasattr(daemon.parts.lab, "again"))

    assert ("greedy.balanced.single",) == state.tuning
    assert daemon.parts.lab.again
    assert not state.tuned_by_hand
    daemon.parts.lab.end.set()
    await becomes(daemon, Mode.PROBATION)
    assert {"greedy.balanced.single"} == state.stale  # it was paused: no verdict came


async def test_a_default_that_dies_again_is_left_alone_for_a_while(daemon):
    """F7: the first death is followed by a start at once, the second by a pause, and it is said."""
    await die(daemon)
    daemon.parts.slot.died()
    await becomes(daemon, Mode.DEGRADED)
    await becomes(daemon, Mode.DEGRADED, lambda: "refuse" in daemon.parts.slot.calls[-1])

    assert "died 2 times in a row (Bang.); the next try is in 1 s" in daemon.state.sentence
    assert "died 2 times in a row" in daemon.parts.slot.calls[-1]
    daemon.post(Event.RETRY_DUE)
    await becomes(daemon, Mode.SERVING)
    assert (2, 1.0) == (daemon.state.deaths.failures, daemon.state.deaths.pause_s)


async def test_the_choice_of_a_default_that_dies_does_not_undo_the_pause(daemon):
    """`tuner use default` stands behind it: the choice ends with its failure."""
    await daemon.steward.use("default")
    await die(daemon)
    daemon.parts.slot.died()
    await becomes(daemon, Mode.DEGRADED, lambda: "next try" in daemon.state.sentence)
    await daemon.steward.consider()

    assert (None, Mode.DEGRADED) == (daemon.state.manual, daemon.state.mode)


@pytest.mark.parametrize("choice", ["auto", "default"])
async def test_a_command_does_not_wait_for_the_pause(daemon, choice):
    """Whoever asks for an engine gets a try now."""
    await die(daemon)
    daemon.parts.slot.died()
    await becomes(daemon, Mode.DEGRADED, lambda: "next try" in daemon.state.sentence)
    daemon.state.deaths.failures = 30
    await daemon.steward.use(choice)

    await becomes(daemon, Mode.SERVING if choice == "auto" else Mode.PROBATION)
