"""Wrong keys by their source: when they are too many, and what is remembered."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.gateway.guesses import MOST, SOURCES, WINDOW_S, Guesses, source


def spent(address="10.0.0.1", now=0.0):
    """A source that has had its answers."""
    guesses = Guesses()
    for _ in range(MOST):
        assert guesses.wrong(address, now) is None
    return guesses


def test_the_excess_says_how_long_to_wait_and_when_it_is_new():
    """The window began with the first wrong key; further ones do not prolong it."""
    guesses = spent()
    first, second = guesses.wrong("10.0.0.1", 10.0), guesses.wrong("10.0.0.1", 59.0)

    assert (50.0, True, "10.0.0.1") == (first.wait_s, first.first, first.source)
    assert (1.0, False) == (second.wait_s, second.first)
    assert guesses.wrong("10.0.0.1", WINDOW_S) is None


def test_another_source_is_counted_for_itself():
    """What one does costs the others nothing."""
    guesses = spent()

    assert guesses.wrong("10.0.0.2", 0.0) is None
    assert guesses.wrong("10.0.0.1", 0.0) is not None


def test_memory_is_bounded_and_the_oldest_is_forgotten():
    """However many addresses there are; the newest are still counted."""
    guesses = spent("old")
    for number in range(SOURCES):
        guesses.wrong(f"new-{number}", 1.0)

    assert SOURCES == len(guesses)
    assert guesses.wrong("old", 2.0) is None
    assert SOURCES == len(guesses)


def test_a_source_that_comes_back_is_not_the_oldest():
    """A new window is a new place in the order."""
    guesses = Guesses()
    guesses.wrong("back", 0.0)
    for number in range(SOURCES - 1):
        guesses.wrong(f"other-{number}", 1.0)
    for _ in range(MOST):
        guesses.wrong("back", WINDOW_S)
    guesses.wrong("one more", WINDOW_S)

    assert guesses.wrong("back", WINDOW_S) is not None


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_what_is_one_source(address, name):
    """A machine has a whole /64 of IPv6 and could else guess from each of its addresses."""
    assert name == source(address)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 30)), max_size=150))
def test_no_source_gets_more_answers_than_its_windows_allow(steps):
    """Whatever the order and the pauses: at most MOST a window, and no wait beyond one."""
    guesses, now = Guesses(), 0.0
    answered = {}
    for address, pause_s in steps:
        now += pause_s
        excess = guesses.wrong(address, now)
        if excess is None:
            answered.setdefault(address, []).append(now)
        else:
            assert 0 < excess.wait_s <= WINDOW_S
            assert MOST <= sum(now - at < WINDOW_S for at in answered[address])
    for times in answered.values():
        # a window begins with an answer, so two windows at most meet in one span
        assert all(sum(at <= x < at + WINDOW_S for x in times) <= 2 * MOST for at in times)
