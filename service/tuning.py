"""A tuning session: a search over engine starts, then a promotion on fresh starts."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from profiles.knobs import Knobs
from profiles.measurement import Measurement
from profiles.profile import Origin, Profile
from service.archive import Archive
from service.trial import ClassPlan, TrialPlan, TrialRunner
from tuner.config import TuningConfig
from tuner.design import Start
from tuner.leader import estimates, leader
from tuner.objective import Goals
from tuner.observation import Observation
from tuner.promotion import (
    DEFAULT_ARM,
    Pair,
    Verdict,
    already_best,
    clear,
    decide,
    nothing_fits,
    schedule_pairs,
)
from tuner.search import Budget, Stop, next_for_classes
from tuner.space import Space

log = logging.getLogger(__name__)

RECENT_S = 3600.0  # a schedule that live traffic gave is measured as it is, not swept for again


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where the session is, for `tuner status`."""

    sentence: str
    phase: str  # "search", "promotion" or "done"
    trial: int  # engine starts measured so far
    trials: int  # the budget
    classes: tuple[str, ...]
    best: Mapping[str, Mapping[str, float | str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Study:
    """What does not change during a session."""

    name: str
    platform: str
    tuning: TuningConfig
    space: Space
    design: Sequence[Start]
    default: Knobs
    again: bool = False  # no search: only its promotion is repeated


class TuningSession:
    """Owns the slot while it runs; every result is in the store before the next decision."""

    def __init__(
        self,
        study: Study,
        plans: Sequence[ClassPlan],
        runner: TrialRunner,
        archive: Archive,
        pause: Callable[[], Awaitable[str | None]],
    ) -> None:
        self._study = study
        self._goals = Goals.of(study.tuning)
        self._plans = {plan.workload: plan for plan in plans}
        self._runner = runner
        self._archive = archive
        self._pause = pause  # a sentence when live traffic wants the engine back
        self.progress = Progress(
            sentence="reading what is known",
            phase="search",
            trial=0,
            trials=study.tuning.trials,
            classes=tuple(self._plans),
        )

    async def run(self) -> dict[str, Verdict]:
        """Search, then promote; a verdict per class, none when it was paused.

        An interrupted session goes on from its rows: the next one asks for what is missing.
        """
        paused = await self._pause() if self._study.again else await self._search()
        if paused is not None:
            self._say(f"paused: {paused}", phase="done")
            return {}
        histories = await self._histories()
        leaders = {
            w: await self._with_live(w, leader(history) or self._study.default)
            for w, history in histories.items()
        }
        pairs = await self._promotion(leaders)
        verdicts = {
            workload: await self._verdict(workload, knobs, pairs[workload], histories[workload])
            for workload, knobs in leaders.items()
        }
        self._say("every class has its verdict", phase="done")
        return verdicts

    async def _search(self) -> str | None:
        study = self._study
        spent = await self._spent()
        while True:
            histories = await self._histories()
            chosen = await asyncio.to_thread(
                next_for_classes,
                histories,
                study.space,
                study.design,
                seed=study.tuning.seed,
                budget=Budget(trials=spent + study.tuning.trials, failures=study.tuning.failures),
            )
            if isinstance(chosen, Stop):
                self._say(f"search ended: {chosen.reason}", histories=histories)
                return None
            paused = await self._pause()
            if paused is not None:
                return paused
            self._say(f"trying {chosen.knobs.label()}: {chosen.why}", histories=histories)
            live = await self._recent(chosen.knobs)
            trial = self._trial(chosen.knobs, chosen.why, tuple(self._plans), live=live)
            await self._runner.run(trial)

    async def _spent(self) -> int:
        """Engine starts of searches that have had their verdict: a new session may spend anew."""
        spent = 0
        for workload in self._plans:
            decided = await self._archive.decided_at(self._study.platform, workload)
            rows = await self._archive.measurements(self._study.platform, workload)
            starts = {m.engine_token for m in rows if m.phase == "search"}
            open_starts = {
                m.engine_token
                for m in rows
                if m.phase == "search" and (decided is None or m.started_at > decided)
            }
            spent = max(spent, len(starts - open_starts))
        return spent

    async def _with_live(self, workload: str, knobs: Knobs) -> Knobs:
        """The knobs with the schedule and caps that were last learned for a class inside them."""
        if not knobs.live:
            return knobs
        rows = await self._archive.measurements(self._study.platform, workload)
        seen = [Knobs.model_validate_json(m.knobs) for m in rows if m.usable]
        found = [one for one in seen if one.live and one.cold() == knobs.cold()]
        return found[-1] if found else knobs

    async def _recent(self, knobs: Knobs) -> dict[str, Knobs]:
        """By class what the live loop has found lately: it needs no sweep."""
        found: dict[str, Knobs] = {}
        for workload in self._plans if knobs.live else ():
            rows = await self._archive.measurements(self._study.platform, workload)
            for row in rows:
                seen = Knobs.model_validate_json(row.knobs)
                fresh = time.time() - row.started_at < RECENT_S and row.phase == "live"
                if fresh and seen.live and seen.cold() == knobs.cold():
                    found[workload] = seen
        return found

    async def _promotion(self, leaders: Mapping[str, Knobs]) -> dict[str, list[Pair]]:
        """Fresh starts of every leader and of the default, in random order within each round."""
        default, tuning = self._study.default, self._study.tuning
        pairs: dict[str, list[Pair]] = {workload: [] for workload in leaders}
        arms = {w: knobs for w, knobs in leaders.items() if knobs != default}
        if not arms:
            return pairs
        # classes whose winners differ only in live knobs share an engine start
        cold = {w: knobs.cold() if knobs.live else knobs for w, knobs in arms.items()}
        starts = {knobs.digest(): knobs for knobs in cold.values()} | {DEFAULT_ARM: default}
        names = [name for name in starts if name != DEFAULT_ARM]
        most = max(tuning.pairs, tuning.most_pairs)
        rounds = schedule_pairs(most, names, seed=tuning.seed)
        for number, order in enumerate(rounds, start=1):
            waiting = [w for w in arms if not self._clear(pairs[w])]
            if not waiting:
                break
            found: dict[tuple[str, str], Measurement] = {}
            for name in order:
                knobs = starts[name]
                wanted = tuple(w for w in waiting if name in {cold[w].digest(), DEFAULT_ARM})
                if not wanted:
                    continue
                why = f"promotion round {number} of {most}"
                self._say(f"{why}: {knobs.label()}", phase="promotion")
                # every arm as it is: a sweep would measure something else
                own = {w: default if name == DEFAULT_ARM else arms[w] for w in wanted}
                live = own if knobs.live else {}
                trial = self._trial(knobs, why, wanted, phase="promotion", pair=number, live=live)
                found |= {(m.workload, m.knobs): m for m in await self._runner.run(trial)}
            for workload, knobs in arms.items():
                one = found.get((workload, default.canonical()))
                other = found.get((workload, knobs.canonical()))
                if one is not None and other is not None:
                    pairs[workload].append(Pair(default=one, candidate=other))
        return pairs

    def _clear(self, pairs: Sequence[Pair]) -> bool:
        """Whether a class needs no further pair; with a planned number only that ends it."""
        tuning = self._study.tuning
        if not tuning.most_pairs:
            return len(pairs) >= tuning.pairs
        return clear(pairs, min_gain=tuning.min_gain, goals=self._goals)

    async def _verdict(
        self, workload: str, knobs: Knobs, pairs: Sequence[Pair], history: Sequence[Observation]
    ) -> Verdict:
        study, goals = self._study, self._goals
        if leader(history) is None:
            verdict = nothing_fits(history, goals)
        elif knobs == study.default:
            verdict = already_best(len(history), goals)
        else:
            verdict = decide(
                pairs,
                min_gain=study.tuning.min_gain,
                planned_pairs=max(study.tuning.pairs, study.tuning.most_pairs),
                trials=len(history),
                goals=goals,
                sequential=study.tuning.most_pairs > 0,
            )
        profile = Profile(
            knobs=knobs if verdict.promote else study.default,
            platform=study.platform,
            workload=workload,
            origin=Origin.SEARCH if verdict.promote else Origin.DEFAULT,
            evidence=verdict.evidence.model_copy(update={"sentence": verdict.sentence}),
            created_at=time.time(),
        )
        await self._archive.promote(profile, kept_default=not verdict.promote)
        await self._archive.event("verdict", f"{workload}: {verdict.sentence}")
        return verdict

    def _trial(
        self,
        knobs: Knobs,
        why: str,
        workloads: Sequence[str],
        *,
        phase: str = "search",
        pair: int | None = None,
        live: Mapping[str, Knobs] | None = None,
    ) -> TrialPlan:
        return TrialPlan(
            study=self._study.name,
            platform=self._study.platform,
            knobs=knobs,
            why=why,
            classes=[self._plans[workload] for workload in workloads],
            phase=phase,
            pair=pair,
            live=live or {},
        )

    async def _histories(self) -> dict[str, list[Observation]]:
        return {
            workload: [
                self._observation(m, number)
                for number, m in enumerate(
                    await self._archive.measurements(self._study.platform, workload), start=1
                )
                if m.phase == "search"
            ]
            for workload in self._plans
        }

    def _observation(self, measurement: Measurement, number: int) -> Observation:
        row = Observation.of(measurement, trial=number, goals=self._goals)
        return replace(row, knobs=self._study.space.start(row.knobs))

    def _say(
        self,
        sentence: str,
        *,
        phase: str | None = None,
        histories: Mapping[str, Sequence[Observation]] | None = None,
    ) -> None:
        log.info("tuning: %s", sentence)
        self.progress = replace(
            self.progress, sentence=sentence, phase=phase or self.progress.phase
        )
        if histories is not None:
            self.progress = replace(
                self.progress,
                trial=max(len({row.start for row in rows}) for rows in histories.values()),
                best={
                    w: best for w, rows in histories.items() if (best := _best(rows, self._goals))
                },
            )


def _best(history: Sequence[Observation], goals: Goals) -> dict[str, float | str]:
    """What leads a search so far: a hint for people, not yet a finding."""
    first = leader(history)
    found = next((each for each in estimates(history) if each.knobs == first), None)
    if found is None:
        return {}
    best: dict[str, float | str] = {
        "label": found.knobs.label(),
        "figure": goals.shown(found.score),
    }
    return best | ({"tok_s": math.exp(found.score)} if goals.objective == "tok_s" else {})
