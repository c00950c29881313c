"""Room for the start of an engine."""

import shutil
from types import SimpleNamespace

import pytest

from service.room import NEEDED_MIB, lacking
from tuner.paths import Paths

MIB = 1 << 20


@pytest.mark.parametrize(
    ("free", "lacks"), [(NEEDED_MIB * MIB, False), (NEEDED_MIB * MIB - 1, True)]
)
@pytest.mark.parametrize("full", ["state", "run"])
def test_each_of_both_disks_needs_room(tmp_path, monkeypatch, free, lacks, full):
    """The first that has too little is named, with what is needed."""
    paths = Paths(state=tmp_path / "state", run=tmp_path / "run")

    def usage(folder):
        return SimpleNamespace(free=free if folder == getattr(paths, full) else 1000 * MIB)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    found = lacking(paths)

    assert lacks == (found is not None)
    assert found is None or found == (
        f"{tmp_path / full} has {NEEDED_MIB - 1} MiB free, and an engine's start needs {NEEDED_MIB}"
    )


def test_a_folder_that_cannot_be_asked_is_not_in_the_way(tmp_path):
    """What is not there yet is made by the start."""
    assert lacking(Paths(state=tmp_path / "none", run=tmp_path / "neither")) is None
