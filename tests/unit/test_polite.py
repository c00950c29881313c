"""Computing that gives way."""

import asyncio
import os
import threading

import pytest

from service import polite
from service.polite import NICE, politely


def priority():
    """Of the calling thread."""
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


async def test_it_computes_at_low_priority_and_nothing_else_does():
    """The function's thread is nice, the loop's and those of other work stay as they are."""
    before = priority()
    inside = await politely(priority)
    beside = await asyncio.to_thread(priority)

    assert max(before, NICE) == inside
    assert (before, before) == (priority(), beside)


async def test_its_value_and_its_exception_come_back():
    """As from a plain call."""
    assert 7 == await politely(int, "111", base=2)
    with pytest.raises(ZeroDivisionError):
        await politely(divmod, 1, 0)


async def test_where_it_may_not_it_computes_all_the_same(monkeypatch):
    """The unit of tunerd forbids the call."""

    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(polite.os, "setpriority", refused)

    assert 3 == await politely(len, "abc")
