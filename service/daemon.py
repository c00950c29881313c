"""tunerd: the only writer of decisions. One queue of events, one mode, effects in order."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from profiles.errors import ConflictError, RestartError, TunerError, UnavailableError
from service import inject
from service.memory import remembered
from service.modes import Effect, Event, Mode, step
from service.policy import switched
from service.start_fault import START_ERRORS, StartFault
from service.state import Parts, first_state
from service.steward import Steward
from service.watchman import Watchman

log = logging.getLogger(__name__)


class Daemon:
    """Executes the mode table."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.state = first_state(parts)
        self.steward = Steward(parts, self.state, post=self.post, say=self.say)
        self.watchman = Watchman(parts, self.state, say=self.say)
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._work: dict[str, asyncio.Task[None]] = {}
        self._fault: TunerError | None = None  # why a task died
        self._effects: dict[Effect, Callable[[], Awaitable[None]]] = {
            Effect.CLOSE_GATE: lambda: parts.slot.hold(self.state.sentence, eta_s=parts.slot.eta_s),
            Effect.OPEN_GATE: parts.slot.release,
            Effect.REFUSE: self._refuse,
            Effect.REPLACE_ENGINE: self._replace,
            Effect.APPLY_LIVE: self._apply_live,
            Effect.RESTART_CURRENT: self._restart_current,
            Effect.RESTORE_LAST_GOOD: self._restore_last_good,
            Effect.RESTORE_DEFAULT: self._restore_default,
            Effect.QUARANTINE_TARGET: self._quarantine,
            Effect.COMMIT_TARGET: self._commit,
            Effect.MARK_GOOD: self._mark_good,
            Effect.BEGIN_TUNING: self._begin_tuning,
            Effect.ABORT_TUNING: self._abort_tuning,
            Effect.BEGIN_PROBATION: self._begin_probation,
            Effect.SCHEDULE_RETRY: self._schedule_retry,
            Effect.STOP_ALL: self._stop_all,
        }

    def post(self, event: Event) -> None:
        """Tell the daemon what happened."""
        self._events.put_nowait(event)

    async def run(self) -> None:
        """Live until stopped: boot, then one event after the other."""
        self.parts.slot.on_death(self._engine_died)
        self.start("records", self.parts.observer.pump)
        self.start("policy", self.steward.watch)
        self.start("route", self.parts.slot.keep_route)
        self.start("watchman", self.watchman.watch)
        if self.parts.live is not None:
            self.start("live", self.parts.live.run)
        self.start("boot", self._boot)
        try:
            while (event := await self._events.get()) is not Event.STOPPED:
                await self._handle(event)
        finally:
            await asyncio.gather(*map(self._cancel, list(self._work)))
        if self._fault is not None:
            raise self._fault

    async def _handle(self, event: Event) -> None:
        try:
            mode, effects = step(self.state.mode, event)
        except ConflictError as error:
            log.warning("%s", error.message)  # a late event of a task that was overtaken
            return
        before, self.state.mode = self.state.mode, mode
        if mode is not before:
            log.info("mode %s -> %s on %s", before, mode, event)
            self.state.since = time.time()
        for effect in effects:
            try:
                inject.at(inject.before(effect))
                await self._effects[effect]()
            except TunerError as error:
                log.error("cannot %s: %s", effect, error.sentence())  # noqa: TRY400  no defect
                await self.say("error", f"Cannot {effect.replace('_', ' ')}: {error.sentence()}")

    # --- boot -----------------------------------------------------------------------------------

    async def _boot(self) -> None:
        archive, slot, platform = self.parts.archive, self.parts.slot, self.parts.platform
        # without the store nothing is adopted or started; whoever is served already still is
        news = await archive.introduce(platform)
        if news is not None:
            await self.say("platform", news)
        await archive.insist(archive.store.put_profile, self.state.default)
        swept = await archive.insist(
            archive.store.sweep_open_trials, "tunerd ended during this trial", at=time.time()
        )
        if swept:
            await self.say("recovery", f"{swept} trial was cut off as tunerd ended; it is void")
        inject.at(inject.Point.SWEPT)
        state = self.state
        state.target, state.target_why = await remembered(self.parts, state)
        inject.at(inject.Point.REMEMBERED)
        record = await slot.adopt()
        if record is None:
            self.post(Event.NOTHING_RUNS)
        # a tunerd that died within a live change left other knobs than it had written down
        elif record.purpose == "serve" and record.launch == self._launch() and await self._kept():
            await self.say("adopted", f"adopted the running engine, pid {record.pid}")
            self.post(Event.ADOPTED)
        else:
            await self.say("recovery", f"the engine of an unfinished {record.purpose} is replaced")
            self.post(Event.NOTHING_RUNS)

    def _launch(self) -> str:
        target = self.state.target
        return self.parts.slot.plan(target.knobs, profile=target.id, purpose="serve").digest

    # --- engine ---------------------------------------------------------------------------------

    async def _replace(self) -> None:
        self.start("engine", self._replace_engine)

    async def _replace_engine(self) -> None:
        slot, target = self.parts.slot, self.state.target
        if self.state.mode is Mode.DRAINING and await self._kept():
            self.post(Event.ENGINE_READY)
            return
        fault, self.state.start_fault = slot.live_fault, None
        try:
            await slot.replace(
                target.knobs,
                profile=target.id,
                purpose="serve",
                drained=lambda: self.post(Event.DRAINED),
            )
        except START_ERRORS as error:
            await self._did_not_start(StartFault.of(error))
        else:
            self.post(Event.ENGINE_READY)
        if slot.live_fault != fault:
            await self.say("live", f"knobs change by restart only: {slot.live_fault}")

    async def _did_not_start(self, fault: StartFault) -> None:
        state, target = self.state, self.state.target
        state.trouble = f"no engine starts ({target.knobs.label()}: {fault.why})"
        state.start_fault = fault
        if target.knobs == state.default.knobs:
            state.deaths.did_not_start()
        await self.say("start_failed", f"{target.knobs.label()}: {fault.told}")
        self.parts.check_config()
        self.post(Event.START_FAILED)

    async def _kept(self) -> bool:
        """Whether a trial left an engine that is the wanted one, or can be by its live knobs."""
        slot, target = self.parts.slot, self.state.target
        if slot.reaches(target.knobs):
            try:
                await slot.apply(target.knobs, profile=target.id)
            except UnavailableError:  # it has gone just now
                return False
        elif not slot.runs(target.knobs):
            return False
        slot.keep(profile=target.id)
        return True

    def _engine_died(self) -> None:
        state, engine, what = self.state, self.parts.slot.engine, Event.ENGINE_DIED
        if state.mode in {Mode.SERVING, Mode.PROBATION}:  # a trial may die as it likes
            default = state.in_force.knobs == state.default.knobs
            what = state.deaths.died(time.monotonic(), default=default)
        failure = engine.failure(phase="serve").sentence if engine is not None else "unknown"
        log.warning("engine died: %s", failure)
        self.start("obituary", lambda: self.say("engine_died", f"the engine died: {failure}"))
        if what is Event.ENGINE_FLAPS:
            died = f"died {state.deaths.failures} times in a row"
            state.trouble = f"the engine of your own configuration {died} ({failure})"
        self.post(what)

    async def _apply_live(self) -> None:
        """Put the target in force without a restart; if it cannot be, ask for one."""
        state, target = self.state, self.state.target
        try:
            await self.parts.slot.apply(target.knobs, profile=target.id)
        except UnavailableError:
            self.post(Event.SWITCH_WANTED)
            return
        await self.say("live", f"{target.knobs.label()} is in force, live: {state.target_why}")
        state.in_force, state.why = target, state.target_why
        await self._remember(live=True)

    async def _restart_current(self) -> None:
        self.state.target, self.state.target_why = self.state.in_force, self.state.why
        await self._replace()

    async def _restore_last_good(self) -> None:
        good = self.state.last_good
        if good.knobs == self.state.target.knobs:
            good = self.state.default
        self._give_up_choice()
        self.state.target, self.state.target_why = good, "the last good profile was restored"
        await self._replace()

    async def _restore_default(self) -> None:
        state = self.state
        self._give_up_choice()
        state.target, state.target_why = state.default, "your configuration was restored"
        await self._replace()

    def _give_up_choice(self) -> None:
        """The operator's choice ends with its failure, not with that of another profile."""
        manual = self.state.manual
        if manual is not None and manual.knobs == self.state.target.knobs:
            self.state.manual = None

    async def _quarantine(self) -> None:
        state, bad, fault = self.state, self.state.target, self.state.start_fault
        innocent = fault is not None and not fault.blames_knobs
        if bad.knobs != state.default.knobs and not innocent:
            hours = await self.parts.archive.bar(bad, state.sentence) / 3600
            await self.say("quarantine", f"{bad.knobs.label()} is not used for {hours:g} h")

    async def _commit(self) -> None:
        state = self.state
        if state.in_force.id != state.target.id or state.mode is not Mode.SERVING:
            label = state.target.knobs.label()
            await self.say("switch", f"{label} is in force: {state.target_why}")
        state.in_force, state.why = state.target, state.target_why
        state.ledger = switched(state.ledger, time.time())
        state.deaths.serves(time.monotonic())
        await self._remember()

    async def _remember(self, *, live: bool = False) -> None:
        await self.steward.books.opened(live=live)
        inject.at(inject.Point.IN_FORCE_STORED)

    async def _mark_good(self) -> None:
        self.state.last_good = self.state.in_force

    async def _begin_probation(self) -> None:
        self.state.switched_at = time.time()

    async def _schedule_retry(self) -> None:
        state, delay = self.state, self.state.deaths.pause_s
        self._give_up_choice()  # else it would be tried again at once
        await self.say("degraded", f"{state.trouble}; the next try is in {delay:g} s")

        async def retry() -> None:
            await asyncio.sleep(delay)
            self.post(Event.RETRY_DUE)

        await self._cancel("retry")
        self.start("retry", retry)

    async def _refuse(self) -> None:
        slot = self.parts.slot
        await slot.refuse(self.state.trouble, eta_s=self.state.deaths.pause_s + slot.eta_s)

    async def _stop_all(self) -> None:
        for name in ("boot", "policy", "watchman", "live", "retry", "tuning", "engine"):
            await self._cancel(name)
        try:
            if self.parts.leave_engine or self._fault is not None:
                await self.parts.slot.forget()
            else:
                await self.parts.slot.stop()
        finally:
            self.post(Event.STOPPED)

    # --- tuning ---------------------------------------------------------------------------------

    async def _begin_tuning(self) -> None:
        self.start("tuning", self._tune)

    async def _tune(self) -> None:
        state = self.state
        try:
            await self.steward.session()
        except TunerError as error:
            await self.say("tuning", f"cannot tune: {error.sentence()}")
        except asyncio.CancelledError:
            await asyncio.shield(self.say("tuning", "tuning was stopped; its rows are kept"))
            raise
        finally:
            state.tuned_at = time.time()
            await asyncio.shield(self._choose_after_tuning())
            self.post(Event.TUNE_ENDED)

    async def _choose_after_tuning(self) -> None:
        """A restart is due anyway: take what serves best now, whatever a restart would cost."""
        state = self.state
        try:
            state.target, state.target_why = await self.steward.best_now()
        except TunerError:
            state.target, state.target_why = state.in_force, state.why

    async def stop_tuning(self) -> str:
        """End the session; its rows are kept and the next one goes on from them.

        Raises:
            ConflictError: none runs.
        """
        if self.state.mode is not Mode.TUNING:
            raise ConflictError("Nothing is being tuned.")
        self.post(Event.SWITCH_WANTED)
        return "tuning stops; its rows are kept"

    async def _abort_tuning(self) -> None:
        await self._cancel("tuning")

    # --- helpers --------------------------------------------------------------------------------

    async def say(self, kind: str, sentence: str) -> None:
        """One event for the history, one line for the log."""
        self.state.sentence = sentence
        log.info("%s: %s", kind, sentence)
        await self.parts.archive.event(kind, sentence)

    def start(self, name: str, function: Callable[[], Awaitable[None]]) -> None:
        """Run this beside the loop; its death is ours."""

        async def guarded() -> None:
            try:
                await function()
            except asyncio.CancelledError:
                raise
            except RestartError as error:
                self._fault = error
                self.post(Event.STOP_WANTED)
            except Exception:
                # a dead side task must not be silent; the supervisor restarts us
                log.exception("task %s died", name)
                self._fault = TunerError(f"The task {name!r} died; the log says why.")
                self.post(Event.STOP_WANTED)

        self._work[name] = asyncio.create_task(guarded(), name=name)

    async def _cancel(self, name: str) -> None:
        task = self._work.pop(name, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
