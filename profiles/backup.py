"""Copies of a live SQLite file that are whole or not there at all."""

import contextlib
import os
import re
import sqlite3
import time
from pathlib import Path

from profiles.errors import StoreError
from profiles.schema import VERSION_TABLE

KEPT = 2  # regular copies; those of migrations are the operator's to remove
_STAMP = "%Y%m%dT%H%M%SZ"
_REGULAR = re.compile(r"\.backup-\d{8}T\d{6}Z$")


def backup(source: Path, target: Path) -> None:
    """Copy a live database with SQLite's online backup: checked, synced, then renamed in place.

    Raises:
        StoreError: the copy could not be made or did not pass its check; `target` is untouched.
    """
    draft = target.with_name(f"{target.name}.part")
    try:
        draft.unlink(missing_ok=True)
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with (
            contextlib.closing(sqlite3.connect(f"{source.as_uri()}?mode=rw", uri=True)) as live,
            contextlib.closing(sqlite3.connect(draft)) as copy,
        ):
            live.backup(copy)
            # a copy in WAL mode would need its -wal file beside it
            copy.execute("PRAGMA journal_mode=DELETE")
            answer = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
            # a file that was emptied gives a whole database without a table
            tables = {name for (name,) in copy.execute("SELECT name FROM sqlite_master")}
        if answer != "ok" or VERSION_TABLE not in tables:
            raise StoreError(f"Cannot back up {source}: the copy does not pass its check.")
        sync(draft)
        draft.replace(target)
        sync(target.parent)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"Cannot back up {source} to {target}: {error}.",
            hint="Make room on that file system, or check its permissions.",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def free_name(store: Path, revision: str) -> Path:
    """The next unused backup name of a schema revision."""
    number = 1
    while (path := store.with_name(f"{store.name}.backup-{revision}-{number}")).exists():
        number += 1
    return path


def backups(store: Path, *, now: float | None = None) -> list[Path]:
    """Copies beside a store, newest first; those of a clock that was ahead come last."""
    now = time.time() if now is None else now
    found = [
        (path.stat().st_mtime, path)
        for path in store.parent.glob(f"{store.name}.backup-*")
        if path.suffix != ".part"
    ]
    found.sort(key=lambda each: (each[0] <= now, each), reverse=True)
    return [path for _, path in found]


def stamp(at: float) -> str:
    """A moment, seconds since the epoch, for the name of a file."""
    return time.strftime(_STAMP, time.gmtime(at))


def keep_copy(store: Path, *, at: float) -> Path:
    """Copy a live store beside it under the moment's name, and remove the oldest such copies.

    Raises:
        StoreError: it could not be made; the earlier ones are still there.
    """
    for unfinished in store.parent.glob(f"{store.name}.backup-*.part"):  # of one that was killed
        unfinished.unlink(missing_ok=True)
    target = store.with_name(f"{store.name}.backup-{stamp(at)}")
    backup(store, target)
    os.utime(target, (at, at))  # a file server may have another clock
    regular = [path for path in backups(store, now=at) if _REGULAR.search(path.name)]
    for path in regular[KEPT:]:
        path.unlink(missing_ok=True)
    return target


def sync(path: Path) -> None:
    """Flush a file or a folder to its device."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
