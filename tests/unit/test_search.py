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
    measurement,
    observe,
    row,
    simulate,
    small_space,
)

from profiles.knobs import Knobs
from profiles.measurement import FailureKind
from tuner import study
from tuner.design import design
from tuner.leader import estimates, leader, noise
from tuner.observation import Observation
from tuner.search import Budget, Candidate, Stop, _rows, next_candidate, next_for_classes


def k(length, name="dflash", **rest):
    return Knobs(drafter=name, draft_length=length, **rest)


def ask(history, space=None, *, size=4, seed=0, budget=BUDGET, **more):
    space = space or small_space()
    starts = design(space, space.default, [], size=size)
    return next_candidate(
        history, space, starts, seed=seed, budget=budget, **{"gaussian": False, **more}
    )


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


# --- the order of a search


def test_design_is_tried_first_and_in_order():
    """Default, then the designed draft lengths, before any model is asked."""
    history = simulate(small_space(), lambda _: 1.0, seed=0, budget=Budget(trials=4, failures=4))

    assert [Knobs(), k(3), k(8), k(15)] == [seen.knobs for seen in history]


@pytest.mark.parametrize("gaussian", [True, False])
def test_model_is_asked_after_the_design(gaussian):
    """Both samplers give an untried point of the space from the same rows."""
    space = small_space()
    history = [row(n, knobs, rate=100 + n) for n, knobs in enumerate([Knobs(), k(3), k(8), k(15)])]

    found = ask(history, space, gaussian=gaussian)

    assert isinstance(found, Candidate)
    assert space.contains(found.knobs)
    assert found.knobs not in {seen.knobs for seen in history}


def test_the_same_rows_give_the_same_suggestion():
    """A search resumes from its rows alone: nothing else is remembered, with the real sampler."""
    space = small_space(names=("dflash", "ngram"))
    history = [row(n, knobs, rate=100 + n) for n, knobs in enumerate([Knobs(), k(3), k(8), k(15)])]

    assert ask(history, space, gaussian=True) == ask(list(history), space, gaussian=True)


def test_missing_torch_falls_back_to_tpe(monkeypatch):
    """GPSampler fails at its first suggestion without torch; the search must not."""
    study.has_gaussian_process.cache_clear()
    monkeypatch.setattr(study, "import_module", _no_module)

    assert not study.has_gaussian_process()
    assert isinstance(
        ask([row(1, Knobs(), rate=5), row(2, k(3), rate=6)], size=2, gaussian=None), Candidate
    )
    study.has_gaussian_process.cache_clear()


def _no_module(name):
    raise ImportError(name)


def test_last_point_needs_no_model():
    """With one configuration left there is nothing to ask."""
    space = small_space(draft_lengths=(2, 3))
    history = [row(1, Knobs(), rate=5), row(2, k(2), rate=6)]

    assert k(3) == ask(history, space, size=1).knobs


def test_default_that_crashed_is_started_once_more_at_once():
    """Everything is compared with the default, and the first crash may have been the host."""
    found = ask([row(1, Knobs(), failure=FailureKind.CRASH)])

    assert Knobs() == found.knobs
    assert "once more" in found.why
    assert k(3) == ask([row(n, Knobs(), failure=FailureKind.CRASH) for n in (1, 2)]).knobs


def test_designed_start_that_crashed_waits_for_the_others():
    """Fresh points come before second attempts."""
    history = [row(1, Knobs(), rate=5), row(2, k(3), failure=FailureKind.TIMEOUT)]

    assert k(8) == ask(history).knobs
    assert k(3) == ask([*history, row(3, k(8), rate=5), row(4, k(15), rate=5)]).knobs


def test_interrupted_start_is_no_trial():
    """A trial that the daemon's death ended is repeated and costs nothing of the budget."""
    history = [row(n, Knobs(), failure=FailureKind.INTERRUPTED) for n in range(2)]

    assert Knobs() == ask(history, budget=Budget(trials=1, failures=4)).knobs


def test_point_that_never_gives_an_answer_is_left():
    """After three interrupted starts of one point the search goes on."""
    history = [row(n, Knobs(), failure=FailureKind.FOREIGN_MEMORY) for n in range(3)]

    assert k(3) == ask(history).knobs


# --- what Optuna is told


