"""Starts of an engine on a disk that fills up meanwhile, with a fake vLLM."""

import contextlib
import errno
import os
import signal
import subprocess

import psutil
import pytest
from stage import staged, until
from test_peer_defects_processes import launch_plan

from service import engine
from service.engine import Engine
from service.engine_record import EngineRecord, members


@pytest.mark.parametrize("writes", [1, 2])
async def test_a_record_that_cannot_be_written_leaves_no_engine(tmp_path, monkeypatch, writes):
    """Without a record nobody would find the engine again: it is ended, and nothing is left."""
    made, write = [], EngineRecord.write

    def some(record, path):
        made.append(record)
        if len(made) > writes:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(record, path)

    monkeypatch.setattr(engine.EngineRecord, "write", some)
    with pytest.raises(OSError, match="No space left"):
        await Engine.launch(launch_plan(tmp_path))

    assert made[-1].pid is not None
    assert [] == members(made[0].token, made[-1].pid)


@contextlib.contextmanager
def small_disk(place, mib):
    """A file system of its own."""
    place.mkdir(mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"No file system can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place):
    """Leave no byte."""
    for size in (1 << 16, 1):
        with contextlib.suppress(OSError), place.open("ab", buffering=0) as file:
            while file.write(b"x" * size):
                pass


def test_an_engine_that_dies_on_a_full_disk_is_started_from_the_reserve():
    """F41: nothing could be started until somebody made room, and every request was refused."""
    with staged() as stage, small_disk(stage.state, 32):
        stage.start()
        reserve, filler, wanted = stage.state / "reserve", stage.state / "filler", stage.profile(3)
        until(reserve.exists, "the reserve")
        fill(filler)
        for name in ("tunerd", "engine"):
            before = stage.settled()
            pid = before["engine"]["pid"] if name == "engine" else before["pid"]
            os.kill(pid, signal.SIGKILL)
            reply = stage.complete("hello", 4)
            assert (200, True) == (reply.status, reply.whole), stage.log.read_text()[-3000:]
            until(lambda p=pid: not psutil.pid_exists(p), "it has gone")
        spent = not reserve.exists()
        stage.use(wanted)
        said = stage.becomes("it waits", lambda s: "waiting" in s["sentence"])["sentence"]
        filler.unlink()
        until(reserve.exists, "the reserve is set aside again")
        stage.settled("ngram k=3")

    assert spent
    assert "a reserve of 8 MiB" in said


def test_a_service_starts_on_a_full_disk_from_the_reserve():
    """F41: after a clean stop SQLite could not make its files, and the service failed for good."""
    with staged() as stage, small_disk(stage.state, 32):
        stage.start()
        until((stage.state / "reserve").exists, "the reserve")
        assert 0 == stage.stop()
        fill(stage.state / "filler")
        stage.start()

        assert stage.complete("hello", 4).right("hello", 4)
        assert not (stage.state / "reserve").exists()
