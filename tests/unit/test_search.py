import math

import pytest
from searching import (
    BUDGET,
    measurement,
    row,
    simulate,
    small_space,
)

from profiles.knobs import Knobs
from profiles.measurement import FailureKind
from tuner import study
from tuner.design import design
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


# --- the order of a search


def test_default_comes_first_then_a_ladder_of_draft_lengths():
    """What all is compared with, then at most four lengths, then the end: nothing else varies."""
    history = simulate(small_space(), lambda knobs: 0.1 * min(knobs.draft_tokens, 5), seed=0)

    assert Knobs() == history[0].knobs
    assert len({seen.knobs for seen in history}) <= 4
    assert len(history) <= 8


def test_ladder_keeps_the_other_knobs_of_the_default():
    """Lengths are compared alike; the design spreads the other knobs afterwards."""
    default = Knobs(max_num_seqs=16)
    space = small_space(default=default, max_num_seqs=(8, 16, 32))
    history = simulate(space, lambda knobs: 0.1 * min(knobs.draft_tokens, 5), seed=0)

    assert [16, 16, 16] == [seen.knobs.max_num_seqs for seen in history[:3]]
    assert len({seen.knobs.max_num_seqs for seen in history}) > 1


def test_ladder_takes_half_of_the_budget_where_there_is_more_to_search():
    """With four of eight starts made on the ladder the rest goes to the other knobs."""
    space = small_space(max_num_seqs=(8, 16))
    history = [row(n, knobs, rate=100) for n, knobs in enumerate([Knobs(), k(3), k(3), k(8)])]

    assert ask(history, space).knobs.max_num_seqs is not None


@pytest.mark.parametrize("gaussian", [True, False])
def test_model_is_asked_after_the_design(gaussian):
    """Both samplers give an untried point of the space from the same rows."""
    space = small_space(max_num_seqs=(8, 16))
    history = [row(n, knobs, rate=100 + n) for n, knobs in enumerate([Knobs(), k(3), k(8), k(15)])]

    found = ask(history, space, size=1, gaussian=gaussian)

    assert isinstance(found, Candidate)
    assert "the model" in found.why
    assert space.contains(found.knobs)
    assert found.knobs not in {seen.knobs for seen in history}


def test_the_same_rows_give_the_same_suggestion():
    """A search resumes from its rows alone: nothing else is remembered, with the real sampler."""
    space = small_space(names=("dflash", "ngram"), max_num_seqs=(8, 16))
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


def test_draft_length_that_crashed_waits_for_the_others():
    """Fresh lengths come before second attempts."""
    space = small_space(draft_lengths=(3, 8))
    history = [row(1, Knobs(), rate=5), row(2, k(3), failure=FailureKind.TIMEOUT)]

    assert k(8) == ask(history, space).knobs
    assert k(3) == ask([*history, row(3, k(8), rate=6)], space).knobs


def test_designed_start_that_crashed_waits_for_the_others():
    """The same holds for the design, which a space without drafters goes through at once."""
    space = small_space(names=(), max_num_seqs=(8, 32))
    history = [
        row(1, Knobs(), rate=5),
        row(2, Knobs(max_num_seqs=8), failure=FailureKind.TIMEOUT),
    ]
    last = [*history, row(3, Knobs(max_num_seqs=32), rate=5)]

    assert Knobs(max_num_seqs=32) == ask(history, space).knobs
    assert Knobs(max_num_seqs=8) == ask(last, space).knobs


def test_interrupted_start_is_no_trial():
    """A trial that the daemon's death ended is repeated and costs nothing of the budget."""
    history = [row(n, Knobs(), failure=FailureKind.INTERRUPTED) for n in range(2)]

    assert Knobs() == ask(history, budget=Budget(trials=1, failures=4)).knobs


def test_throttled_start_is_no_trial():
    """F55: a trial whose clocks the GPU lowered is measured again, and costs nothing either."""
    cold, hot = (measurement(token, k(3), rate=90.0) for token in ("cold", "hot"))
    hot = hot.model_copy(update={"invalid": "The GPU was throttled.", "invalid_code": "throttled"})
    first = row(0, Knobs(), rate=100)
    spoilt = Observation.of(hot, trial=1)
    budget = Budget(trials=2, failures=4)

    assert (None, False) == (spoilt.score, spoilt.conclusive)
    assert k(3) == ask([first, spoilt], small_space(draft_lengths=(3,)), budget=budget).knobs
    told = [first, spoilt, Observation.of(cold, trial=2)]
    assert Stop(reason="all 2 trials of the budget are spent") == ask(told, budget=budget)


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


def test_endless_interruptions_end_the_search():
    """A machine that never lets a start finish is left alone after three times the budget."""
    history = [row(n, k(n % 15 + 1), failure=FailureKind.INTERRUPTED) for n in range(24)]

    assert Stop(reason="24 of 24 starts were interrupted or invalid") == ask(history)


def test_failures_with_every_neighbour_tried_end_the_search():
    """The box around what works may be empty before the budget is spent."""
    space = small_space(draft_lengths=(1, 2, 3, 5, 8))
    history = [row(0, Knobs(), rate=5), row(1, k(1), failure=FailureKind.BAD_FLAG)]
    history += [row(n, k(8), failure=FailureKind.BAD_FLAG) for n in range(2, 5)]

    assert Stop(reason="4 starts failed and every neighbour of what works was tried") == ask(
        history, space
    )


def test_search_without_a_success_draws_at_random():
    """Without any rate there is nothing to model; the draw is seeded."""
    space = small_space(names=(), max_num_seqs=(8, 16, 32))
    history = [row(n, Knobs(), failure=FailureKind.BAD_FLAG) for n in (1, 2, 3)]

    found = ask(history, space, size=1)

    assert "drawn at random: nothing worked yet" == found.why
    assert found == ask(history, space, size=1)


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