def test_a_crash_is_told_as_the_worst_value_and_infeasible():
    """COMPLETE with the worst feasible value and a broken constraint; FAIL would be dropped."""
    rows = _rows(
        [row(1, Knobs(), rate=math.e), row(2, k(3), failure=FailureKind.OOM_LOAD)], alive=True
    )

    assert [(1.0, {"alive": -1.0}), (1.0, {"alive": 1.0})] == [
        (each.value, each.constraints) for each in rows
    ]


def test_broken_limits_are_told_as_constraints():
    """A limit nobody breaks costs no model; one that is broken is told for every row."""
    rows = _rows(
        [
            row(1, Knobs(), rate=5, limits={"ttft": -0.5, "power": -1}),
            row(2, k(3), rate=9, limits={"ttft": 0.5, "power": -1}),
            row(3, k(8), failure=FailureKind.CRASH),
        ],
        alive=True,
    )

    assert [-0.5, 0.5, 0.0] == [each.constraints["ttft"] for each in rows]
    assert all({"ttft", "alive"} == set(each.constraints) for each in rows)


def test_off_is_told_for_every_drafter():
    """Off is draft length 0 of each drafter, so each slope starts from a known point."""
    space = small_space(names=("dflash", "ngram"), draft_lengths=(2, 4))

    assert [
        {"drafter": "dflash", "draft_length": 0},
        {"drafter": "ngram", "draft_length": 0},
    ] == space.encodings(Knobs())


# --- the end of a search


def test_budget_of_trials_ends_the_search():
    """The reason is a sentence."""
    history = [row(n, k(3), rate=5) for n in range(8)]

    assert Stop(reason="all 8 trials of the budget are spent") == ask(history)


def test_everything_tried_ends_the_search():
    """A small space is searched completely and then left."""
    space = small_space(draft_lengths=(2,))
    history = [row(1, Knobs(), rate=5), row(2, k(2), rate=6)]

    assert Stop(reason="all 2 configurations were tried or are known to fail") == ask(
        history, space
    )


def test_failures_leave_only_neighbours_of_what_works():
    """With the failure budget spent, nothing far from a known-good point is started."""
    space = small_space(draft_lengths=(1, 2, 3, 5, 8))
    history = [
        row(1, Knobs(), rate=5),
        *(row(n, k(8), failure=FailureKind.BAD_FLAG) for n in range(2, 6)),
    ]

    assert k(1) == ask(history, space).knobs


def test_failures_without_a_success_end_the_search():
    """When nothing ever worked there is no neighbour to try."""
    history = [
        row(n, k(length), failure=FailureKind.BAD_FLAG) for n, length in enumerate((1, 2, 3, 4))
    ]

    assert Stop(reason="4 starts failed and none worked") == ask(history)


def test_twice_the_failures_end_the_search():
    """Even neighbours may fail, and then it is enough."""
    history = [row(0, Knobs(), rate=5)]
    history += [row(n, k(3), failure=FailureKind.BAD_FLAG) for n in range(1, 9)]

    assert "8 starts failed" in ask(history, budget=Budget(trials=20, failures=4)).reason


def test_no_improvement_ends_a_long_search():
    """Eight trials without a gain above the noise, after trial 12."""
    lengths = [*range(1, 16)]
    history = [row(n, k(length), rate=100) for n, length in enumerate(lengths)]
    history += [row(20 + n, k(1, max_num_seqs=n + 1), rate=100) for n in range(5)]

    found = ask(
        history, small_space(names=("dflash", "ngram")), budget=Budget(trials=40, failures=4)
    )

    assert Stop(reason="no improvement above the noise in the last 8 trials") == found


