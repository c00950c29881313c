"""What a soak reads from /proc, from files and from the store."""

import contextlib
import os
import secrets
import subprocess
import sys
import time

import pytest
from soaking import watch
from soaking.house import CLOCK, House
from stage import until

from profiles.knobs import Knobs
from profiles.platform import Platform
from profiles.profile import default_profile
from profiles.store import Store
from service.engine_record import TOKEN_VARIABLE


@contextlib.contextmanager
def process(mark, *words, **environ):
    """A process that sleeps, with these words on its command line."""
    started = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", *words],
        env={**os.environ, "SOAK_TEST": mark, **environ},
    )
    try:
        yield started
    finally:
        started.kill()
        started.wait()


@pytest.fixture
def mark():
    """A mark of this test alone."""
    return secrets.token_hex(8)


def test_processes_are_known_by_their_environment_and_their_command(mark):
    """Engines by their token, others by the module that they run, strangers not at all."""
    needle = f"SOAK_TEST={mark}".encode()
    with (
        process("another", "-m", "service"),
        process(mark, "-m", "service") as daemon,
        process(mark, "-m", "service.gateway") as gateway,
        process(mark, "--uds", "x", **{TOKEN_VARIABLE: "one"}) as engine,
        process(mark, **{TOKEN_VARIABLE: "one"}) as child,
    ):
        until(lambda: len(watch.scan(needle)) == 4)
        found = {seen.pid: (seen.role, seen.token) for seen in watch.scan(needle)}

        assert {
            daemon.pid: ("tunerd", ""),
            gateway.pid: ("gateway", ""),
            engine.pid: ("engine", "one"),
            child.pid: ("engine child", "one"),
        } == found
        assert watch.two_engines(needle) is None
        with process(mark, "--uds", "y", **{TOKEN_VARIABLE: "two"}):
            until(lambda: len(watch.scan(needle)) == 5)

            assert "one" in watch.two_engines(needle)
        assert watch.two_engines(needle) is None


def test_a_process_that_ended_is_not_seen(mark):
    """A zombie holds nothing, and what has gone has no readings."""
    needle = f"SOAK_TEST={mark}".encode()
    with process(mark) as started:
        until(lambda: watch.scan(needle))
        (seen,) = watch.scan(needle)
        reading = watch.sample(seen, 1.0)
        started.kill()
        until(lambda: not watch.scan(needle))

    assert reading.rss_mib > 1.0
    assert reading.descriptors >= 3
    assert 1 == reading.threads
    assert watch.sample(seen, 2.0) is None


def test_a_prompt_is_found_wherever_it_is(tmp_path):
    """In bytes, in a folder below, and in a name; links lead nowhere new."""
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "store").write_bytes(b"\x00prompt-1\x00")
    (tmp_path / "prompt-1.txt").touch()
    (tmp_path / "clean").write_text("nothing")
    (tmp_path / "link").symlink_to("below/store")

    found, searched = watch.files_with(tmp_path, b"prompt-1")
    assert {"below/store", "prompt-1.txt"} == set(found)
    assert 3 == searched


def test_tracebacks_are_known_by_their_last_line():
    """One entry per kind, whatever lines are between; a log without one has none."""
    log = (
        "02:00 INFO all is well\n"
        "Traceback (most recent call last):\n"
        '  File "x", line 1, in f\n'
        "    f()\n"
        "ValueError: no\n"
        "02:01 INFO on\n"
    )

    assert {"ValueError: no": 2} == watch.tracebacks(log * 2)
    assert {} == watch.tracebacks("02:00 INFO Traceback is a word\n")


def test_what_an_engine_works_on_is_read_from_its_counters():
    """Running and waiting, of every engine core; other series with such names are none of it."""
    metrics = (
        "# HELP vllm:num_requests_running x\n"
        'vllm:num_requests_running{engine="0"} 2.0\n'
        'vllm:num_requests_running{engine="1"} 1.0\n'
        'vllm:num_requests_waiting{engine="0"} 4.0\n'
        'vllm:num_requests_waiting_by_reason{reason="capacity"} 4.0\n'
    )

    assert 7.0 == watch.running(metrics)
    assert 0.0 == watch.running("")


def test_what_is_in_force_is_read_without_a_lock(tmp_path):
    """The latest row counts; a store without one has none."""
    platform = Platform(cpu="c", vllm="v", model="m")
    profile = default_profile(platform.digest, Knobs())
    with Store.open(tmp_path / "store", now=0.0) as store:
        before = watch.in_force(tmp_path / "store")
        store.ensure_platform(platform, at=0.0)
        store.put_profile(profile)
        store.set_in_force(profile.id, why="", at=1.0)

        assert before is None
        assert profile.id == watch.in_force(tmp_path / "store")


def test_the_clock_can_be_set_and_monotonic_time_goes_on(tmp_path):
    """What the fault "clock jumps" rests on: one hour back, in another process."""
    house = House(folder=tmp_path)
    house.clock.write_text("-3600")
    code = "import time; print(time.time(), time.monotonic())"
    said = subprocess.run(
        [sys.executable, "-c", code],
        env=house.environ(),
        check=True,
        capture_output=True,
        text=True,
    )
    wall, monotonic = map(float, said.stdout.split())

    assert str(CLOCK) in house.environ()["PYTHONPATH"]
    assert -3600 == pytest.approx(wall - time.time(), abs=60)
    assert 0 == pytest.approx(monotonic - time.monotonic(), abs=60)
