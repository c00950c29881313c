"""Regular copies of the store, for the day on which it is damaged."""

import asyncio
import logging
import shutil
import time
from pathlib import Path

from profiles.backup import backups, keep_copy
from profiles.errors import StoreError

log = logging.getLogger(__name__)

EVERY_S = 3600.0  # what is decided within it may be lost
LOOK_S = 60.0
SPARE_MIB = 64  # free beyond a copy: it must not take the room of an engine's start


async def keep_copies(store: Path) -> None:
    """Copy the store once an hour, until cancelled; what prevents a copy is said once."""
    failing = False
    while True:
        if is_due(store, now=time.time()):
            try:
                await asyncio.to_thread(_copy, store)
                failing = False
            except (OSError, StoreError) as error:
                if not failing:
                    log.warning("no copy of the store: %s", error)
                failing = True
        await asyncio.sleep(LOOK_S)


def is_due(store: Path, *, now: float) -> bool:
    """Whether the newest copy is old, or of a clock that was ahead."""
    try:
        newest = next((copy.stat().st_mtime for copy in backups(store, now=now)), None)
    except OSError:  # gone in between; the next look sees it
        return False
    return newest is None or not 0 <= now - newest < EVERY_S


def _copy(store: Path) -> None:
    free_mib = shutil.disk_usage(store.parent).free >> 20
    needed_mib = (store.stat().st_size >> 20) + SPARE_MIB
    if free_mib < needed_mib:
        raise StoreError(f"{store.parent} has {free_mib} MiB free, and it needs {needed_mib}.")
    keep_copy(store, at=time.time())
