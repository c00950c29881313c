"""Leases of a profile."""

import pytest

from profiles.errors import BusyError
from profiles.knobs import Knobs
from profiles.profile import default_profile
from service import holds
from service.holds import Holds

ONE = default_profile("f00d", Knobs())
TWO = default_profile("f00d", Knobs(drafter="ngram", draft_length=3))


def test_the_newest_hold_of_an_application_counts():
    """And what it held before counts again when the newer one is released."""
    held = Holds()
    held.take("a", ONE, "")
    held.take("b", ONE, "")
    newest = held.take("a", TWO, "")

    assert [("b", ONE), ("a", TWO)] == list(held.profiles().items())
    held.release(newest)
    held.release(newest)
    assert {"a": ONE, "b": ONE} == held.profiles()


def test_an_ended_hold_knows_why():
    """All at once; whoever holds is told, and whether to take it again."""
    held = Holds()
    one = held.take("a", ONE, "")
    held.clear("tunerd ends", again=True)

    assert ["tunerd ends", True, True] == [one.why_over, one.again, one.over.is_set()]
    assert [] == list(held)


def test_there_is_a_limit(monkeypatch):
    """Each hold is an open connection."""
    monkeypatch.setattr(holds, "MOST", 2)
    held = Holds()
    one = held.take("a", ONE, "")
    held.take("a", ONE, "")

    with pytest.raises(BusyError, match="2 holds are in force"):
        held.take("b", ONE, "")
    held.release(one)
    held.take("b", ONE, "")
