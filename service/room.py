"""Room on the disks for what the start of an engine writes, and a reserve for one that must be."""

import contextlib
import errno
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

from profiles.errors import UnavailableError
from tuner.paths import EnginePlaces, Paths

NEEDED_MIB = 4  # its log of up to 1 MiB, its record, its knobs, and rows of the store
RESERVE_MIB = 8
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

log = logging.getLogger(__name__)


class Room:
    """The one owner of the reserve, a file without meaning that is removed when room is needed.

    An engine that serves needs no disk, so it is not given up for one that could not be started.
    One that has ended is started from the reserve.
    """

    def __init__(self, paths: Paths, engine: EnginePlaces | None = None) -> None:
        places = engine or paths.engine
        self._folders = tuple(dict.fromkeys((paths.state, paths.run, places.run, places.logs)))
        self._reserve = paths.reserve
        self._lacks_reserve = False

    def keep(self) -> None:
        """Set the reserve aside where it is not, and there is room for it and a start."""
        with contextlib.suppress(OSError):
            if self._reserve.stat().st_size == RESERVE_MIB << 20:
                self._lacks_reserve = False
                return
        free_mib = _free_mib(self._reserve.parent)
        if free_mib is None:
            return
        self._lacks_reserve = free_mib < RESERVE_MIB + NEEDED_MIB
        if self._lacks_reserve:
            return
        try:
            with self._reserve.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, RESERVE_MIB << 20)
        except OSError as error:  # a file system that cannot do it has no reserve
            self._lacks_reserve = error.errno in FULL
            self._remove()

    def spend(self) -> None:
        """Give the reserve up if an engine that has to be started now would lack room."""
        if self._short() is not None and self._remove():
            self._lacks_reserve = True
            log.warning("the disk is full: an engine starts from the reserve, %s", self._reserve)

    def lacking(self) -> str | None:
        """Why no engine should be given up for another, as words; None when there is room."""
        short = self._short()
        if short is None and self._lacks_reserve:
            free_mib = _free_mib(self._reserve.parent)
            return (
                f"{self._reserve.parent} has {free_mib} MiB free, and a reserve of "
                f"{RESERVE_MIB} MiB beside {NEEDED_MIB} for a start is not there"
            )
        return short

    def _short(self) -> str | None:
        for folder in self._folders:
            free_mib = _free_mib(folder)
            if free_mib is not None and free_mib < NEEDED_MIB:
                return f"{folder} has {free_mib} MiB free, and an engine's start needs {NEEDED_MIB}"
        return None

    def _remove(self) -> bool:
        try:
            self._reserve.unlink()
        except OSError:
            return False
        return True


@contextlib.asynccontextmanager
async def needed() -> AsyncIterator[None]:
    """Say in a sentence that a file of an engine cannot be written.

    Raises:
        UnavailableError: it cannot.
    """
    try:
        yield
    except OSError as error:
        raise UnavailableError(
            f"Cannot write what an engine needs: {error.strerror or error}.",
            hint="Make room in state_dir and runtime_dir.",
        ) from error


def _free_mib(folder: Path) -> int | None:
    """None for a folder that cannot be asked: who does not know is not in the way."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    if found.f_files and not found.f_favail:  # no file can be made, whatever room there is
        return 0
    return (found.f_bavail * found.f_frsize) >> 20
