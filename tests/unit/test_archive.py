"""The archive: a store that cannot be written goes on, and says what it lacks."""

import contextlib
import sqlite3

import pytest

from profiles.backup import keep_copy
from profiles.database import Database
from profiles.errors import ConflictError, StoreCorruptError, StoreError
from profiles.knobs import Knobs
from profiles.platform import fingerprint
from profiles.profile import default_profile
from profiles.store import Store
from service import archive as module
from service.archive import Archive

HERE = fingerprint(vllm="0.32.0", model="org/m", model_revision=None, drafters={}, cpu="Xeon")
DEFAULT = default_profile(HERE.digest, Knobs())


@pytest.fixture
async def archive(tmp_path, monkeypatch):
    """A real store, and attempts that follow each other at once."""
    monkeypatch.setattr(module, "RETRY_FIRST_S", 0.001)
    found = await Archive.open(tmp_path / "tuner.sqlite3")
    yield found
    await found.close()


def failing(function, times, error=StoreError):
    """The same function, which fails so many times before it works."""
    left = [times]

    def tried(*args, **kwargs):
        if left[0]:
            left[0] -= 1
            raise error("Cannot write the store: the disk is full.")
        return function(*args, **kwargs)

    return tried


async def test_an_event_that_cannot_be_kept_stops_nothing(archive, monkeypatch, caplog):
    """What was to be said is in the log; the next event is in the history."""
    store = archive.store
    monkeypatch.setattr(store, "add_event", failing(store.add_event, 1))
    await archive.event("switch", "lost")
    await archive.event("switch", "kept")

    assert ["kept"] == [e.sentence for e in await archive.call(store.events, 10)]
    assert "not in the history: Cannot write the store" in caplog.text


async def test_what_is_insisted_on_is_done_when_the_store_is_back(archive):
    """Its result comes as if nothing had been."""
    write = failing(archive.store.ensure_platform, 3)
    await archive.insist(write, HERE, at=1.0)
    await archive.insist(failing(archive.store.put_profile, 2), DEFAULT)

    assert DEFAULT == await archive.call(archive.store.profile, DEFAULT.id)


async def test_room_is_made_for_what_is_insisted_on(archive):
    """F41: tunerd waited for ever to close the trial it had died in, the reserve beside it."""
    room = []

    def write():
        if not room:
            raise StoreError("Cannot write the store: the disk is full.")
        return "written"

    archive._relief = lambda: room.append(1)

    assert "written" == await archive.insist(write)


async def test_a_store_that_cannot_be_opened_is_tried_once_more_with_room(tmp_path, monkeypatch):
    """F41: after a clean stop SQLite needs some bytes to open it at all."""
    asked = []
    monkeypatch.setattr(Store, "open", failing(Store.open, 1))
    found = await Archive.open(tmp_path / "s", relief=lambda: asked.append(1))
    await found.close()

    assert [1] == asked
    monkeypatch.setattr(Store, "open", failing(Store.open, 2))
    with pytest.raises(StoreError):
        await Archive.open(tmp_path / "s", relief=lambda: asked.append(1))


async def test_a_damaged_store_is_replaced_and_said(tmp_path, caplog):
    """F60: by the newest copy, or by an empty one; the history and the log name the old file."""
    path = tmp_path / "tuner.sqlite3"
    for number, place in enumerate(("a new and empty one was begun", "took its place")):
        path.write_bytes(b"")
        archive = await Archive.open(path)
        events = await archive.call(archive.store.events)
        await archive.close()
        newest = events[0].sentence

        assert "the file is empty. It was moved to tuner.sqlite3.damaged-" in newest
        assert place in newest
        assert newest in caplog.text
        assert number + 1 == len(events)
        keep_copy(path, at=1.0)


async def test_the_database_of_another_program_stays(tmp_path):
    """It may be needed by somebody: only what is damaged is moved."""
    path = tmp_path / "tuner.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")

    with pytest.raises(StoreCorruptError, match="of another program"):
        await Archive.open(path)
    assert [path] == list(tmp_path.iterdir())


async def test_insisting_is_for_the_store_only(archive):
    """Any other error is one at once."""
    with pytest.raises(ConflictError):
        await archive.insist(failing(archive.store.put_profile, 1, ConflictError), DEFAULT)


@pytest.mark.parametrize(("vfs", "said"), [("unix-dotfile", 1), ("unix", 0)])
async def test_a_store_without_a_log_is_said_once_a_start(tmp_path, monkeypatch, vfs, said):
    """F61: `tuner status` shows the event; a store with a write-ahead log is nothing to mention."""

    class Kept(Store):
        @classmethod
        def open(cls, path, *, now):
            return cls(Database.open(path, vfs=vfs))

    monkeypatch.setattr(module, "Store", Kept)
    archive = await Archive.open(tmp_path / "tuner.sqlite3")
    try:
        events = await archive.call(archive.store.events)
    finally:
        await archive.close()

    sentences = [event.sentence for event in events if event.kind == "store"]
    assert said == len(sentences), events
    assert all("readers wait for writers" in sentence for sentence in sentences)
