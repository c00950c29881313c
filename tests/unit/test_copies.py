"""When the store is copied."""

import asyncio
import os

import pytest
from gateway_harness import until

from profiles.backup import backups
from profiles.store import Store
from service import copies
from service.copies import EVERY_S, is_due, keep_copies

NOW = 2_000_000_000.0


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "tuner.sqlite3"
    Store.open(path, now=1.0).close()
    return path


@pytest.mark.parametrize(
    ("age_s", "due"), [(0.0, False), (EVERY_S - 1, False), (EVERY_S, True), (-5.0, True)]
)
def test_a_copy_is_due_once_an_hour(path, age_s, due):
    """A copy from the future, of a clock that was set back, does not put it off."""
    copy = path.with_name(f"{path.name}.backup-20330518T033320Z")
    copy.touch()
    os.utime(copy, (NOW - age_s, NOW - age_s))

    assert due is is_due(path, now=NOW)


def test_the_first_copy_is_due_at_once(path):
    """A store has none when it is new."""
    assert is_due(path, now=NOW)


async def test_a_copy_does_not_take_the_last_room(path, monkeypatch, caplog):
    """An engine's start needs it more; that there is no copy is said once."""
    monkeypatch.setattr(copies, "SPARE_MIB", 1 << 40)
    monkeypatch.setattr(copies, "LOOK_S", 0.01)
    task = asyncio.create_task(keep_copies(path))
    await until(lambda: "no copy of the store" in caplog.text)
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert 1 == caplog.text.count(f"{path.parent} has ")
    assert [] == backups(path)


async def test_copies_are_made_until_the_end(path, monkeypatch, caplog):
    """A copy that fails is said once, and does not end tunerd, and the next one is made."""
    monkeypatch.setattr(copies, "LOOK_S", 0.01)
    whole = path.read_bytes()
    path.write_bytes(b"damaged " * 1000)
    task = asyncio.create_task(keep_copies(path))
    await until(lambda: "no copy of the store" in caplog.text)
    await asyncio.sleep(0.1)
    assert 1 == caplog.text.count("no copy of the store")
    assert [] == backups(path)

    path.write_bytes(whole)
    await until(lambda: backups(path))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert 1 == len(backups(path))