def test_three_equal_and_repeated_leaders_end_the_search():
    """When the best three are within 1 % and measured twice, more trials tell nothing."""
    history = [row(n, k(n // 2 + 1), rate=100) for n in range(6)]

    assert "within 1 %" in ask(history).reason


# --- several classes


def test_classes_choose_in_turn():
    """One start serves all classes; the class whose turn it is names itself."""
    space = small_space()
    starts = design(space, Knobs(), [], size=1)
    asked = []
    histories = {"a": [], "b": []}
    for n in range(4):
        found = next_for_classes(histories, space, starts, seed=1, budget=BUDGET)
        asked.append(found.workload)
        for name, rates in (("a", 100), ("b", 50)):
            histories[name].append(row(n, found.knobs, rate=rates + found.knobs.draft_tokens))

    assert ["a", "b", "a", "b"] == asked


def test_finished_class_passes_its_turn():
    """A class that has stopped leaves the starts to the others, until all have."""
    space = small_space(draft_lengths=(2,))
    done = [row(1, Knobs(), rate=5), row(2, k(2), rate=6)]
    starts = design(space, Knobs(), [], size=2)

    one = next_for_classes({"a": done, "b": done[:1]}, space, starts, seed=1, budget=BUDGET)
    none = next_for_classes({"a": done, "b": done}, space, starts, seed=1, budget=BUDGET)

    assert ("b", k(2)) == (one.workload, one.knobs)
    assert Stop(reason="all 2 configurations were tried or are known to fail") == none


def test_no_class_no_search():
    """Without traffic there is nothing to search for."""
    assert Stop(reason="no class to search for") == next_for_classes(
        {}, small_space(), [], seed=0, budget=BUDGET
    )


# --- the leader


def test_nothing_measured_has_no_leader():
    """Failures alone recommend nothing."""
    assert leader([row(1, Knobs(), failure=FailureKind.CRASH)]) is None


def test_tie_goes_to_the_smaller_draft_length():
    """Within 1 % the smaller draft length wins, off included."""
    history = [row(1, k(8), rate=100.5), row(2, k(3), rate=100), row(3, k(5), rate=80)]

    assert k(3) == leader(history)
    assert Knobs() == leader([*history, row(4, Knobs(), rate=99.9)])


def test_single_lucky_start_is_pulled_towards_the_mean():
    """Three starts at +4 % beat one start at +5.5 %: the best observation is not the best guess."""
    history = [
        *(row(n, k(3), rate=104) for n in range(3)),
        row(4, k(8), rate=105.5),
        row(5, Knobs(), rate=100),
        row(6, k(15), rate=100),
    ]
    lucky, steady = (
        next(each for each in estimates(history) if each.knobs == knobs) for knobs in (k(8), k(3))
    )

    assert math.log(105.5) - lucky.log_tok_s > 2 * (math.log(104) - steady.log_tok_s)
    assert k(3) == leader(history)


def test_failed_and_limit_breaking_points_never_lead():
    """Speed that crashed once, or that breaks a limit, is not recommended."""
    history = [
        row(1, Knobs(), rate=50),
        row(2, k(3), rate=200, limits={"ttft": 0.1}),
        row(3, k(8), rate=300),
        row(4, k(8), failure=FailureKind.OOM_SERVE),
    ]

    assert Knobs() == leader(history)


def test_noise_pools_repeated_starts_with_the_prior():
    """Without repeats it is the prior; wide repeats raise it."""
    assert 0.025 == pytest.approx(noise([row(1, Knobs(), rate=5)]))
    assert noise([row(1, Knobs(), rate=5), row(2, Knobs(), rate=6)]) > 0.05


def test_observation_of_a_measurement():
    """A stored measurement becomes a row: rate, failure kind, start and knobs."""
    good = Observation.of(measurement("t1", k(3), rate=math.e), trial=4, limits={"x": -1})
    bad = Observation.of(measurement("t2", failure=FailureKind.OOM_LOAD), trial=5)

    assert (4, "t1", k(3), True) == (good.trial, good.start, good.knobs, good.feasible)
    assert 1.0 == pytest.approx(good.log_tok_s, abs=0.01)
    assert (None, FailureKind.OOM_LOAD, True) == (bad.log_tok_s, bad.failure, bad.blamed)


# --- whole searches


@pytest.mark.parametrize("path", LANDSCAPES, ids=lambda path: path.stem)
def test_published_landscape_is_solved_in_eight_trials(path):
    """True regret on published sweeps with 2.5 % noise: p90 of 20 runs at most 5 %, mean 2.5 %."""
    regrets = sorted(regret(path, seed) for seed in range(20))

    assert regrets[17] <= 0.05
    assert sum(regrets) / len(regrets) <= 0.025


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
        assert len(crashed) <= 8
        assert not isinstance(crashing(leader(history)), FailureKind)


def test_search_on_the_crash_frontier_beats_the_default():
    """The optimum lies beside the crashes, and fear of them must not keep the search away."""
    gains = []
    for seed in range(8):
        history = simulate(
            crash_space(), crashing, seed=seed, budget=Budget(trials=14, failures=4), size=6
        )
        gains.append(crashing(leader(history)) - crashing(Knobs(max_num_seqs=8)))

    assert min(gains) > 0.1


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
    other = [replace(seen, log_tok_s=0.5) for seen in rows]

    assert next_for_classes(
        {"a": rows, "b": other}, space, starts, seed=1, budget=BUDGET
    ) == next_for_classes({"b": other, "a": rows}, space, starts, seed=1, budget=BUDGET)
