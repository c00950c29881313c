"""Helpers for tests of the search: spaces, landscapes and a simulated engine."""

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from profiles.knobs import PLAIN_FLAGS, SPECULATIVE_FLAG, Drafter, Knobs
from profiles.measurement import Block, Failure, FailureKind, Measurement
from tuner.config import SpaceConfig
from tuner.design import Start, design
from tuner.observation import Observation
from tuner.search import Budget, Candidate, next_candidate
from tuner.space import Space, build_space

LANDSCAPES = sorted((Path(__file__).parent / "data" / "landscapes").glob("*.json"))
FLAGS = frozenset({*PLAIN_FLAGS.values(), SPECULATIVE_FLAG})
BUDGET = Budget(trials=8, failures=4)

Engine = Callable[[Knobs], float | FailureKind]  # log tok/s, or why not


def drafter(name="dflash", longest=15):
    """A drafter of any method."""
    return Drafter(name=name, method="dflash", model="/m", max_draft_length=longest)


def small_space(*, default=None, names=("dflash",), flags=FLAGS, **lists) -> Space:
    """A space of these lists over drafters of these names."""
    return build_space(
        SpaceConfig(**lists), {n: drafter(n) for n in names}, flags, default or Knobs()
    )


def landscape(path: Path) -> dict[int, float]:
    """Output tok/s by draft length, as published; 0 is off."""
    points = json.loads(path.read_text())["points"]
    return {point["num_speculative_tokens"]: point["output_tok_s"] for point in points}


def landscape_space(rates: dict[int, float]) -> Space:
    """The space of a published sweep."""
    return small_space(draft_lengths=tuple(k for k in rates if k > 0))


def row(
    trial, knobs, *, rate=None, failure=None, start=None, limits=None, drafts=None
) -> Observation:
    """An observation; `rate` in tok/s."""
    return Observation(
        trial=trial,
        start=start or f"start-{trial}",
        knobs=knobs,
        score=None if rate is None else math.log(rate),
        failure=failure,
        limits=limits or {},
        drafts=drafts,
    )


def observe(trial: int, knobs: Knobs, answer: float | FailureKind) -> Observation:
    """What the simulated engine gave."""
    if isinstance(answer, FailureKind):
        return row(trial, knobs, failure=answer)
    return row(trial, knobs, rate=math.exp(answer))


def simulate(
    space: Space,
    engine: Engine,
    *,
    seed: int,
    budget: Budget = BUDGET,
    noise: float = 0.025,
    size: int = 4,
    gaussian: bool | None = False,
) -> list[Observation]:
    """A whole search on a simulated engine with log-normal noise."""
    rng = random.Random(f"noise {seed}")
    starts: Sequence[Start] = design(space, space.default, [], size=size)
    history: list[Observation] = []
    while isinstance(
        found := next_candidate(
            history, space, starts, seed=seed, budget=budget, gaussian=gaussian
        ),
        Candidate,
    ):
        answer = engine(found.knobs)
        if not isinstance(answer, FailureKind):
            answer += rng.gauss(0, noise)
        history.append(observe(len(history) + 1, found.knobs, answer))
    return history


def measurement(token, knobs=None, *, rate=100.0, failure=None, errors=0, ttft=0.1, tpot=0.01):
    """A stored measurement of one engine start in a promotion."""
    return Measurement(
        platform="p",
        workload="greedy.balanced.single",
        knobs=(knobs or Knobs()).canonical(),
        started_at=0.0,
        engine_token=token,
        phase="promotion",
        blocks=()
        if failure
        else (
            Block(
                seconds=10,
                output_tokens=round(rate * 10),
                requests=10,
                errors=errors,
                ttft_p95_s=ttft,
                tpot_mean_s=tpot,
            ),
        ),
        failure=None
        if failure is None
        else Failure(kind=failure, sentence="It ran out of memory."),
    )
