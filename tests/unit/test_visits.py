"""Visits: slices between two changes of the knobs."""

from types import SimpleNamespace

import pytest
from live_engine import Link, clock

from profiles.errors import UnavailableError
from service import visits as module
from service.live_files import LiveKnobs
from service.visits import Visits, goodput, shares


@pytest.fixture
def link(monkeypatch):
    made = Link()
    clock(monkeypatch, lambda: made, module)
    return made


async def test_a_visit_is_what_lies_between_two_changes(link):
    """The first move ends nothing, the second ends the first arm, `end` ends the second."""
    visits = Visits(link)
    assert await visits.move(3, 0.25) is None
    first = await visits.move(8, 0.25)
    last = await visits.end(LiveKnobs.constant(2))

    assert [3, 8] == [first.arm, last.arm]
    assert [{(8, 3)}, {(8, 8)}] == [set(first.cells), set(last.cells)]
    assert {3} == set(first.drafts)
    assert goodput(first).seconds == pytest.approx(0.25, abs=0.1)
    assert LiveKnobs.constant(2) == link.wish
    assert await visits.end(LiveKnobs.constant(1)) is None


async def test_caps_go_with_a_visit(link):
    """A visit may hold the admitted batch and the budget as they are."""
    await Visits(link).move(3, 0.25, active=4, budget=512)

    assert (4, 512) == (link.wish.active, link.wish.budget)


async def test_a_slow_engine_gets_longer(link):
    """A visit needs a few steps; a slice of less than one is extended."""
    link.model = {"seconds_of": lambda *_: 0.3}
    visits = Visits(link)
    await visits.move(3, 0.25)
    visit = await visits.end(LiveKnobs.constant(0))

    assert visit is not None
    assert 4 <= visit.cells[8, 3].steps


async def test_too_few_steps_are_no_visit(link):
    """An engine that takes a second per step gives nothing within a visit."""
    link.model = {"seconds_of": lambda *_: 10.0}
    visits = Visits(link)
    await visits.move(3, 0.001)
    link._cells = {}

    assert await visits.end(LiveKnobs.constant(0)) is None


async def test_an_engine_without_steps_cannot_be_visited(link):
    """It confirms no change, and the caller is told."""
    link.idle = True

    with pytest.raises(UnavailableError, match="no steps"):
        await Visits(link).move(3, 0.25)


async def test_leaving_keeps_what_somebody_else_has_set(link):
    """Only our own probe is replaced."""
    visits = Visits(link)
    await visits.move(3, 0.25)
    link.put(LiveKnobs.constant(9))
    await visits.leave(LiveKnobs.constant(1))
    assert 9 == link.length

    await visits.move(3, 0.25)
    await visits.leave(LiveKnobs.constant(1))
    assert 1 == link.length


async def test_a_visit_does_not_overwrite_a_switch(link):
    """A switch within a round stays in force: the next visit used to bring the old caps back."""
    visits = Visits(link)
    await visits.move(3, 0.25)
    theirs = LiveKnobs.constant(5, active=4)
    link.put(theirs)

    with pytest.raises(UnavailableError, match="Somebody else"):
        await visits.move(8, 0.25)
    await visits.leave(LiveKnobs.constant(1))
    assert theirs == link.wish


async def test_a_probe_that_was_never_confirmed_is_taken_back(link):
    """An engine that fell idle at the first visit must not wake up with the probe's length."""
    visits = Visits(link)
    link.idle = True
    with pytest.raises(UnavailableError):
        await visits.move(8, 0.25)
    await visits.leave(LiveKnobs.constant(1))

    assert 1 == link.length


def test_shares_need_enough_steps(link):
    """A handful of request-steps says nothing about who shares the batch."""
    before = link.read()
    assert {} == shares(before, before)
    link.spend(0.25)
    link.code = 5
    link.spend(0.25)

    found = shares(before, link.read())
    assert {1, 5} == set(found)
    assert 1.0 == pytest.approx(sum(found.values()))
    few = SimpleNamespace(classes={})
    assert {} == shares(few, few)
