"""Logging: one line per unit of work on standard error; never a prompt."""

import contextlib
import logging
import os
import sys
from pathlib import Path

KEPT = 200  # logs of engine starts; a search makes a dozen or two


def configure() -> None:
    """Log to standard error; the journal has the time already, a terminal does not."""
    under_systemd = "JOURNAL_STREAM" in os.environ
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(levelname)s %(name)s: %(message)s"
        if under_systemd
        else "%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("optuna").setLevel(logging.WARNING)


def forget_old(folder: Path, *, kept: int = KEPT) -> None:
    """Delete all but the newest engine logs: a service that is forgotten must not fill the disk."""
    with contextlib.suppress(OSError):  # no folder yet, or one of another user
        found = [(path.lstat().st_mtime, path) for path in folder.glob("engine-*.log")]
        for _, path in sorted(found, reverse=True)[kept:]:
            path.unlink(missing_ok=True)
