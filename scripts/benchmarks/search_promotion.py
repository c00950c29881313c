"""What a promotion makes of a choice, with the rule of tuner/promotion.py on fresh starts."""

import functools
import math
import statistics
from collections.abc import Sequence

from search_engine import Engine, Noise
from search_landscapes import Landscape
from search_methods import Method, default_of
from search_score import Run, runs

from profiles.knobs import Knobs
from profiles.measurement import Block, Measurement
from tuner.config import TuningConfig
from tuner.promotion import Pair, decide

FRESH = 1_000_000  # seeds of promotions begin here: none of their starts is one of a search
FLAT = (0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 15)  # the draft lengths of an empty configuration
SECONDS = 24  # of the blocks of a measurement
SCALE = 1000  # tokens are whole numbers: rates must not be rounded


@functools.cache
def _knobs(length: int) -> str:
    knobs = Knobs(drafter="d", draft_length=length) if length else Knobs()
    return knobs.canonical()


def _measurement(engine: Engine, length: int, token: str) -> Measurement:
    rate = math.exp(engine.measure(length).log_tok_s or -math.inf)
    tokens = round(rate * SECONDS * SCALE)
    return Measurement(
        platform="p",
        workload="w",
        knobs=_knobs(length),
        started_at=0.0,
        engine_token=token,
        phase="promotion",
        blocks=(Block(seconds=SECONDS, output_tokens=tokens, requests=1),),
    )


def promoted(
    landscape: Landscape,
    default: int,
    candidate: int,
    seed: int,
    *,
    pairs: int,
    confidence: float = 0.95,
    noise: Noise | None = None,
) -> bool:
    """Whether the candidate replaces the default after this many fresh pairs."""
    arms = [
        Engine(landscape=landscape, seed=FRESH * (1 + arm) + seed, noise=noise or Noise())
        for arm in (0, 1)
    ]
    found = [
        Pair(
            default=_measurement(arms[0], default, f"a{number}"),
            candidate=_measurement(arms[1], candidate, f"b{number}"),
        )
        for number in range(pairs)
    ]
    return decide(
        found, min_gain=TuningConfig().min_gain, planned_pairs=pairs, confidence=confidence
    ).promote


def after_promotion(found: Sequence[Run], pairs: int) -> list[float]:
    """True regret of what is in force after search and promotion."""
    regrets = []
    for run in found:
        default = default_of(run.landscape)
        choice = run.choice
        if choice is None or not promoted(run.landscape, default, choice, run.seed, pairs=pairs):
            choice = default
        regrets.append(run.landscape.regret(choice))
    return regrets


def false_promotions(number: int, pairs: int, *, confidence: float = 0.95) -> float:
    """Share of promotions between two equal arms."""
    flat = Landscape(name="flat", family="flat", rates=dict.fromkeys(FLAT, 100.0))
    return statistics.fmean(
        promoted(flat, 0, 4, seed, pairs=pairs, confidence=confidence) for seed in range(number)
    )


def false_tunings(method: Method, number: int, pairs: int) -> float:
    """Share of searches that end with a promotion where every length is equally fast."""
    flat = Landscape(name="flat", family="flat", rates=dict.fromkeys(FLAT, 100.0))
    found = runs(method, [flat], number)
    return statistics.fmean(
        bool(run.choice) and promoted(flat, 0, run.choice or 0, run.seed, pairs=pairs)
        for run in found
    )
