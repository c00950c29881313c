"""The engine's processes: who answers, and who used the processors."""

import os
import socket
import subprocess
import sys
import time

import psutil
import pytest

from profiles.measurement import Environment
from tuner.processes import CPU_WINDOW_S, CpuTimes, EngineProcess, Listener, cpu_shares

BURN = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
PARENT = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}])"
MYSELF = EngineProcess(pid=os.getpid(), started_at=psutil.Process().create_time())


@pytest.fixture
def engine():
    """A process with a child that computes all the time."""
    process = subprocess.Popen([sys.executable, "-c", PARENT], start_new_session=True)
    made = EngineProcess(pid=process.pid, started_at=psutil.Process(process.pid).create_time())
    deadline = time.monotonic() + 30
    while len(made.tree()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield made
    for one in made.tree():
        one.kill()
    process.wait()


def times(at, **changes):
    """Counters of two cores at a moment."""
    fields = {
        "busy_s": 0.0, "total_s": 2 * at, "engine_s": 0.0, "own_s": 0.0, "thread_s": 0.0,
    }  # fmt: skip
    return CpuTimes(at=at, **(fields | changes))


def shares(**after):
    return cpu_shares(times(0.0), times(10.0, **after), Environment(power_w=5.0))


def test_foreign_is_what_neither_engine_nor_replay_used():
    """Of 20 core-seconds 18 were busy: 12 by the engine, 2 by us, so 4 by others."""
    found = shares(busy_s=18.0, engine_s=12.0, own_s=2.0, thread_s=1.5)

    assert (0.2, 0.15, 0.9) == (found.foreign_cpu, found.client_cpu, found.host_cpu)
    assert 5.0 == found.power_w


def test_rounding_never_makes_others_negative():
    """The kernel's ticks may give the engine more than the whole machine."""
    assert 0.0 == shares(busy_s=11.9, engine_s=12.0).foreign_cpu


def test_an_engine_that_is_not_seen_leaves_others_unknown():
    """In a container the work is done by processes that are not ours to see."""
    found = shares(busy_s=18.0, engine_s=None, thread_s=9.5)

    assert (None, 0.95) == (found.foreign_cpu, found.client_cpu)


def test_a_short_window_has_no_shares():
    """Ticks of 10 ms say little of a moment."""
    before, after = times(0.0), times(CPU_WINDOW_S - 0.1, busy_s=9.0, engine_s=0.0)

    assert Environment() == cpu_shares(before, after, Environment())
    assert Environment() == cpu_shares(before, times(9.0, total_s=0.0), Environment())


def test_the_tree_of_an_engine_has_its_children(engine):
    """An engine core is a child of its server; another process of that pid is nobody's."""
    other = EngineProcess(pid=engine.pid, started_at=engine.started_at - 100)

    assert 2 == len(engine.pids())
    assert engine.pid in engine.pids()
    assert (frozenset(), frozenset()) == (
        other.pids(),
        EngineProcess(pid=2**22 + 1, started_at=0.0).pids(),
    )


def test_a_record_without_a_process_has_no_engine():
    """An engine that was never spawned cannot be looked at."""
    assert EngineProcess.of(None, None) is None
    assert EngineProcess(pid=1, started_at=2.0) == EngineProcess.of(1, 2.0)


def test_who_listens_is_known(tmp_path):
    """The kernel says who called listen(); nobody is None."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert Listener.on(path) is None
        server.listen()

        assert Listener(pid=os.getpid(), started_at=MYSELF.started_at) == Listener.on(path)
    assert Listener.on(tmp_path / "none") is None


def test_processor_time_of_engine_and_replay(engine):
    """The child's work is the engine's, this thread's is the replay's."""
    answers = Listener(pid=engine.pid, started_at=None)
    before = CpuTimes.now(engine, answers)
    end = time.thread_time() + 0.2
    while time.thread_time() < end:
        pass
    deadline = time.monotonic() + 30
    while CpuTimes.now(engine, answers).engine_s < before.engine_s + 0.1:
        assert time.monotonic() < deadline
    after = CpuTimes.now(engine, answers)

    assert after.thread_s - before.thread_s >= 0.2
    assert after.own_s - before.own_s >= 0.1
    assert after.total_s > before.total_s
    assert after.busy_s > before.busy_s


def test_an_engine_that_does_not_answer_itself_is_not_accounted(engine):
    """Whoever listens outside its tree works for it where we do not see it."""
    elsewhere = Listener(pid=os.getpid(), started_at=None)

    assert CpuTimes.now(engine, elsewhere).engine_s is None
    assert CpuTimes.now(engine, None).engine_s is None
    assert CpuTimes.now(None, elsewhere).engine_s is None
