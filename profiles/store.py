"""The store: everything that is known, in one SQLite file."""

from pathlib import Path
from types import TracebackType
from typing import Self

from profiles import schema
from profiles.database import Database
from profiles.decisions import Decisions
from profiles.history import History
from profiles.stays import Stays


class Store(History, Decisions, Stays):
    """Everything that is known; one daemon writes it.

    The contract, which any other backend has to keep too:

    - Every method is one short transaction: all of it is there afterwards, or nothing. What a
      method returned from survives kill -9; decisions (profiles, promotions, quarantines, pins,
      what is in force) survive a power loss as well.
    - Writers take the write lock before they read, so no update is lost between two of them.
    - Measurements and profiles are never changed; trials change once, from open to an end; the
      account of what is in force grows.
    - Times are given by the caller, in seconds since the epoch. Answers are frozen domain
      objects, never rows, and remain valid after `close`.
    - Methods block: the daemon calls them from a worker thread, never from an event loop. Calls
      from several threads are served one after the other.
    - What does not exist raises NotFoundError, what contradicts ConflictError, both with a
      sentence; trouble with the file raises StoreError or one of its children, and one with
      `retryable` set may be tried again.
    """

    def __init__(self, database: Database) -> None:
        History.__init__(self, database)
        Decisions.__init__(self, database)
        Stays.__init__(self, database)

    @classmethod
    def open(cls, path: Path, *, now: float, scripts: Path = schema.MIGRATIONS) -> Self:
        """Open or create the store, migrated to the newest schema after a backup.

        Raises:
            StoreReadOnlyError: it cannot be written.
            StoreCorruptError: it is damaged, or not a store.
            StoreNewerError: a newer tunerd wrote it.
        """
        database = Database.open(path, scripts=scripts)
        store = cls(database)
        if database.backup is not None:
            store.add_event(
                "store",
                f"Migrated the store from schema {database.migrated_from} to "
                f"{schema.head(scripts)}; the old one is kept as {database.backup.name}.",
                at=now,
            )
        return store

    @property
    def path(self) -> Path:
        """The file."""
        return self.database.path

    @property
    def slow(self) -> str | None:
        """Why readers wait for writers, as a sentence; None where they do not."""
        return None if self.journal_mode == "wal" else without_wal(self.path)

    @property
    def journal_mode(self) -> str:
        """`wal`, or `delete` where the file system cannot do it: then readers wait for writers."""
        return self.database.journal_mode

    def close(self) -> None:
        """Close the file; every later call raises StoreError."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def without_wal(path: Path) -> str:
    """What it means that the file system of a store cannot do WAL."""
    return (
        f"The file system of {path} offers no shared memory, so the store is kept without a "
        "write-ahead log: it is as safe, and slower, because readers wait for writers."
    )
