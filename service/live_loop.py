"""The live loop: learns draft lengths on live traffic inside the running engine."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace

from profiles.classes import code_name
from profiles.errors import TunerError
from profiles.knobs import Knobs
from service.engine import Engine
from service.live_files import LiveKnobs, Telemetry
from service.live_limits import LimitQuestion
from service.mixture import Mixture
from service.slot import Slot
from service.visits import Visits, all_drafts, goodput, shares
from tuner.allowance import Allowance
from tuner.buckets import busiest
from tuner.cells import Cells, difference, total
from tuner.config import LiveConfig
from tuner.drafts import since
from tuner.drift import moved
from tuner.learner import Visit, question
from tuner.stretch import NO_TRAFFIC, Stretch, joined
from tuner.telemetry import Telemetry as Sensors
from tuner.validity import SPOILING_REASONS

log = logging.getLogger(__name__)

SHARE = 0.2  # of the request-steps: what a class needs to come into a mixture; half to stay
JOIN = " + "
WINDOW_STEPS = 100  # request-steps of a window, of which up to sixteen together show a drift
# busy seconds between visits to the shortest draft while none is made: without drafts nobody hears
# that the text has become easier; one costs about 5 % of a slice
LISTEN_S = 5.0
LEAST_HEARD, OF_THEM = 6, 4  # rounds before the last ones are compared with those before them
KEPT_VISITS = 400


class LiveLoop:
    """Visits draft lengths while traffic flows, and keeps the best schedule in force."""

    def __init__(
        self,
        config: LiveConfig,
        slot: Slot,
        sensors: Sensors,
        *,
        lengths: tuple[int, ...],
        may_learn: Callable[[], str | None],
        learned: Callable[[Mixture, Knobs, Cells], Awaitable[None]],
    ) -> None:
        self._config = config
        self._slot = slot
        self._sensors = sensors
        self._lengths = lengths
        self._may_learn = may_learn  # a sentence when not
        self._learned = learned
        self._engine: Engine | None = None
        self._last: Telemetry | None = None
        self._key = ""
        self.mixtures: dict[str, Mixture] = {}
        self.visits: deque[dict[str, object]] = deque(maxlen=KEPT_VISITS)
        self.sentence = "nothing was learned yet"

    @property
    def mixture(self) -> Mixture | None:
        """The mixture of the moment."""
        return self.mixtures.get(self._key)

    async def run(self) -> None:
        """Learn until cancelled; trouble with an engine is waited out."""
        while True:
            try:
                await self._tick()
            except (TunerError, OSError) as error:
                self._last = None
                log.debug("live loop: %s", error)
                await asyncio.sleep(self._config.interval_s)

    async def _tick(self) -> None:
        engine = self._slot.engine
        refusal = self._may_learn()
        if engine is None or engine.link is None or not engine.knobs.live or refusal is not None:
            self.sentence = refusal or "the running engine has no live draft length"
            self._last = None
            await asyncio.sleep(self._config.interval_s)
            return
        if engine is not self._engine:  # what was learned holds for one engine start
            self._engine, self._last, self.mixtures = engine, None, {}
        await asyncio.sleep(self._config.interval_s)
        now = await asyncio.to_thread(engine.link.read)
        before, self._last = self._last, now
        if before is None or now is None or engine is not self._slot.engine:
            return
        cells = difference(before.cells, now.cells)
        if not cells:
            return
        mixture = self._of_the_moment(engine, before, now)
        if mixture is None:
            return
        busy = total(cells)
        mixture.allowance = mixture.allowance.earn(busy.seconds, busy.tokens)
        mixture.since_round_s += busy.seconds
        mixture.since_heard_s += busy.seconds
        if mixture.settled_at is not None:
            stretch = Stretch(cells=cells, drafts=all_drafts(before, now))
            await self._watch(engine, mixture, stretch)
            mixture.limits.hear(since(before.classes, now.classes))
        await self._ask(engine, mixture, now, cells)
        if self._may_learn() is None:
            await self._assert(engine, mixture)

    async def _ask(self, engine: Engine, mixture: Mixture, now: Telemetry, cells: Cells) -> None:
        """Visits, if there is a question that they may answer."""
        if mixture.settled_at is not None and busiest(cells) not in mixture.learner.races:
            mixture.settled_at, mixture.over = None, False  # a load that nobody has seen yet
        if not mixture.allowance.may_probe:
            return
        if mixture.due:
            await self._learn(engine, mixture)
        elif mixture.settled_at is not None and not any(k for (_, k) in cells):
            await self._listen(engine, mixture)
        elif mixture.settled_at is not None:
            await self._limit(engine, mixture, now, cells)

    async def _listen(self, engine: Engine, mixture: Mixture) -> None:
        """Draft for one slice where nothing is drafted, to hear whether the text has changed."""
        link, arms = engine.link, [arm for arm in mixture.learner.arms if arm]
        if link is None or not arms or mixture.since_heard_s < LISTEN_S:
            return
        mixture.since_heard_s, self._last = 0.0, None
        visits, base = Visits(link), LiveKnobs.of(engine.knobs)
        try:
            await visits.move(arms[0], self._config.slice_s, active=base.active, budget=base.budget)
            visit = await visits.end(self._wish(engine, mixture))
        finally:
            await visits.leave(self._wish(engine, mixture))
        if visit is None:
            return
        mixture.account(visit)
        mixture.heard.append(Stretch(cells=visit.cells, drafts=visit.drafts))
        await self._drifted(engine, mixture, mixture.reference, list(mixture.heard))

    def _of_the_moment(self, engine: Engine, before: Telemetry, now: Telemetry) -> Mixture | None:
        inside = set(self._key.split(JOIN))
        found = [
            name
            for code, share in shares(before, now).items()
            if share >= (SHARE / 2 if (name := code_name(code)) in inside else SHARE)
        ]
        if found:
            self._key = JOIN.join(sorted(found))
        if not self._key:
            return None
        if self._key not in self.mixtures:
            self.mixtures[self._key] = self._new(engine, self._key, now.cells)
        return self.mixtures[self._key]

    def _new(self, engine: Engine, name: str, past: Cells) -> Mixture:
        config = self._config
        learner = question(engine.knobs, self._lengths, max_rounds=config.rounds, past=past)
        allowance = Allowance(share=config.explore, burst_s=config.burst_s)
        return Mixture(name=name, learner=learner, allowance=allowance)

    async def _learn(self, engine: Engine, mixture: Mixture) -> None:
        """One round of visits, then the best that is known so far."""
        if engine.link is None:
            return
        visits, base = Visits(engine.link), LiveKnobs.of(engine.knobs)
        self._last = None  # a window must not hold visits
        try:
            rounds, arm = len(mixture.learner.rounds), mixture.learner.next()
            while arm is not None and len(mixture.learner.rounds) == rounds:
                visit = await visits.move(
                    arm, self._config.slice_s, active=base.active, budget=base.budget
                )
                await self._take(mixture, visit)
                arm = mixture.learner.next(besides=arm)
                if self._may_learn() is not None:
                    return  # whoever has the engine now sets its knobs
                if not mixture.allowance.may_probe:
                    break
            await self._take(mixture, await visits.end(self._wish(engine, mixture)))
        finally:
            await visits.leave(self._wish(engine, mixture))
        mixture.since_round_s = 0.0
        found = await asyncio.to_thread(mixture.learner.findings)
        if not found:
            return
        mixture.over = all(each.race.over for each in found)
        heard = mixture.learner.heard()
        if len(heard) >= LEAST_HEARD:  # the text may change before anything is settled
            reference, windows = joined(heard[:-OF_THEM]), heard[-OF_THEM:]
            if await self._drifted(engine, mixture, reference, windows):
                return
        before = mixture.schedule
        await self._choose(engine, mixture)
        mixture.why = "; ".join(each.race.sentence for each in found)
        rounds = len(mixture.learner.rounds)
        self.sentence = f"{mixture.name}: learning, {rounds} rounds"
        news = mixture.settled_at is None or mixture.schedule != before
        if news and all(each.settled for each in found):
            await self._settle(engine, mixture)

    async def _limit(self, engine: Engine, mixture: Mixture, now: Telemetry, cells: Cells) -> None:
        """One round of the race for limits per class, if there is something to race for."""
        link, schedule, asked = engine.link, mixture.schedule, mixture.limits
        if link is None or schedule is None or not asked.asked(now, schedule, cells):
            return
        self._last = None  # a window must not hold visits
        base = self._wish(engine, mixture)
        mixture.allowance = await asked.round(link, base, mixture.allowance)
        if asked.over:
            log.info("live %s %s", mixture.name, asked.sentence)
            # trimmed drafts are accepted less far: what was known before says nothing about them
            mixture.reference, mixture.window = NO_TRAFFIC, NO_TRAFFIC
            mixture.windows.clear()

    async def _take(self, mixture: Mixture, visit: Visit | None) -> None:
        """One visit into what is known, unless the GPU was slowed down meanwhile."""
        if visit is None:
            return
        sensors = self._sensors.snapshot()
        spoiling = sorted(SPOILING_REASONS.intersection(sensors.throttle_reasons))
        cell = goodput(visit)
        self.visits.append(
            {
                "at": time.time(),
                "mixture": mixture.name,
                "draft_length": visit.arm,
                "steps": cell.steps,
                "tokens": cell.tokens,
                "seconds": cell.seconds,
                "power_w": sensors.power_w,
                "temperature_c": sensors.temperature_c,
                "invalid": ", ".join(spoiling) or None,
            }
        )
        mixture.account(visit)
        mixture.traffic_s += cell.seconds
        if not spoiling:
            mixture.learner = await asyncio.to_thread(mixture.learner.add, visit)

    async def _settle(self, engine: Engine, mixture: Mixture) -> None:
        first = mixture.settled_at is None and mixture.reopened == 0
        mixture.settled_at = time.time()
        mixture.windows.clear()
        mixture.heard.clear()
        mixture.window = NO_TRAFFIC
        mixture.reference, mixture.limits = mixture.learner.text, LimitQuestion()
        self.sentence = f"{mixture.name}: {mixture.why}"
        log.info("live %s first=%s %s", mixture.name, first, mixture.why)
        if mixture.schedule is not None:
            knobs = engine.knobs.model_copy(update={"draft_schedule": mixture.schedule})
            await self._learned(mixture, knobs, mixture.learner.cells())

    async def _watch(self, engine: Engine, mixture: Mixture, stretch: Stretch) -> None:
        """Look for drift; what has moved is learned anew."""
        mixture.window = joined([mixture.window, stretch])
        if mixture.window.request_steps < WINDOW_STEPS:
            return
        mixture.windows.append(mixture.window)
        mixture.window = NO_TRAFFIC
        await self._drifted(engine, mixture, mixture.reference, list(mixture.windows))

    async def _drifted(
        self, engine: Engine, mixture: Mixture, reference: Stretch, windows: list[Stretch]
    ) -> bool:
        """Open the question again when the windows do not fit what was known."""
        error = mixture.learner.prediction_error
        move = await asyncio.to_thread(moved, reference, windows, prediction_error=error)
        if move is None:
            return False
        log.info("live %s drifted: %s", mixture.name, move.sentence)
        if move.figure == "step time":  # nothing that was learned holds any more
            mixture.learner = self._new(engine, mixture.name, {}).learner
        else:
            mixture.learner = mixture.learner.reopened(joined(windows[-move.windows :]))
            await self._choose(engine, mixture)  # what the new text says of shorter drafts already
        mixture.settled_at, mixture.over, mixture.limits = None, False, LimitQuestion()
        mixture.reopened += 1
        mixture.moved = move.sentence
        return True

    async def _choose(self, engine: Engine, mixture: Mixture) -> None:
        """The best schedule by what is known now."""
        fallback, learner = engine.knobs.draft_tokens, mixture.learner
        ceiling = self._last_ceiling(engine)
        mixture.schedule = await asyncio.to_thread(
            learner.schedule, ceiling=ceiling, fallback=fallback
        )

    def _wish(self, engine: Engine, mixture: Mixture) -> LiveKnobs:
        """The knobs in force for a mixture: what was learned, else those of the profile."""
        base = LiveKnobs.of(engine.knobs)
        if mixture.schedule is None:
            return base
        limits = mixture.limits.in_force.longest
        return replace(base, lengths=mixture.schedule, limits=limits)

    async def _assert(self, engine: Engine, mixture: Mixture) -> None:
        wish, link = self._wish(engine, mixture), engine.link
        if link is not None and link.wish != wish:
            await asyncio.to_thread(link.put_after, link.generation, wish)

    def _last_ceiling(self, engine: Engine) -> int:
        found = None if engine.link is None else engine.link.read()
        return 1 if found is None else found.fields["max_num_seqs"]
