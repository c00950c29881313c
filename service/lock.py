"""The lock of a state directory: one daemon at a time."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from profiles.errors import BusyError, StoreError
from tuner.paths import Paths


def make_folders(paths: Paths) -> None:
    """Create the state and runtime directories for this user only.

    Raises:
        StoreError: one of them cannot be used.
    """
    for folder in (paths.state, paths.run):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StoreError(
                f"Cannot use the directory {folder}: {error.strerror}.",
                hint="Set state_dir and runtime_dir to directories that this user can write to.",
            ) from error


@contextlib.contextmanager
def only_daemon(lock: Path) -> Iterator[None]:
    """Hold the lock of the state directory.

    Raises:
        BusyError: another daemon holds it; names its pid.
        StoreError: it cannot be written.
    """
    try:
        file = lock.open("a+")
    except OSError as error:
        raise StoreError(
            f"Cannot write {lock}: {error.strerror}.",
            hint="Give this user write permission to the state directory.",
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            pid = file.read().strip() or "unknown"
            raise BusyError(f"Another daemon, pid {pid}, owns {lock.parent}.") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
