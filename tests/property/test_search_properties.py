from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from searching import observe, small_space

from profiles.knobs import Knobs
from profiles.measurement import FailureKind
from tuner.cones import Cones
from tuner.design import design
from tuner.ladder import MAX_STARTS
from tuner.leader import leader
from tuner.search import Budget, Candidate, Stop, next_candidate

SPACES = [
    small_space(draft_lengths=(2, 5, 9), names=("a", "b")),
    small_space(draft_lengths=(1, 4), max_num_seqs=(16, 64), max_num_batched_tokens=(128, 512)),
]
ANSWERS = st.one_of(
    st.floats(0, 3),
    st.sampled_from([kind for kind in FailureKind if kind is not FailureKind.CRASH]),
)
BUDGET = Budget(trials=7, failures=3)


@st.composite
def searches(draw):
    """A search of some length on an engine that answers anything."""
    space = draw(st.sampled_from(SPACES))
    starts = design(space, Knobs(), [], size=draw(st.integers(1, 4)))
    seed = draw(st.integers(0, 5))
    history = []
    for trial in range(draw(st.integers(0, 9))):
        found = next_candidate(history, space, starts, seed=seed, budget=BUDGET, gaussian=False)
        if isinstance(found, Stop):
            break
        history.append(observe(trial, found.knobs, draw(ANSWERS)))
    return history, space, starts, seed


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(searches())
def test_suggestion_is_new_allowed_and_resumable(search):
    """Nothing in a cone or outside the space; a measured point only as the rung of a ladder.

    A ladder starts a length again where one lucky start would decide between neighbours.
    """
    history, space, starts, seed = search

    found = next_candidate(history, space, starts, seed=seed, budget=BUDGET, gaussian=False)

    assert found == next_candidate(
        list(history), space, starts, seed=seed, budget=BUDGET, gaussian=False
    )
    if isinstance(found, Candidate):
        again = found.knobs in {seen.knobs for seen in history if seen.measured}
        assert again == (": again, " in found.why)
        assert sum(seen.knobs == found.knobs for seen in history) < MAX_STARTS
        assert space.contains(found.knobs)
        assert Cones.of(history).excludes(found.knobs) is None
        assert found.why
    else:
        assert found.reason


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(searches())
def test_leader_worked_and_never_failed(search):
    """The recommendation was measured, and no start of it failed by its own fault."""
    history, *_ = search
    found = leader(history)

    failed = {seen.knobs for seen in history if seen.blamed}

    assert (found is None) == ({seen.knobs for seen in history if seen.measured} <= failed)
    if found is not None:
        assert found in {seen.knobs for seen in history if seen.feasible}
        assert found not in failed


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 3), st.lists(ANSWERS, min_size=60, max_size=60))
def test_every_search_ends(seed, answers):
    """Whatever the engine answers, the search stops within three times its budget."""
    space = SPACES[0]
    starts = design(space, Knobs(), [], size=3)
    history = []
    while isinstance(
        found := next_candidate(history, space, starts, seed=seed, budget=BUDGET, gaussian=False),
        Candidate,
    ):
        history.append(observe(len(history), found.knobs, answers[len(history)]))

    assert len(history) <= 3 * BUDGET.trials
