"""Logging: one line per unit of work on standard error; never a prompt."""

import logging
import os
import sys


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
