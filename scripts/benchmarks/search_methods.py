"""Ways to search a landscape: every one starts engines and says after each what it would use."""

import functools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import optuna
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from search_engine import Engine
from search_landscapes import Landscape

from profiles.knobs import PLAIN_FLAGS, SPECULATIVE_FLAG, Drafter, Knobs
from profiles.measurement import FailureKind
from tuner.config import SpaceConfig
from tuner.design import design
from tuner.ladder import MAX_LENGTHS, MAX_STARTS, Model, Rung, climb
from tuner.leader import leader
from tuner.observation import Observation
from tuner.search import Budget, Candidate, next_candidate
from tuner.space import Space, build_space

MAX_TRIALS = 8
FLAGS = frozenset({*PLAIN_FLAGS.values(), SPECULATIVE_FLAG})

# starts engines; gives its choice after each start, None before any has worked
Search = Callable[[Engine, int], Iterator[int | None]]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of the tables."""

    name: str
    search: Search
    dear: bool = False  # so slow to compute that it gets a tenth of the seeds


def default_of(landscape: Landscape) -> int:
    """What runs before anybody tunes: off, or the shortest published length."""
    return min(landscape.rates)


def highest(engine: Engine) -> int | None:
    """The length of the best single observation."""
    good = [each for each in engine.readings if each.log_tok_s is not None]
    return max(good, key=lambda each: each.log_tok_s or -math.inf).length if good else None


def lengths_of(engine: Engine) -> list[int]:
    """Those not known to fail: memory grows with the draft."""
    failed = [each.length for each in engine.readings if each.log_tok_s is None]
    return [k for k in engine.landscape.lengths if k < min(failed, default=math.inf)]


def ladder(
    engine: Engine,
    seed: int,
    *,
    model: Model | None = None,
    max_lengths: int = MAX_LENGTHS,
    max_starts: int = MAX_STARTS,
    single: bool = False,
) -> Iterator[int | None]:
    """tuner/ladder.py by itself; `single` chooses by the best observation instead of the mean."""
    del seed  # nothing in it is drawn
    length: int | None = default_of(engine.landscape)
    while length is not None:
        engine.measure(length)
        rungs = [
            Rung(length=each.length, score=each.log_tok_s, tokens=each.tokens)
            for each in engine.readings
            if each.log_tok_s is not None
        ]
        step = climb(
            lengths_of(engine), rungs, model=model, max_lengths=max_lengths, max_starts=max_starts
        )
        length = step.length
        yield highest(engine) if single else step.choice


@functools.cache
def _space(lengths: Sequence[int], default: int) -> Space:
    drafter = Drafter(name="d", method="eagle3", model="published", max_draft_length=255)
    start = _knobs(default)
    found = build_space(
        SpaceConfig(draft_lengths=tuple(k for k in lengths if k)), {"d": drafter}, FLAGS, start
    )
    # off is a point of every space; where it was not published there is nothing to replay
    if 0 in lengths:
        return found
    return Space(
        axes=found.axes,
        drafters=found.drafters,
        default=start,
        dropped=(),
        ragged=True,
        candidates=tuple(point for point in found.candidates if point.speculating),
    )


def _knobs(length: int) -> Knobs:
    return Knobs(drafter="d", draft_length=length) if length else Knobs()


def shipped(engine: Engine, seed: int) -> Iterator[int | None]:
    """`tuner tune` as it is: tuner/search.py and tuner/leader.py; acceptance is not replayed."""
    default = default_of(engine.landscape)
    space = _space(engine.landscape.lengths, default)
    starts = design(space, _knobs(default), [], size=12)
    budget = Budget(trials=12, failures=4)
    history: list[Observation] = []
    while isinstance(
        found := next_candidate(history, space, starts, seed=seed, budget=budget), Candidate
    ):
        reading = engine.measure(found.knobs.draft_tokens)
        failed = reading.log_tok_s is None
        history.append(
            Observation(
                trial=len(history) + 1,
                start=str(len(history)),
                knobs=found.knobs,
                score=reading.log_tok_s,
                failure=FailureKind.OOM_LOAD if failed else None,
            )
        )
        best = leader(history)
        yield None if best is None else best.draft_tokens


def exhaustive(engine: Engine, seed: int) -> Iterator[int | None]:
    """Every length once, the default first, then upwards."""
    del seed
    default = default_of(engine.landscape)
    for length in (default, *(k for k in engine.landscape.lengths if k != default)):
        engine.measure(length)
        yield highest(engine)


def drawn(engine: Engine, seed: int) -> Iterator[int | None]:
    """Random order after the default, none twice."""
    default = default_of(engine.landscape)
    others = [k for k in engine.landscape.lengths if k != default]
    random.Random(f"order {seed} {engine.landscape.name}").shuffle(others)
    for length in [default, *others][:MAX_TRIALS]:
        engine.measure(length)
        yield highest(engine)


def one_factor(engine: Engine, seed: int) -> Iterator[int | None]:
    """From the default upwards until it gets worse."""
    del seed
    last = -math.inf
    for length in engine.landscape.lengths:
        value = engine.measure(length).log_tok_s
        yield highest(engine)
        if value is None or value < last:
            return
        last = value


def optuna_search(
    engine: Engine, seed: int, *, sampler: Callable[[int], BaseSampler]
) -> Iterator[int | None]:
    """An Optuna study as its documentation shows it; trial 1 is the default, a crash is FAIL."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    lengths = engine.landscape.lengths
    study = optuna.create_study(direction="maximize", sampler=sampler(seed))
    study.enqueue_trial({"k": lengths.index(default_of(engine.landscape))})
    for _ in range(MAX_TRIALS):
        trial = study.ask()
        value = engine.measure(lengths[trial.suggest_int("k", 0, len(lengths) - 1)]).log_tok_s
        if value is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, value)
        yield highest(engine)


