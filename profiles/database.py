"""One SQLite file: opened with checks, migrated, and written in short transactions."""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool
from sqlmodel import Session

from profiles import schema
from profiles.backup import backup, free_name, sync
from profiles.errors import (
    ConflictError,
    StoreCorruptError,
    StoreDamagedError,
    StoreError,
    StoreReadOnlyError,
    TunerError,
)

BUSY_MS = 5000
BEGIN_ATTEMPTS = 2  # of BUSY_MS each; nothing has run yet, so asking again is safe

_UNWRITABLE = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}
_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


class Database:
    """One file, two connections: SQLite cannot change `synchronous` within a transaction."""

    def __init__(self, path: Path, *, vfs: str | None = None) -> None:
        self.path = path
        self.journal_mode = ""
        self.migrated_from: str | None = None
        self.backup: Path | None = None  # made before a migration
        self._durable = _engine(path, "FULL", vfs)
        self._ordinary = _engine(path, "NORMAL", vfs)
        self._readers = self._ordinary.execution_options(begin="DEFERRED")
        # the daemon uses one worker thread at a time, but not always the same one
        self._lock = threading.RLock()
        self._closed = False

    @classmethod
    def open(cls, path: Path, *, scripts: Path = schema.MIGRATIONS, vfs: str | None = None) -> Self:
        """Open or create a store file and bring it to the newest schema.

        Raises:
            StoreReadOnlyError, StoreCorruptError, StoreNewerError, StoreError: see their sentences.
        """
        path = path.absolute()
        if not os.path.lexists(path):
            _create(path, scripts, vfs)
        _need_content(path)
        with contextlib.suppress(OSError):  # not ours, or a read-only file system: seen below
            path.chmod(0o600)
        return cls._prepared(path, scripts, vfs)

    @classmethod
    def _prepared(cls, path: Path, scripts: Path, vfs: str | None) -> Self:
        database = cls(path, vfs=vfs)
        try:
            with translated(path):
                database._check()
                database._migrate(scripts)
        except BaseException:
            database.close()
            raise
        return database

    @classmethod
    def examine(cls, path: Path) -> None:
        """Make sure that a file is a whole store that this version could open; migrate nothing.

        Raises:
            StoreError: it is not, or cannot be read.
        """
        _need_content(path)
        database = cls(path)
        try:
            with translated(path):
                database._check()
                with database._readers.begin() as connection, _about(path):
                    if schema.revision(connection) is None:
                        raise StoreDamagedError("It has no tables.")
                    schema.behind(connection)
        finally:
            database.close()

    def _check(self) -> None:
        with self._ordinary.connect() as connection:
            raw = _raw(connection)
            answer = raw.execute("PRAGMA quick_check(1)").fetchone()[0]
            if answer != "ok":
                raise StoreDamagedError(f"Cannot use the store {self.path}: {answer}.")
        # a file of another program is refused before anything in it is changed
        with self._readers.connect() as connection, _about(self.path):
            schema.revision(connection)
        with self._ordinary.connect() as connection:
            raw = _raw(connection)
            # on some file systems SQLite keeps the old mode and only says so
            self.journal_mode = raw.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            if self.journal_mode != "wal":
                self.journal_mode = raw.execute("PRAGMA journal_mode=DELETE").fetchone()[0]

    def _migrate(self, scripts: Path) -> None:
        # BEGIN IMMEDIATE before looking: two starting processes migrate one after the other
        with self._durable.begin() as connection:
            with _about(self.path):
                if not schema.behind(connection, scripts):
                    return
                self.migrated_from = schema.revision(connection)
            if self.migrated_from is not None:
                target = free_name(self.path, self.migrated_from)
                backup(self.path, target)
                self.backup = target
            schema.upgrade(connection, scripts)

    @contextlib.contextmanager
    def durable(self) -> Iterator[Session]:
        """A transaction whose commit is on the device: profiles and decisions."""
        with self._transaction(self._durable) as session:
            yield session

    @contextlib.contextmanager
    def ordinary(self) -> Iterator[Session]:
        """A transaction whose commit survives a crash, but perhaps not a power loss."""
        with self._transaction(self._ordinary) as session:
            yield session

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A consistent view that does not wait for a writer."""
        with self._transaction(self._readers) as session:
            yield session

    @contextlib.contextmanager
    def _transaction(self, engine: Engine) -> Iterator[Session]:
        with self._lock, translated(self.path):
            if self._closed:
                raise StoreError(f"Cannot use the store {self.path}: it is closed.")
            with Session(engine, expire_on_commit=False) as session:
                _begin(session)
                yield session
                session.commit()

    def close(self) -> None:
        """Close both connections; the last one to close folds the log into the file."""
        with self._lock:
            self._closed = True
            self._ordinary.dispose()
            self._durable.dispose()


def _need_content(path: Path) -> None:
    if not path.is_file():
        raise StoreCorruptError(f"Cannot use the store {path}: it is not a file.")
    if path.stat().st_size == 0:  # SQLite would take it for a new database and lose everything
        raise StoreDamagedError(f"Cannot use the store {path}: the file is empty.")


def _engine(path: Path, synchronous: str, vfs: str | None) -> Engine:
    def connect() -> sqlite3.Connection:
        query = "mode=rw" if vfs is None else f"mode=rw&vfs={vfs}"
        connection = sqlite3.connect(
            f"{path.as_uri()}?{query}",
            uri=True,
            isolation_level=None,  # no implicit BEGIN from Python: `_on_begin` says which
            check_same_thread=False,
        )
        connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute("PRAGMA foreign_keys=ON")
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=StaticPool)
    event.listen(engine, "begin", _on_begin)
    return engine


def _on_begin(connection: Connection) -> None:
    # IMMEDIATE, because busy_timeout does not cover a reader that turns into a writer
    kind = connection.get_execution_options().get("begin", "IMMEDIATE")
    connection.exec_driver_sql(f"BEGIN {kind}")


def _begin(session: Session) -> None:
    for attempt in range(1, BEGIN_ATTEMPTS + 1):
        try:
            session.connection()
        except DBAPIError as error:
            session.rollback()
            if attempt == BEGIN_ATTEMPTS or _code(error.orig) not in _BUSY:
                raise
        else:
            return


def _raw(connection: Connection) -> Any:
    """The sqlite3 connection itself: these pragmas must run outside a transaction."""
    return connection.connection.driver_connection


def _create(path: Path, scripts: Path, vfs: str | None) -> None:
    """Make a whole store under another name and link it, so that no crash leaves half of one."""
    draft = path.with_name(f"{path.name}.new-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft.unlink(missing_ok=True)
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        Database._prepared(draft, scripts, vfs).close()  # noqa: SLF001
        sync(draft)
        try:
            os.link(draft, path)  # unlike a rename, this cannot replace another process's store
        except FileExistsError:
            return
        except OSError:  # no hard links here
            draft.replace(path)
        sync(path.parent)
    except OSError as error:
        raise StoreReadOnlyError(
            f"Cannot create the store {path}: {error.strerror or error}."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


@contextlib.contextmanager
def _about(path: Path) -> Iterator[None]:
    """Name the file in what the schema says of it."""
    try:
        yield
    except TunerError as error:
        raise type(error)(
            f"Cannot use the store {path}. {error.message}", hint=error.hint
        ) from error


def _code(error: BaseException | None) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the extended part


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise _sentence(path, cause) from error


def _sentence(path: Path, cause: BaseException | None) -> TunerError:
    code = _code(cause)
    if code in _UNWRITABLE:
        return StoreReadOnlyError(f"Cannot write the store {path}: {cause}.")
    if code in _BROKEN:
        return StoreDamagedError(f"Cannot use the store {path}: {cause}.")
    if code == sqlite3.SQLITE_CONSTRAINT:
        return ConflictError(f"Cannot store this: {cause}.")
    if code in _BUSY:
        busy = StoreError(
            f"Cannot write the store {path}: another process holds it.",
            hint="Close programs that have the file open, such as sqlite3, and try again.",
        )
        busy.retryable = True
        return busy
    if code == sqlite3.SQLITE_FULL:
        return StoreError(
            f"Cannot write the store {path}: the disk is full.", hint="Make room there."
        )
    return StoreError(f"Cannot use the store {path}: {cause}.")
