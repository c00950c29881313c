import math
import random
from dataclasses import replace
from itertools import pairwise

import pytest
from searching import (
    BUDGET,
    LANDSCAPES,
    landscape,
    landscape_space,
    observe,
    simulate,
    small_space,
)

from profiles.knobs import Knobs
from profiles.measurement import FailureKind
from tuner.design import design
from tuner.leader import leader
from tuner.search import Budget, next_candidate, next_for_classes


def k(length, name="dflash", **rest):
    return Knobs(drafter=name, draft_length=length, **rest)


def regret(path, seed, *, gaussian=False, trials=8):
    rates = landscape(path)
    history = simulate(
        landscape_space(rates),
        lambda knobs: math.log(rates[knobs.draft_tokens]),
        seed=seed,
        gaussian=gaussian,
        budget=Budget(trials=trials, failures=4),
    )
    best = leader(history)

    return 1 - rates[best.draft_tokens] / max(rates.values())


def crashing(knobs):
    """Best next to the frontier: more requests are faster until memory runs out."""
    load = (knobs.max_num_seqs or 1) * (1 + knobs.draft_tokens)
    if load > 256:
        return FailureKind.OOM_LOAD
    return math.log(100 + load / 4 + 5 * knobs.draft_tokens)


def crash_space():
    return small_space(
        default=Knobs(max_num_seqs=8), draft_lengths=(1, 3, 5, 8), max_num_seqs=(8, 16, 32, 64, 128)
    )


@pytest.mark.parametrize("path", LANDSCAPES, ids=lambda path: path.stem)
def test_published_landscape_is_solved_in_eight_trials(path):
    """True regret on published sweeps with 2.5 % noise, 20 runs: p90 <= 4 %, mean <= 1.5 %.

    Measured over 40 runs: p90 2.8 % and mean 0.8 % on the worst of the six.
    """
    regrets = sorted(regret(path, seed) for seed in range(20))

    assert regrets[17] <= 0.04
    assert sum(regrets) / len(regrets) <= 0.015


@pytest.mark.parametrize("seed", range(2))
def test_published_landscape_with_the_gaussian_process(seed):
    """The real sampler, five trials of seven points, on the sweep measured with vLLM itself."""
    path = next(path for path in LANDSCAPES if path.stem.startswith("strixhalo"))

    assert regret(path, seed, gaussian=True, trials=5) <= 0.06


def test_monotone_loss_recommends_off():
    """When every draft token costs speed the answer is off, in all of 20 runs."""
    space = small_space()
    leaders = {
        leader(simulate(space, lambda knobs: -0.05 * knobs.draft_tokens, seed=seed))
        for seed in range(20)
    }

    assert {Knobs()} == leaders


def test_crashes_never_win_and_are_not_repeated():
    """On the crash frontier: no crash is recommended, none is started twice, cones save most."""
    for seed in range(5):
        history = simulate(
            crash_space(), crashing, seed=seed, budget=Budget(trials=14, failures=4), size=6
        )
        crashed = [seen.knobs for seen in history if seen.blamed]

        assert leader(history) not in crashed
        assert len(crashed) == len(set(crashed))
        assert len(crashed) <= 6
        assert not isinstance(crashing(leader(history)), FailureKind)


def test_search_on_the_crash_frontier_beats_the_default():
    """The optimum, +0.56 in log tok/s, lies beside the crashes; fear must not keep us away."""
    gains = []
    for seed in range(5):
        history = simulate(
            crash_space(), crashing, seed=seed, budget=Budget(trials=14, failures=4), size=6
        )
        gains.append(crashing(leader(history)) - crashing(Knobs(max_num_seqs=8)))

    assert min(gains) > 0.45


def test_interrupted_search_goes_on_where_it_was():
    """Cutting a search after any trial and resuming from its rows gives the same search."""
    space = crash_space()
    budget = Budget(trials=9, failures=4)
    whole = simulate(space, crashing, seed=3, budget=budget, size=5, noise=0)
    starts = design(space, space.default, [], size=5)

    for cut, (_, after) in enumerate(pairwise(whole), start=1):
        found = next_candidate(whole[:cut], space, starts, seed=3, budget=budget, gaussian=False)

        assert after.knobs == found.knobs


def test_shuffled_class_names_do_not_matter():
    """The turn depends on names and starts, not on the order of a dictionary."""
    space = small_space()
    starts = design(space, Knobs(), [], size=4)
    rng = random.Random(1)
    rows = [observe(n, k(n + 1), rng.random()) for n in range(3)]
    other = [replace(seen, score=0.5) for seen in rows]

    assert next_for_classes(
        {"a": rows, "b": other}, space, starts, seed=1, budget=BUDGET
    ) == next_for_classes({"b": other, "a": rows}, space, starts, seed=1, budget=BUDGET)
