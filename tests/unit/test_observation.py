import pytest
from searching import measurement, row

from profiles.knobs import Knobs
from profiles.measurement import FailureKind
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
