"""A damaged store, and what takes its place."""

import os
import shutil
import sqlite3
from contextlib import closing

import pytest

from profiles.backup import backup, backups, free_name, keep_copy
from profiles.errors import StoreDamagedError, StoreError
from profiles.recovery import recover
from profiles.schema import VERSION_TABLE
from profiles.store import Store

AT = 1_795_860_000.0  # 2026-11-28T10:00:00Z
GARBAGE = b"no database " * 1000


@pytest.fixture
def path(tmp_path):
    """A closed store with one event."""
    path = tmp_path / "tuner.sqlite3"
    told(path, "first")
    return path


def told(path, sentence):
    with Store.open(path, now=1.0) as store:
        store.add_event("x", sentence, at=1.0)


def events(path):
    with Store.open(path, now=1.0) as store:
        return [event.sentence for event in store.events()]


def aged(path, by_s):
    """As if the file were so much older."""
    at = path.stat().st_mtime - by_s
    os.utime(path, (at, at))


def test_the_newest_whole_copy_takes_its_place(path):
    """What came after the copy is lost, and the damaged file is kept as it was."""
    aged(keep_copy(path, at=AT), 60)
    told(path, "second")
    copy = keep_copy(path, at=AT + 60)
    told(path, "third")
    path.write_bytes(GARBAGE)
    found = recover(path, at=AT)

    assert (copy, "tuner.sqlite3.damaged-20261128T100000Z") == (found.restored, found.aside.name)
    assert GARBAGE == found.aside.read_bytes()
    assert ["second", "first"] == events(path)
    assert 0o600 == path.stat().st_mode & 0o777
    assert copy.exists()
    assert "is lost" in found.sentence("It is damaged.")


@pytest.mark.parametrize("spoil", ["garbage", "empty", "cut", "newer", "foreign"])
def test_a_copy_that_cannot_be_opened_is_passed_over(path, spoil):
    """Also one of a newer tunerd, or a file of another program with that name."""
    aged(keep_copy(path, at=AT), 60)
    told(path, "second")
    newest = keep_copy(path, at=AT + 60)
    if spoil == "garbage":
        newest.write_bytes(GARBAGE)
    elif spoil == "empty":
        newest.write_bytes(b"")
    elif spoil == "cut":
        newest.write_bytes(newest.read_bytes()[:4096])
    else:
        command = {
            "newer": f"UPDATE {VERSION_TABLE} SET version_num = '9999'",
            "foreign": f"DROP TABLE {VERSION_TABLE}",
        }[spoil]
        with closing(sqlite3.connect(newest)) as database, database:
            database.execute(command)
    path.write_bytes(b"")
    recover(path, at=AT)

    assert ["first"] == events(path)


def test_without_a_copy_there_is_no_store(path):
    """The next opening makes a new one; nothing is deleted."""
    path.write_bytes(GARBAGE)
    found = recover(path, at=AT)

    assert found.restored is None
    assert [found.aside] == list(path.parent.iterdir())
    assert [] == events(path)
    assert "a new and empty one" in found.sentence("It is damaged.")


def test_the_log_of_the_damaged_file_is_not_replayed_into_the_copy(path, tmp_path):
    """Its frames have good checksums: SQLite would mix both files."""
    keep_copy(path, at=AT)
    with Store.open(path, now=1.0) as store:
        for number in range(50):
            store.add_event("x", f"later {number}", at=1.0)
        log = tmp_path / "log"
        shutil.copyfile(f"{path}-wal", log)
    path.write_bytes(GARBAGE)
    shutil.copyfile(log, f"{path}-wal")
    found = recover(path, at=AT)

    assert ["first"] == events(path)
    assert log.read_bytes() == path.with_name(f"{found.aside.name}-wal").read_bytes()


def test_a_copy_of_a_migration_is_one_too(path):
    """What an upgrade made is restored where it is the newest."""
    backup(path, free_name(path, "0001"))
    path.write_bytes(GARBAGE)

    assert "tuner.sqlite3.backup-0001-1" == recover(path, at=AT).restored.name


def test_what_cannot_be_moved_is_a_sentence(path, monkeypatch):
    """The damaged file is where it was, and no draft is left."""
    keep_copy(path, at=AT)
    path.write_bytes(GARBAGE)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StoreError, match="No space left on device"):
        recover(path, at=AT)
    assert GARBAGE == path.read_bytes()
    with pytest.raises(StoreDamagedError):
        Store.open(path, now=1.0)
    assert {path, *backups(path)} == set(path.parent.iterdir())


def test_a_file_system_without_hard_links_is_enough(path, monkeypatch):
    """The file is renamed there."""
    keep_copy(path, at=AT)
    path.write_bytes(GARBAGE)

    def none(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", none)
    found = recover(path, at=AT)

    assert GARBAGE == found.aside.read_bytes()
    assert ["first"] == events(path)


def test_two_regular_copies_are_kept(path):
    """The oldest go, and what a killed copy left; the copies that migrations made stay."""
    killed = path.with_name(f"{path.name}.backup-20261128T090000Z.part")
    killed.touch()
    migrated = free_name(path, "0001")
    backup(path, migrated)
    aged(migrated, 3600)
    made = []
    for number in range(4):
        made.append(keep_copy(path, at=AT + number))
        aged(made[-1], 100 - number)

    assert [made[3], made[2], migrated] == backups(path)
    assert not killed.exists()
