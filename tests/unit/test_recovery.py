"""A damaged store, and what takes its place."""

import errno
import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from profiles.backup import backup, backups, free_name, keep_copy
from profiles.database import Database
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


def test_the_newest_whole_copy_takes_its_place(path):
    """What came after the copy is lost, and the damaged file is kept as it was."""
    keep_copy(path, at=AT)
    told(path, "second")
    copy = keep_copy(path, at=AT + 60)
    told(path, "third")
    path.write_bytes(GARBAGE)
    found = recover(path, at=AT + 90)

    assert (copy, "tuner.sqlite3.damaged-20261128T100130Z") == (found.restored, found.aside.name)
    assert GARBAGE == found.aside.read_bytes()
    assert ["second", "first"] == events(path)
    assert 0o600 == path.stat().st_mode & 0o777
    assert copy.exists()
    assert "is lost" in found.sentence("It is damaged.")


@pytest.mark.parametrize(
    "spoil", ["garbage", "empty", "tables", "cut", "newer", "foreign", "folder"]
)
def test_a_copy_that_cannot_be_opened_is_passed_over(path, spoil):
    """Also one of a newer tunerd, or a file of another program with that name."""
    keep_copy(path, at=AT)
    told(path, "second")
    newest = keep_copy(path, at=AT + 60)
    if spoil == "garbage":
        newest.write_bytes(GARBAGE)
    elif spoil == "empty":
        newest.write_bytes(b"")
    elif spoil == "folder":
        newest.unlink()
        newest.mkdir()
        os.utime(newest, (AT + 60, AT + 60))
    elif spoil == "tables":  # what SQLite makes of an empty file
        newest.unlink()
        with closing(sqlite3.connect(newest)) as database:
            database.execute("PRAGMA user_version=1")
        os.utime(newest, (AT + 60, AT + 60))
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
    recover(path, at=AT + 90)

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


def test_each_damaged_file_is_kept(path):
    """Two within a second had one name: the second start failed, or the first file was lost."""
    keep_copy(path, at=AT)
    asides = []
    for content in (GARBAGE, b"", b"other " * 1000):
        path.write_bytes(content)
        asides.append(recover(path, at=AT).aside)

        assert content == asides[-1].read_bytes()
        assert ["first"] == events(path)
    assert 3 == len({*asides})


def test_a_copy_of_a_migration_is_one_too(path):
    """What an upgrade made is restored where it is the newest."""
    keep_copy(path, at=AT)
    backup(path, free_name(path, "0001"))
    path.write_bytes(GARBAGE)

    assert "tuner.sqlite3.backup-0001-1" == recover(path, at=time.time()).restored.name


def test_the_journal_of_an_emptied_file_is_not_rolled_back_into_the_copy(path, tmp_path):
    """Where there is no write-ahead log: 20 events came back as 320 of two files."""
    keep_copy(path, at=AT)
    with Store.open(path, now=1.0) as store:
        for number in range(300):
            store.add_event("x", f"later {number}", at=1.0)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=DELETE")
        database.execute("PRAGMA cache_size=1")
        database.execute("BEGIN IMMEDIATE")
        database.execute("UPDATE event SET sentence = ?", ["changed " * 50])
        journal = Path(f"{path}-journal").read_bytes()
        database.execute("ROLLBACK")
    path.write_bytes(b"")
    Path(f"{path}-journal").write_bytes(journal)
    found = recover(path, at=AT)

    assert len(journal) > 4096
    assert ["first"] == events(path)
    assert journal == path.with_name(f"{found.aside.name}-journal").read_bytes()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_what_cannot_be_written_is_a_sentence(path, monkeypatch, code):
    """The damaged file is where it was, no draft is left, and the copies are not given up."""
    keep_copy(path, at=AT)
    path.write_bytes(GARBAGE)

    def full(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(StoreError, match=os.strerror(code)):
        recover(path, at=AT)
    assert GARBAGE == path.read_bytes()
    with pytest.raises(StoreDamagedError):
        Store.open(path, now=1.0)
    assert {path, *backups(path)} == set(path.parent.iterdir())


def test_a_copy_that_could_not_be_examined_is_not_damaged(path, monkeypatch):
    """A full disk let every good copy pass for damaged, and an empty store begin."""
    keep_copy(path, at=AT)
    path.write_bytes(GARBAGE)

    def full(_):
        raise StoreError("Cannot write the store: the disk is full.")

    monkeypatch.setattr(Database, "examine", full)
    with pytest.raises(StoreError, match="the disk is full"):
        recover(path, at=AT)
    assert GARBAGE == path.read_bytes()


def test_a_file_system_without_hard_links_is_enough(path, monkeypatch):
    """The file is copied there, so that its name is never free."""
    keep_copy(path, at=AT)
    path.write_bytes(GARBAGE)

    def none(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", none)
    found = recover(path, at=AT)

    assert GARBAGE == found.aside.read_bytes()
    assert 0o600 == found.aside.stat().st_mode & 0o777
    assert ["first"] == events(path)


def test_copies_of_a_clock_that_was_ahead_do_not_take_the_place_of_others(path):
    """They were the newest for ever: each new copy was removed at once."""
    for number in range(2):
        keep_copy(path, at=AT + 7200 + number)
    told(path, "second")
    copy = keep_copy(path, at=AT)

    assert copy == backups(path, now=AT)[0]
    assert 2 == len(backups(path))
    path.write_bytes(GARBAGE)
    assert copy == recover(path, at=AT + 1).restored


def test_an_emptied_store_is_not_copied(path):
    """SQLite makes a whole database without tables of it: two of those took the copies' places."""
    kept = [keep_copy(path, at=AT + number) for number in range(2)]
    path.write_bytes(b"")
    with pytest.raises(StoreError, match="does not pass its check"):
        keep_copy(path, at=AT + 2)

    assert [*reversed(kept)] == backups(path)


def test_two_regular_copies_are_kept(path):
    """The oldest go, and what a killed copy left; the copies that migrations made stay."""
    killed = path.with_name(f"{path.name}.backup-20261128T090000Z.part")
    killed.touch()
    migrated = free_name(path, "0001")
    backup(path, migrated)
    os.utime(migrated, (AT - 1, AT - 1))
    made = [keep_copy(path, at=AT + number) for number in range(4)]

    assert [made[3], made[2], migrated] == backups(path)
    assert not killed.exists()
