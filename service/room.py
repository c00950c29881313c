"""Whether the disks have room for what the start of an engine writes."""

import shutil

from tuner.paths import Paths

NEEDED_MIB = 4  # its log of up to 1 MiB, its record, its knobs, and rows of the store


def lacking(paths: Paths) -> str | None:
    """What has no room, as words; None when all have.

    An engine that serves needs no disk, so it is not given up for one that could not be started.
    """
    for folder in (paths.state, paths.run):
        try:
            free_mib = shutil.disk_usage(folder).free >> 20
        except OSError:  # who cannot ask does not know
            continue
        if free_mib < NEEDED_MIB:
            return f"{folder} has {free_mib} MiB free, and an engine's start needs {NEEDED_MIB}"
    return None
