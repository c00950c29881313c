"""The identity of an engine: on disk, alive or not, and all its processes."""

import json
import os
import secrets
import subprocess
import sys
import time

import psutil
import pytest

from profiles.knobs import Knobs
from service.engine_record import TOKEN_VARIABLE, EngineRecord, members

SLEEP = "import time; time.sleep(300)"
PARENT = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); {SLEEP}"


@pytest.fixture
def token():
    return secrets.token_hex(8)


@pytest.fixture
def record(token):
    return EngineRecord(
        token=token,
        profile="p",
        purpose="serve",
        knobs=Knobs().canonical(),
        launch="digest",
        socket="/tmp/s",
        log="/tmp/l",
    )


@pytest.fixture
def spawn(token):
    """Start Python code as an engine would be started; everything is killed afterwards."""
    started = []

    def start(code=SLEEP, **env):
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, TOKEN_VARIABLE: token, **env},
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        for member in members(token, process.pid if process.poll() is None else None):
            member.kill()
        process.wait()


def wait_for(count, token, group=None):
    deadline = time.monotonic() + 30
    while len(found := members(token, group)) != count and time.monotonic() < deadline:
        time.sleep(0.02)
    return {process.pid for process in found}


def test_a_record_survives_the_disk(record, tmp_path):
    """What was written is read, whole, and no draft is left beside it."""
    path = tmp_path / "engine.json"
    record.write(path)
    record.write(path)

    assert record == EngineRecord.read(path)
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"token": "t"}', "null", '{"token": "t", "other": 1}']
)
def test_a_record_that_cannot_be_read_is_none(text, tmp_path):
    """Whatever is on disk, the daemon starts."""
    path = tmp_path / "engine.json"
    assert EngineRecord.read(path) is None

    path.write_text(text)
    assert EngineRecord.read(path) is None


def test_a_record_with_knobs_of_another_version_is_none(record, tmp_path):
    """Knobs that this version does not know cannot be adopted."""
    path = tmp_path / "engine.json"
    record.write(path)
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "knobs": '{"unknown":1}'}))

    assert EngineRecord.read(path) is None


def test_an_intent_is_not_alive(record):
    """Before the spawn there is a token, but nobody to signal."""
    assert not record.alive()


def test_alive_means_the_very_process(record, spawn):
    """The pid alone is not enough: it may have been given to somebody else."""
    process = spawn()
    spawned = record.spawned(process.pid)
    assert spawned.alive()

    stranger = EngineRecord(**{**spawned.__dict__, "started_at": spawned.started_at - 100})
    assert not stranger.alive()

    process.kill()
    deadline = time.monotonic() + 30
    while spawned.alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert psutil.STATUS_ZOMBIE == psutil.Process(process.pid).status()  # nobody has waited
    assert not spawned.alive()


def test_members_are_found_by_token_without_their_parent(token, spawn):
    """A child that outlives the API server still belongs to the engine (vllm#55510)."""
    process = spawn(PARENT)
    both = wait_for(2, token)
    assert process.pid in both

    process.kill()
    process.wait()

    assert both - {process.pid} == wait_for(1, token)


def test_members_are_found_by_group_without_their_token(token, spawn):
    """A child that hides its environment is found by the process group."""
    hidden = (
        "import os, subprocess, sys; "
        f"subprocess.Popen([sys.executable, '-c', {SLEEP!r}], env={{}}); {SLEEP}"
    )
    process = spawn(hidden)

    assert 2 == len(wait_for(2, token, process.pid))
    assert {process.pid} == wait_for(1, token)


def test_nobody_else_is_a_member(token):
    """Without a process of this start, nothing is found, least of all ourselves."""
    assert [] == members(token, None)


def test_a_record_of_before_units_is_read(record, tmp_path):
    """An upgrade adopts the engine that the version before has started."""
    path = tmp_path / "engine.json"
    record.write(path)
    raw = json.loads(path.read_text())
    old = {k: v for k, v in raw.items() if k not in {"unit", "invocation", "control_group"}}
    path.write_text(json.dumps(old))

    assert record == EngineRecord.read(path)
    assert record.unit is None
