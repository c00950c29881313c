"""Tuning sessions over a real store, with engines that are a function of their knobs."""

import itertools

from profiles.knobs import Drafter, Knobs
from profiles.measurement import Block, Environment, Failure, FailureKind, Measurement
from profiles.platform import fingerprint
from profiles.records import TrialStatus
from service.trial import ClassPlan
from service.tuning import Study, TuningSession
from tuner.config import SpaceConfig, TuningConfig
from tuner.design import design
from tuner.space import build_space

HERE = fingerprint(vllm="0.32.0", model="org/m", model_revision=None, drafters={}, cpu="Xeon")
CLASS = "greedy.balanced.low"
DRAFTERS = {"ngram": Drafter(name="ngram", method="ngram")}
SPACE = build_space(
    SpaceConfig(draft_lengths=(1, 3, 5, 8)),
    DRAFTERS,
    frozenset({"--speculative-config", "--model"}),
    Knobs(),
)


def k(length: int) -> Knobs:
    """A draft length; 0 is off, the default."""
    return Knobs() if length == 0 else Knobs(drafter="ngram", draft_length=length)


def answer(*, tok_s=100.0, invalid=None, environment=None, failure=None, **block):
    """What an engine gives: figures of one block of 10 s, or a kind of failure."""
    if failure is not None:
        return {"failure": Failure(kind=failure, sentence=f"It ended with {failure}.")}
    fields = {"seconds": 10.0, "output_tokens": round(10 * tok_s), "requests": 50} | block
    return {
        "blocks": (Block(**fields),),
        "environment": Environment(**(environment or {})),
        "invalid": invalid,
    }


OOM = answer(failure=FailureKind.OOM_LOAD)


class Runner:
    """Writes rows as the real one does; `engine` answers for a draft length and a start number."""

    def __init__(self, archive, engine, *, starts="start"):
        self.archive, self.engine, self.plans = archive, engine, []
        self.names = (f"{starts}-{n}" for n in itertools.count())

    async def run(self, plan):
        self.plans.append(plan)
        workloads = [one.workload for one in plan.classes]
        trial = await self.archive.open_trial(
            study=plan.study,
            platform=plan.platform,
            workloads=workloads,
            knobs=plan.knobs,
            why=plan.why,
        )
        token = next(self.names)
        found = [
            Measurement(
                platform=plan.platform,
                workload=workload,
                knobs=plan.knobs.canonical(),
                started_at=float(len(self.plans)),
                engine_token=token,
                phase=plan.phase,
                pair=plan.pair,
                **self.engine(plan.knobs.draft_tokens, len(self.plans)),
            )
            for workload in workloads
        ]
        for measurement in found:
            await self.archive.add_measurement(measurement, trial)
        await self.archive.close_trial(trial, TrialStatus.DONE)
        return found

    def tried(self, phase="search"):
        """Draft lengths in the order in which they were started."""
        return [plan.knobs.draft_tokens for plan in self.plans if plan.phase == phase]


async def never():
    """Nobody wants the engine back."""
    return


def session(runner, *, default=None, pause=never, **tuning):
    """A session over one class."""
    wanted = TuningConfig(**{"trials": 5, "pairs": 3, "min_gain": 0.03} | tuning)
    study = Study(
        name=CLASS,
        platform=HERE.digest,
        tuning=wanted,
        space=SPACE,
        design=design(SPACE, default or Knobs(), [], size=wanted.trials),
        default=default or Knobs(),
    )
    plans = [ClassPlan(workload=CLASS, concurrency=4, requests=[], samples="live")]
    return TuningSession(study, plans, runner, runner.archive, pause)
