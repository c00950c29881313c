"""Running other tools: what they leave behind is found by its mark and ended, nothing else is."""

import os
import socket
import subprocess
import sys
import time

import psutil
import pytest
from benchmark_modules import module

process = module("peers_process")

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
# a tool that starts a daemon of its own session and ends at once
LEAVES = [
    sys.executable,
    "-c",
    f"import subprocess; subprocess.Popen({SLEEP!r}, start_new_session=True)",
]


@pytest.fixture
def bystander():
    """A process that looks like the tool's but was started by somebody else."""
    running = subprocess.Popen(SLEEP, start_new_session=True)
    yield running
    running.kill()
    running.wait()


def test_what_a_tool_leaves_behind_is_counted_and_ended(tmp_path, monkeypatch, bystander):
    """A process in a session of its own is found by the mark that it inherited."""
    monkeypatch.setattr(process, "GRACE_S", 1.0)

    with process.watched(dict(os.environ)) as watch:
        status = process.run(LEAVES, watch.env, log=tmp_path / "log", limit_s=30)

    assert (0, 1) == (status, watch.left_behind)
    assert [] == process.survivors(watch.mark)
    assert bystander.poll() is None


def test_a_tool_that_cleans_up_leaves_nothing(tmp_path):
    """Nothing is waited for when nothing is left."""
    began = time.monotonic()

    with process.watched(dict(os.environ)) as watch:
        process.run([sys.executable, "-c", "print(1)"], watch.env, log=tmp_path / "log", limit_s=30)

    assert 0 == watch.left_behind
    assert "1\n" == (tmp_path / "log").read_text()
    assert time.monotonic() - began < process.GRACE_S


def test_a_tool_that_takes_too_long_is_ended_by_its_group(tmp_path):
    """Past the limit the tool and its children of the same group are gone, with a sentence."""
    child = f"import subprocess; subprocess.Popen({SLEEP!r}).wait()"
    with process.watched(dict(os.environ)) as watch:
        with pytest.raises(SystemExit, match="longer than 1 s"):
            process.run([sys.executable, "-c", child], watch.env, log=tmp_path / "log", limit_s=1)
        left = [one for one in process.survivors(watch.mark) if one.is_running()]
        psutil.wait_procs(left, timeout=5)

    assert 0 == watch.left_behind


def test_a_port_that_answers_is_not_free():
    """vllm-tuner would measure whatever listens there."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert not process.port_is_free(port)

    assert process.port_is_free(port)
