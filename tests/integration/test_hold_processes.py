"""Applications that hold a profile while their connection lives, in a running service."""

import json
import os
import signal
import subprocess
import sys

import pytest
from stage import ROOT, staged, until


@pytest.fixture(scope="module")
def stage():
    """A running service with short windows."""
    with staged(
        policy={"min_requests": 5, "window_s": 5.0, "dwell_s": 0.1, "switches_per_hour": 100}
    ) as made:
        yield made.start()


@pytest.fixture
def tuner(stage):
    """Start the command line beside the service; what a test leaves running is ended."""
    started = []

    def start(*words):
        command = [sys.executable, "-m", "tuner.cli", "--config", str(stage.write()), *words]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    # one that was killed here is noticed within half a second, maybe after the next test has looked
    until(lambda: not held(stage), "nothing is held")


def held(stage):
    """Who holds what."""
    return [(hold["application"], hold["label"]) for hold in stage.status()["holds"]]


def test_a_hold_ends_with_its_holder(stage, tuner):
    """F31: killed without a word, it holds nothing any more; while it lived it had its profile."""
    stage.use("auto")
    wanted = stage.profile(3)
    holder = tuner("hold", "editor", wanted[:8], "--reason", "demo")
    assert "editor holds" in holder.stdout.readline()
    stage.settled("ngram k=3")
    assert [("editor", "ngram k=3")] == held(stage)
    shown = json.loads(tuner("holds", "--json").communicate()[0])

    holder.send_signal(signal.SIGKILL)
    until(lambda: not held(stage), "nothing is held")
    assert [("editor", "demo")] == [(h["application"], h["reason"]) for h in shown["holds"]]
    assert any("editor does not hold" in event for event in stage.events())


def test_a_command_runs_while_its_profile_is_held(stage, tuner):
    """Its status is ours, and the hold is gone when it ends."""
    stage.use("auto")
    script = "import sys; print(sys.stdin.readline(), end=''); sys.exit(7)"
    process = tuner("launch", "-p", stage.profile(8)[:8], "-a", "job", sys.executable, "-c", script)
    until(lambda: held(stage) == [("job", "ngram k=8")], "the command's hold")
    process.communicate(timeout=60)

    assert 7 == process.returncode
    until(lambda: not held(stage), "nothing is held")


def test_a_choice_of_the_operator_ends_holds(stage, tuner):
    """A manual switch clears them, and the holder is told; it exits with 1."""
    stage.use("auto")
    holder = tuner("hold", "editor", stage.profile(3)[:8])
    assert "editor holds" in holder.stdout.readline()
    stage.use("default")
    told, _ = holder.communicate(timeout=60)

    assert "The hold has ended: the operator chose default." in told
    assert 1 == holder.returncode
    assert [] == held(stage)


def test_who_may_not_change_may_not_hold(stage):
    """A denied hold does not hold (power-profiles-daemon 0.10.1 had that defect)."""
    wish = {"application": "a", "profile": "default"}
    status, _ = stage.ask("POST", "/v1/holds", wish, name="status")
    unknown, error = stage.ask("POST", "/v1/holds", {**wish, "profile": "ffff"})

    assert [405, 404] == [status, unknown]
    assert "ffff" in error["error"]["message"]
    assert [] == held(stage)


def test_nothing_runs_without_its_hold(stage, tuner, tmp_path):
    """A profile that is not there: the sentence, its status, and the command was not started."""
    process = tuner("launch", "-p", "ffff", "touch", str(tmp_path / "ran"))
    _, said = process.communicate(timeout=60)

    assert 1 == process.returncode
    assert "ffff" in said
    assert not (tmp_path / "ran").exists()


def test_a_hold_is_taken_again_after_a_restart(stage, tuner):
    """A daemon that is killed and comes back finds the application still holding."""
    stage.use("auto")
    holder = tuner("hold", "editor", stage.profile(3)[:8])
    assert "editor holds" in holder.stdout.readline()
    os.kill(stage.status()["pid"], signal.SIGKILL)

    assert "editor holds" in holder.stdout.readline()
    assert [("editor", "ngram k=3")] == held(stage)
