"""The benchmarks' modules for tests: they lie in a folder of scripts, not in a package."""

import importlib
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "scripts" / "benchmarks"


def module(name):
    """A module of scripts/benchmarks, by its name."""
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))
