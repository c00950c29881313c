"""Connections and descriptors: what fits, and what is said when less fits than was asked for."""

import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gateway import descriptors
from service.gateway.descriptors import RESERVE, connections, fitting, needed


class Limits:
    """The limit of open files of a process that may raise it, or not."""

    def __init__(self, soft, hard, *, may=True):
        self.pair, self.may = (soft, hard), may

    def getrlimit(self, _which):
        return self.pair

    def setrlimit(self, _which, pair):
        if not self.may:
            raise PermissionError
        self.pair = pair


def under(monkeypatch, *pair, may=True):
    """Those limits in force."""
    limits = Limits(*pair, may=may)
    for name in ("getrlimit", "setrlimit"):
        monkeypatch.setattr(descriptors.resource, name, getattr(limits, name))
    return limits


@given(st.integers(1, 10**6), st.integers(0, 10**6))
def test_what_fits_is_what_was_wanted_or_the_most_possible(wanted, limit):
    """Never more than wanted or than there are descriptors for, one less would not be the most."""
    found = fitting(wanted, limit)

    assert 1 <= found <= wanted
    assert needed(found) <= limit or found == 1
    assert found == wanted or needed(found + 1) > limit


@pytest.mark.parametrize("soft", [8256, 65536, resource.RLIM_INFINITY])
def test_enough_is_left_alone(monkeypatch, caplog, soft):
    """The unit's own LimitNOFILE, and none at all."""
    limits = under(monkeypatch, soft, resource.RLIM_INFINITY, may=False)

    assert 4096 == connections(4096)
    assert soft == limits.pair[0]
    assert [] == caplog.records


@pytest.mark.parametrize("hard", [20000, resource.RLIM_INFINITY])
def test_a_soft_limit_is_raised_as_far_as_needed(monkeypatch, caplog, hard):
    """1024 is usual outside systemd's units and needs no warning."""
    limits = under(monkeypatch, 1024, hard)

    assert 4096 == connections(4096)
    assert (8256, hard) == limits.pair
    assert [] == caplog.records


@pytest.mark.parametrize(("hard", "may"), [(1024, True), (65536, False)])
def test_too_few_lower_the_limit_and_say_so(monkeypatch, caplog, hard, may):
    """One line with both numbers and what to set."""
    under(monkeypatch, 1024, hard, may=may)
    found = connections(4096)

    assert (1024 - RESERVE) // 2 == found
    [record] = caplog.records
    assert "WARNING" == record.levelname
    for part in (str(found), "gateway.connections = 4096", "LimitNOFILE=8256"):
        assert part in record.getMessage()