def constant(engine: Engine, seed: int, *, target: int) -> Iterator[int | None]:
    """No search at all: the candidate next to a length, or the default where the target is 0."""
    del seed
    lengths = engine.landscape.lengths
    default = default_of(engine.landscape)
    yield min(lengths, key=lambda k: (abs(k - target), k)) if target else default


def _two(sampler: Callable[..., BaseSampler]) -> Callable[[int], BaseSampler]:
    return lambda seed: sampler(seed=seed, n_startup_trials=2)


METHODS = (
    Method(name="`tuner tune` as shipped", search=shipped),
    Method(name="ladder alone", search=ladder),
    Method(name="exhaustive, once each", search=exhaustive),
    Method(name="random", search=drawn),
    Method(name="one factor at a time", search=one_factor),
    Method(
        name="Optuna TPE, default",
        search=functools.partial(optuna_search, sampler=lambda seed: TPESampler(seed=seed)),
    ),
    Method(
        name="Optuna GP, default",
        search=functools.partial(optuna_search, sampler=lambda seed: GPSampler(seed=seed)),
    ),
    Method(
        name="Optuna TPE, 2 random starts",
        search=functools.partial(optuna_search, sampler=_two(TPESampler)),
    ),
    Method(
        name="Optuna GP, 2 random starts",
        search=functools.partial(optuna_search, sampler=_two(GPSampler)),
        dear=True,
    ),
    Method(name="constant k = 4", search=functools.partial(constant, target=4)),
    Method(name="default configuration", search=functools.partial(constant, target=0)),
)
ABLATIONS = (
    Method(name="complete", search=ladder),
    Method(
        name="without the shapes",
        search=functools.partial(ladder, model=Model(shaped=0.0)),
    ),
    Method(
        name="without acceptance",
        search=functools.partial(ladder, model=Model(tokens_error=math.inf)),
    ),
    Method(name="without posterior mean", search=functools.partial(ladder, single=True)),
    Method(
        name="without slow starts", search=functools.partial(ladder, model=Model(slow_share=0.0))
    ),
    Method(name="without second starts", search=functools.partial(ladder, max_starts=MAX_LENGTHS)),
    Method(name="3 lengths at most", search=functools.partial(ladder, max_lengths=3)),
    Method(
        name="5 lengths at most", search=functools.partial(ladder, max_lengths=5, max_starts=10)
    ),
)
