import pytest
from searching import measurement, row

from profiles.knobs import Knobs
from profiles.measurement import Acceptance, FailureKind
from tuner.observation import Observation, failed_starts

LIVE = Knobs(drafter="dflash", draft_length=15, live=True)


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        (LIVE, LIVE),
        (LIVE.model_copy(update={"draft_schedule": ((1, 64, 3),)}), LIVE),
        (LIVE.model_copy(update={"max_active_seqs": 4, "max_scheduled_tokens": 512}), LIVE),
        (Knobs(drafter="dflash", draft_length=3), Knobs(drafter="dflash", draft_length=3)),
        (Knobs(max_active_seqs=4), Knobs(max_active_seqs=4)),
    ],
)
def test_observation_is_of_an_engine_start(knobs, expected):
    """Live knobs belong to the engine they were found in; static ones are their own start."""
    assert expected == Observation.of(measurement("t1", knobs), trial=1).knobs


def test_two_schedules_of_one_engine_are_two_samples_of_it():
    """A search compares engine starts: what two sweeps found in one kind of engine is pooled."""
    rows = [
        Observation.of(
            measurement(token, LIVE.model_copy(update={"draft_schedule": ((1, 64, k),)})), trial=k
        )
        for token, k in (("t1", 2), ("t2", 3))
    ]

    assert 1 == len({each.knobs for each in rows})
    assert ["t1", "t2"] == [each.start for each in rows]


def test_failed_start_counts_once():
    """One start that failed for three classes is one, and a foreign failure is none."""
    history = [
        *(row(n, LIVE, failure=FailureKind.CRASH, start="a") for n in range(3)),
        row(4, LIVE, failure=FailureKind.FOREIGN_MEMORY, start="b"),
        row(5, LIVE, rate=100.0),
    ]

    assert 1 == failed_starts(history)


def counted(knobs, acceptance):
    """The drafts of a measurement of 1000 tokens and 10 requests with these counters."""
    found = measurement("t1", knobs).model_copy(update={"acceptance": acceptance})
    return Observation.of(found, trial=1).drafts


def test_drafts_are_counted_by_accepted_tokens():
    """Drafts that reached position j and not j + 1; 990 steps and tokens are drafts or theirs."""
    k3 = Knobs(drafter="dflash", draft_length=3)
    acceptance = Acceptance(
        drafts=600, draft_tokens=1800, accepted_tokens=390, accepted_per_position=(240, 100, 50)
    )

    assert (360, 140, 50, 50) == counted(k3, acceptance).accepted


def test_steps_without_a_draft_are_counted_as_none_accepted():
    """An ngram drafter often finds nothing, and then no counter moves."""
    ngram = Knobs(drafter="ngram", draft_length=2)
    acceptance = Acceptance(
        drafts=100, draft_tokens=200, accepted_tokens=90, accepted_per_position=(60, 30)
    )
    found = counted(ngram, acceptance)

    assert (40 + 800, 30, 30) == found.accepted
    assert 900 == found.request_steps


def test_drafts_of_changing_lengths_are_no_evidence():
    """A schedule drafts different lengths, and off drafts nothing."""
    acceptance = Acceptance(
        drafts=100, draft_tokens=200, accepted_tokens=90, accepted_per_position=(60, 30)
    )
    table = Knobs(drafter="dflash", draft_length=3, draft_schedule=((1, 64, 3),))

    assert counted(LIVE, acceptance) is None
    assert counted(table, acceptance) is None
    assert counted(Knobs(), None) is None
