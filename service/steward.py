"""The steward: looks at traffic and store, decides, and asks the daemon for what is wanted."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from profiles.classes import check
from profiles.errors import ConflictError, TunerError
from profiles.profile import Profile, left_profile
from service.aging import Age, older, stale
from service.books import Books
from service.holds import allowed
from service.modes import Event, Mode, accepts
from service.policy import MANUAL_WHY, Decision, Facts, decide, wanted
from service.probation import Trial, promised, regression
from service.state import Parts, State
from service.table_sweep import SweepRequest
from tuner.gpu_reading import NO_START, FaultCode

log = logging.getLogger(__name__)


class Steward:
    """Turns observations and the operator's wishes into events; never touches an engine."""

    def __init__(
        self,
        parts: Parts,
        state: State,
        *,
        post: Callable[[Event], None],
        say: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self.parts = parts
        self.state = state
        self._post = post
        self._say = say
        self._plain_seen_at: float | None = None
        self._fault: FaultCode | None = None  # why tuning pauses, as it was last said
        self._age = Age()  # of the profile in force
        self.books = Books(parts, state)

    async def watch(self) -> None:
        """Decide once per interval until cancelled."""
        while True:
            await asyncio.sleep(self.parts.config.policy.interval_s)
            await asyncio.to_thread(self.parts.slot.room.keep)
            try:
                await self.consider()
                await self.books.keep()
            except TunerError as error:
                log.warning("cannot decide: %s", error.sentence())

    async def consider(self) -> None:
        """Decide what should be in force now, and ask for it."""
        state, policy = self.state, self.parts.config.policy
        await self._watch_sensors()
        if state.mode is Mode.PROBATION and await self._judge():
            return
        if state.mode not in {Mode.SERVING, Mode.PROBATION, Mode.TUNING, Mode.DEGRADED}:
            if state.mode is not Mode.BOOT:
                await self._plain_waiting()  # it is what a switch may be for
            return
        facts = await self.facts()
        if state.mode is Mode.DEGRADED and facts.manual is not None:
            state.target, state.target_why = facts.manual, MANUAL_WHY
            self._post(Event.SWITCH_WANTED)
            return
        if state.mode not in {Mode.SERVING, Mode.PROBATION, Mode.TUNING}:
            return  # it changed while the facts were gathered: the target is not ours any more
        decision, ledger = decide(facts, state.ledger, policy)
        if state.mode is Mode.TUNING:
            asked = facts.manual is not None or facts.held
            if facts.plain_waiting > 0 or (decision.switch and asked):
                self._post(Event.SWITCH_WANTED)
            return
        decision = self._spared(decision, facts)
        state.ledger, state.decision, state.sentence = ledger, decision, decision.why
        if decision.switch:
            state.target, state.target_why = decision.profile, decision.why
            self._post(Event.LIVE_WANTED if decision.live else Event.SWITCH_WANTED)
            return
        await self._grow_old(facts)
        if self._idle(facts):
            again = self._all_decided(facts)
            await self.tune(sorted(state.stale) if again else (), by_hand=False)
            state.again = again

    async def _grow_old(self, facts: Facts) -> None:
        """Notice when the profile in force has become slower, or faster, than it was."""
        profile, policy = facts.in_force, self.parts.config.policy
        if self.state.mode is not Mode.SERVING:  # on probation it is judged by itself
            return
        self._age = older(self._age, facts, min_requests=policy.min_requests)
        sentence = stale(self._age, profile.evidence)
        if sentence is None:
            return
        self._age = Age()
        self.state.stale.add(profile.workload)
        said = f"{profile.workload}: {sentence}; its promotion is repeated when there is time"
        await self._say("stale", said)

    async def _watch_sensors(self) -> None:
        """Say once that tuning pauses, end a session that runs, and say when it may go on."""
        fault = self.parts.lab.fault
        code = None if fault is None else fault.code
        if code is self._fault:
            return
        self._fault = code
        if fault is None:
            await self._say("sensors", "the GPU can be measured again; tuning may go on")
            return
        await self._say("sensors", f"tuning is paused, serving goes on: {fault.sentence}")
        if self.state.mode is Mode.TUNING:
            self._post(Event.SWITCH_WANTED)  # its rows are kept; the next session goes on

    def _spared(self, decision: Decision, facts: Facts) -> Decision:
        """The decision, without a restart that would be an outage: a broken driver, a full disk."""
        if not decision.switch or decision.live:
            return decision
        fault = self._no_start(decision.profile, by_hand=facts.manual is not None)
        if fault is None:
            return decision
        why = f"{decision.why}; waiting: {fault}"
        return replace(decision, profile=facts.in_force, switch=False, why=why)

    def _no_start(self, profile: Profile, *, by_hand: bool = False) -> str | None:
        """Why this could not be started now, as words; the operator may know more of a driver."""
        fault = self.parts.lab.fault
        if fault is not None and fault.code in NO_START and not by_hand:
            return fault.sentence
        return self.parts.slot.lacking(profile.knobs)

    async def best_now(self) -> tuple[Profile, str]:
        """What should serve after a session, whatever a restart costs, and why.

        Where no engine can be started it is the one that the session has left.
        """
        facts, engine = await self.facts(), self.parts.slot.engine
        profile, why, _ = wanted(facts, self.parts.config.policy)
        fault = self._no_start(profile)
        if fault is not None and engine is not None and self.parts.slot.runs(engine.knobs):
            if engine.knobs == facts.in_force.knobs:
                return facts.in_force, self.state.why
            why = f"it runs, and no other engine could be started: {fault}"
            return left_profile(self.parts.platform.digest, engine.knobs, why), why
        return profile, why

    def _idle(self, facts: Facts) -> bool:
        """Whether an automatic session may begin: traffic was seen, has a class, and has ended."""
        tuning, state = self.parts.config.tuning, self.state
        if (
            any(self.parts.holds)
            or tuning.auto != "idle"
            or state.mode is not Mode.SERVING
            or not self.parts.observer.seen
            or self._unfit() is not None
        ):
            return False
        if self._all_decided(facts) and not state.stale:
            return False
        if self.parts.lab.refusal() is not None:
            return False
        recent = self.parts.observer.since(facts.now - tuning.idle_s)
        return not recent and facts.now - max(state.tuned_at, state.since) > tuning.idle_s

    def _all_decided(self, facts: Facts) -> bool:
        return all(workload in facts.promoted for workload in self.parts.observer.seen)

    async def _judge(self) -> bool:
        state, policy, observer = self.state, self.parts.config.policy, self.parts.observer
        start = state.switched_at
        before = observer.since(start - policy.window_s, start)
        trial = Trial(before=before, after=observer.since(start), promised=promised(state.in_force))
        fault = regression(trial)
        if fault is not None:
            state.sentence = fault
            await self._say("regressed", fault)
            self._post(Event.REGRESSED)
            return True
        if time.time() - start > policy.probation_s:
            self._post(Event.PROBATION_PASSED)
        return False

    async def facts(self) -> Facts:
        """Everything that a decision may look at."""
        archive, observer = self.parts.archive, self.parts.observer
        digest = self.parts.platform.digest
        plain_waiting = await self._plain_waiting()
        seen = [at for at in (self._plain_seen_at, observer.last_plain_at) if at is not None]
        banned = await archive.banned(digest)
        pins, held = await archive.pins(digest), self.parts.holds.profiles()
        return Facts(
            now=time.time(),
            window=observer.window(),
            in_force=self.state.in_force,
            default=self.state.default,
            promoted=await archive.promoted(digest),
            pins=allowed({**pins, **held}, banned),  # a hold is the newer wish
            held=allowed(held, banned),
            manual=self.state.manual,
            plain_waiting=plain_waiting,
            last_plain_at=max(seen, default=None),
            restart_s=self.parts.slot.eta_s,
            live=self.parts.slot.reaches(self.state.in_force.knobs),
            live_caps=self.parts.slot.live_caps,
        )

    def may_learn(self) -> str | None:
        """Why the live loop must not change knobs now; None when it may."""
        state = self.state
        if not self.parts.config.live.learn:
            return "live.learn is false"
        fault = self.parts.lab.fault
        if fault is not None:
            return fault.sentence
        if state.mode not in {Mode.SERVING, Mode.PROBATION}:
            return f"nothing is learned live while {state.mode}"
        if state.decision is not None and state.decision.fixed:
            return "a profile is pinned or was chosen by hand"
        return None

    async def _plain_waiting(self) -> int:
        """Requests that wait for a plain engine; their records come only once they are answered."""
        waiting = int((await self.parts.gateway.state())["plain_waiting"])
        if waiting:
            self._plain_seen_at = time.time()
        return waiting

    async def use(self, choice: str) -> str:
        """Put a profile in force by hand, or hand the choice back with `auto`.

        Raises:
            TunerError: as for `chosen`.
        """
        if choice == "auto":
            self.state.manual = None
            self.retry()
            return "the policy decides again"
        profile = await self.chosen(choice)
        self.state.manual = profile
        self.parts.holds.clear(f"the operator chose {choice}")
        await self.consider()
        return f"{profile.knobs.label()} will be in force"

    async def chosen(self, choice: str) -> Profile:
        """The profile that somebody asks for, or `default`, if it may serve here.

        Raises:
            NotFoundError: there is no such profile.
            ConflictError: it belongs to another platform, or did harm here.
        """
        archive, profile = self.parts.archive, self.state.default
        if choice != "default":
            profile = await archive.call(archive.store.profile, choice)
        if profile.platform != self.parts.platform.digest:
            raise ConflictError(
                f"Profile {profile.id} was made on another platform.",
                hint="Tune here, or import it again for this platform.",
            )
        self.parts.slot.plan(profile.knobs, profile=profile.id, purpose="serve")
        await archive.check_choice(profile)
        return profile

    def retry(self) -> None:
        """Try now what would be tried after a pause."""
        if self.state.mode is Mode.DEGRADED:
            self._post(Event.RETRY_DUE)

    async def tune(self, workloads: Sequence[str], *, by_hand: bool) -> tuple[str, ...]:
        """Ask for a session over these classes, all seen ones if none is named.

        Raises:
            ConflictError: nothing can be tuned now, with the reason.
            InvalidKnobsError: a name is not that of a class.
        """
        if not accepts(self.state.mode, Event.TUNE_WANTED):
            raise ConflictError(f"Cannot tune while {self.state.mode}.", hint="Try again later.")
        self._check_machine()
        for workload in workloads:
            check(workload)
        refusal = self.parts.lab.refusal()
        if refusal is not None:
            raise ConflictError(f"Cannot tune: {refusal}.", hint="Set tuning.objective to another.")
        self.parts.observer.window()
        chosen = tuple(workloads) or tuple(self.parts.observer.seen)
        if not chosen:
            raise ConflictError(
                "No traffic was seen yet, so there is no class to tune.",
                hint="Send requests through the gateway, or name a class: greedy.balanced.low.",
            )
        self.state.tuning, self.state.tuned_by_hand = chosen, by_hand
        self.state.again = False
        self.state.sweep = None
        self._post(Event.TUNE_WANTED)
        return chosen

    def sweep(self, request: SweepRequest) -> str:
        """Ask for the complete table of a drafter.

        Raises:
            ConflictError: it cannot be made now.
            InvalidKnobsError: it names what is not there.
        """
        if not accepts(self.state.mode, Event.TUNE_WANTED):
            raise ConflictError(f"Cannot sweep while {self.state.mode}.", hint="Try again later.")
        self._check_machine()
        if request.workload is not None:
            full = request.workload
            check(full if full.count(".") == 2 else f"{full}.mid")
        knobs, lengths = self.parts.lab.sweep_knobs(request)
        self.state.sweep, self.state.tuned_by_hand = request, True
        self._post(Event.TUNE_WANTED)
        return f"sweeping {len(lengths)} draft lengths of {knobs.drafter}"

    def _check_machine(self) -> None:
        if (fault := self._unfit()) is not None:
            raise ConflictError(f"Tuning is paused: {fault}")

    def _unfit(self) -> str | None:
        """Why nothing can be measured, or no engine started, on this machine now, as words."""
        fault = self.parts.lab.fault
        if fault is not None:
            return fault.sentence
        return self.parts.slot.lacking(self.state.default.knobs)

    async def session(self) -> None:
        """What was asked for: the table of a drafter, or a search."""
        state, parts, seen = self.state, self.parts, self.parts.observer.seen
        if state.sweep is not None:
            await self._say("tuning", "the table of a drafter is measured")
            await parts.lab.sweep(state.sweep, parts.platform, seen)
            return
        await self._say("tuning", f"tuning {', '.join(state.tuning)}")
        found = await parts.lab.tune(
            parts.platform, state.tuning, seen, self.paused, again=state.again
        )
        state.stale -= found.keys()

    async def paused(self) -> str | None:
        """A machine that cannot be measured, or live traffic in a session nobody asked for."""
        if (fault := self._unfit()) is not None:
            return fault
        gateway = await self.parts.gateway.state()
        last = gateway["last_request_at"]
        if self.state.tuned_by_hand or last is None or last < self.state.since:
            return None
        return "live traffic is back"
