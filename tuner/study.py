"""Optuna as a pure function over our rows: an in-memory study is built, asked and thrown away."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import create_trial

from profiles.knobs import Knobs
from tuner.space import Space

ASKS = 50  # refused suggestions before the caller must choose by itself
# the designed starts take the place of random ones; a Gaussian process needs two points
STARTUP = 2


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial as Optuna is told it: always COMPLETE, since every sampler drops FAIL."""

    knobs: Knobs
    value: float
    constraints: Mapping[str, float]  # feasible when all are <= 0; the same keys in every row


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """What the model wants next; `settled` when all it wants was refused before."""

    knobs: Knobs
    settled: bool


@cache
def has_gaussian_process() -> bool:
    """Whether torch and scipy are there: without them GPSampler fails at its first suggestion."""
    try:
        import_module("scipy.optimize")
        import_module("torch")
    except ImportError:
        return False
    return True


def suggest(
    space: Space,
    rows: Sequence[Row],
    *,
    seed: int,
    refuse: Callable[[Knobs], tuple[float, Mapping[str, float]] | None],
    gaussian: bool | None = None,
) -> Suggestion:
    """The next point by model; what `refuse` gives a value and constraints for is told and passed.

    A model that comes back to a refused point although it was told again wants nothing else: the
    answer is then that point, with `settled` set, instead of dozens of equal questions.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # one line per trial is ours to write
    grid = _distributions(space)
    use_gaussian = has_gaussian_process() if gaussian is None else gaussian
    study = optuna.create_study(direction="maximize", sampler=_sampler(seed, gaussian=use_gaussian))
    for row in rows:
        for params in space.encodings(row.knobs):
            study.add_trial(
                create_trial(
                    params=params,
                    distributions=grid,
                    value=row.value,
                    constraints=dict(row.constraints),
                )
            )
    told: set[Knobs] = set()
    with _one_thread(import_module("torch") if use_gaussian else None):
        for _ in range(ASKS):
            trial = study.ask(grid)
            knobs = space.decode(trial.params)
            refused = refuse(knobs)
            if refused is None:
                return Suggestion(knobs=knobs, settled=False)
            if knobs in told:
                break
            told.add(knobs)
            value, constraints = refused
            for key, margin in constraints.items():
                trial.set_constraint(key, margin)
            study.tell(trial, value)
    return Suggestion(knobs=knobs, settled=True)


@contextmanager
def _one_thread(torch: Any) -> Iterator[None]:
    """Matrices of 30 rows are slower on many threads, and the cores belong to the engine."""
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _sampler(seed: int, *, gaussian: bool) -> BaseSampler:
    if gaussian:
        return GPSampler(seed=seed, n_startup_trials=STARTUP)
    return TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True)


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    return {
        axis.name: IntDistribution(0, len(axis.values) - 1)
        if axis.ordinal
        else CategoricalDistribution(axis.names())
        for axis in space.axes
    }
