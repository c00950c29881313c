"""Room for the start of an engine, and the reserve."""

import errno
import os
from types import SimpleNamespace

import pytest

from service.room import NEEDED_MIB, RESERVE_MIB, Room
from tuner.paths import Paths, UnitPlaces

MIB = 1 << 20


class Disks:
    """Two file systems that tests fill; the reserve counts as used."""

    def __init__(self, paths: Paths, free_mib: int) -> None:
        self.free = {paths.state: free_mib, paths.run: free_mib}
        self.files = 100
        self.paths = paths

    def usage(self, folder):
        """As os.statvfs."""
        if folder not in self.free:
            raise FileNotFoundError
        free = self.free[folder] * MIB
        if folder == self.paths.state and self.paths.reserve.exists():
            free -= self.paths.reserve.stat().st_size
        return SimpleNamespace(f_bavail=free, f_frsize=1, f_files=1000, f_favail=self.files)


@pytest.fixture
def disks(tmp_path, monkeypatch):
    """Plenty of room at first."""
    paths = Paths(state=tmp_path / "state", run=tmp_path / "run")
    paths.state.mkdir()
    found = Disks(paths, 1000)
    monkeypatch.setattr(os, "statvfs", found.usage)
    return found


@pytest.mark.parametrize(("free", "lacks"), [(NEEDED_MIB, False), (NEEDED_MIB - 1, True)])
@pytest.mark.parametrize("full", ["state", "run"])
def test_each_of_both_disks_needs_room(disks, free, lacks, full):
    """The first that has too little is named, with what is needed."""
    folder = getattr(disks.paths, full)
    disks.free[folder] = free
    found = Room(disks.paths).lacking()

    assert lacks == (found is not None)
    assert found is None or found == (
        f"{folder} has {NEEDED_MIB - 1} MiB free, and an engine's start needs {NEEDED_MIB}"
    )


def test_the_disks_of_engines_in_units_are_asked_too(disks, tmp_path):
    """F41: their logs lie in /var/log, which may be full while the state directory is not.

    A switch ended the engine that served, and the launcher could not write the next one's log.
    """
    places = UnitPlaces.below(tmp_path)
    disks.free[places.logs] = 0

    assert f"{places.logs} has 0 MiB free" in Room(disks.paths, places).lacking()


def test_a_disk_without_room_for_one_more_file_is_full(disks):
    """Without a free inode no log can be made, whatever is free."""
    disks.files = 0

    assert "has 0 MiB free" in Room(disks.paths).lacking()


def test_a_folder_that_cannot_be_asked_is_not_in_the_way(tmp_path):
    """What is not there yet is made by the start."""
    room = Room(Paths(state=tmp_path / "none", run=tmp_path / "neither"))
    room.keep()
    room.spend()

    assert room.lacking() is None
    assert [] == list(tmp_path.iterdir())


def test_the_reserve_takes_room_of_the_disk(disks):
    """Its blocks are its own: a file with a hole would give nothing back."""
    Room(disks.paths).keep()
    status = disks.paths.reserve.stat()

    assert RESERVE_MIB * MIB == status.st_size
    assert RESERVE_MIB * MIB <= status.st_blocks * 512


def test_the_reserve_is_spent_once_and_set_aside_again_when_there_is_room(disks):
    """Until then nothing is given up for another engine, however much of it is still free."""
    room, state = Room(disks.paths), disks.paths.state
    room.keep()
    room.spend()  # there is room beside it
    kept = disks.paths.reserve.exists()
    disks.free[state] = RESERVE_MIB + 1
    room.keep()
    before = room.lacking()
    room.spend()
    after, spent = room.lacking(), not disks.paths.reserve.exists()
    room.keep()
    still = disks.paths.reserve.exists()
    disks.free[state] = RESERVE_MIB + NEEDED_MIB
    room.keep()

    assert (True, True, False) == (kept, spent, still)
    assert f"{state} has 1 MiB free, and an engine's start needs {NEEDED_MIB}" == before
    assert after == (
        f"{state} has {RESERVE_MIB + 1} MiB free, and a reserve of {RESERVE_MIB} MiB beside "
        f"{NEEDED_MIB} for a start is not there"
    )
    assert disks.paths.reserve.exists()
    assert room.lacking() is None


def test_another_tunerd_knows_that_the_reserve_is_spent(disks):
    """It looks at the disk, not at what it has done itself."""
    disks.free[disks.paths.state] = RESERVE_MIB + 1
    room = Room(disks.paths)
    room.keep()

    assert "a reserve of" in room.lacking()


@pytest.mark.parametrize(
    ("code", "lacks"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EOPNOTSUPP, False)]
)
def test_what_cannot_be_set_aside_leaves_nothing(disks, monkeypatch, code, lacks):
    """A quota counts as a full disk; a file system that cannot do it has no reserve."""

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    room = Room(disks.paths)
    room.keep()

    assert lacks == (room.lacking() is not None)
    assert not disks.paths.reserve.exists()
