"""Deaths of engines: what they are to the daemon, and how long the default is left alone."""

import pytest

from service.deaths import LONG_S, MANY_S, Deaths
from service.modes import Event


def flapping(times):
    """The pauses of a default that comes up and dies at once, so many times."""
    deaths, pauses = Deaths(), []
    for number in range(times):
        deaths.serves(float(number))
        if deaths.died(number + 0.5, default=True) is Event.ENGINE_FLAPS:
            pauses.append(deaths.pause_s)
    return deaths, pauses


def test_the_pauses_double_up_to_a_minute():
    """The first death has none: one start at once is what most engines need."""
    assert [1, 2, 4, 8, 16, 32, 60, 60, 60] == flapping(10)[1]


def test_very_many_deaths_are_no_overflow():
    """A machine that is left alone for a year."""
    assert 60.0 == flapping(5000)[0].pause_s


@pytest.mark.parametrize(
    ("served_s", "what"), [(LONG_S, Event.ENGINE_DIED), (LONG_S - 1, Event.ENGINE_FLAPS)]
)
def test_serving_for_a_while_ends_the_trouble(served_s, what):
    """A death after a long life is the first of its kind again."""
    deaths, _ = flapping(5)
    deaths.serves(1000.0)

    assert what is deaths.died(1000.0 + served_s, default=True)


def test_a_long_life_that_ended_by_a_replacement_ends_the_trouble():
    """An engine that served for hours and was replaced on purpose leaves no old pause behind."""
    deaths, _ = flapping(5)
    deaths.serves(1000.0)
    deaths.serves(1000.0 + LONG_S)

    assert Event.ENGINE_DIED is deaths.died(1001.0 + LONG_S, default=True)


def test_coming_up_is_not_the_end_of_the_trouble():
    """Only a life is: a start that succeeds resets nothing."""
    deaths, _ = flapping(5)
    deaths.serves(1000.0)

    assert 8.0 == deaths.pause_s


def test_starts_that_fail_have_pauses_as_well():
    """Whether it dies before or after it is ready makes no difference."""
    deaths = Deaths()
    pauses = []
    for _ in range(4):
        deaths.did_not_start()
        pauses.append(deaths.pause_s)

    assert [1, 1, 2, 4] == pauses


def test_a_profile_has_three_lives():
    """There is something to fall back to, so it waits for nothing; then the count begins anew."""
    deaths = Deaths()
    found = [deaths.died(float(at), default=False) for at in range(4)]

    died, keeps = Event.ENGINE_DIED, Event.ENGINE_KEEPS_DYING
    assert [died, died, keeps, died] == found


def test_deaths_of_long_ago_do_not_count():
    """Three within ten minutes, not three in a year."""
    deaths = Deaths()
    found = {deaths.died(at * MANY_S, default=False) for at in (0.0, 0.5, 1.0)}

    assert {Event.ENGINE_DIED} == found
