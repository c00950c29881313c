"""A control group as the kernel shows it: processes and processor time."""

import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tuner.control_group import HIERARCHIES, ControlGroup
from tuner.processes import CpuTimes, EngineProcess, Listener


@pytest.fixture
def hierarchy(tmp_path):
    """Two groups, one below the other, and the root above them."""
    for name, pids in (("", "1\n"), ("a.service", "7\n8\n"), ("a.service/core", "9\n")):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "cgroup.procs").write_text(pids)
    (tmp_path / "a.service/cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    return tmp_path


def test_processes_of_groups_below_belong_to_it(hierarchy):
    """An engine core in a group of its own is still the engine."""
    assert frozenset({7, 8, 9}) == ControlGroup("/a.service", (hierarchy,)).pids()


def test_processor_time_is_that_of_the_kernel(hierarchy):
    """In seconds, processes that have ended included."""
    assert 2.5 == ControlGroup("/a.service", (hierarchy,)).cpu_s()


@pytest.mark.parametrize("name", ["", "/", "/gone.service"])
def test_no_group_is_nobody(hierarchy, name):
    """A unit that has ended has no processes; the root is never meant."""
    group = ControlGroup(name, (hierarchy / "none", hierarchy))

    assert (frozenset(), None) == (group.pids(), group.cpu_s())


def test_an_engine_in_a_unit_is_accounted_by_its_group(hierarchy, monkeypatch):
    """Its processes are another user's and hidden, so that no tree could be walked."""
    engine = EngineProcess(pid=7, started_at=0.0, group=ControlGroup("/a.service", (hierarchy,)))

    assert frozenset({7, 8, 9}) == engine.pids()
    assert 2.5 == CpuTimes.now(engine, Listener(pid=7, started_at=None)).engine_s
    assert CpuTimes.now(engine, Listener(pid=1, started_at=None)).engine_s is None


def test_a_record_may_name_a_group():
    """What systemd said when the engine was started."""
    assert ControlGroup("/a") == EngineProcess.of(1, 2.0, "/a").group
    assert EngineProcess.of(1, 2.0).group is None


def test_a_real_group_has_our_child():
    """The files are where this kernel has them."""
    root = next((each for each in HIERARCHIES if (each / "cgroup.procs").exists()), None)
    own = Path("/proc/self/cgroup").read_text().rpartition("0::")[2].strip()
    if root is None or not ControlGroup(own).pids():
        pytest.skip("no control group of version 2 with a name")
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            assert child.pid in ControlGroup(own).pids()
            before = ControlGroup(own).cpu_s()
            end = time.thread_time() + 0.05
            while time.thread_time() < end:
                psutil.cpu_count()
            assert ControlGroup(own).cpu_s() > before
        finally:
            child.kill()
