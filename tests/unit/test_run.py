"""What `tuner run` does about a child that has ended."""

import os
import signal
import socket
import time

import pytest

from profiles.errors import ExitCode
from service import run
from service.notify import Notifier
from service.run import FINAL, GIVE_UP, OKAY_S, PATIENCE_S, Child
from tuner.config import Config, EngineConfig


class Ended:
    """A process that has ended."""

    def __init__(self, status):
        self.status = status

    def poll(self):
        return self.status


def ended(child, status, *, lived=0.5):
    """Let the child end with a status after some seconds; what `tuner run` makes of it."""
    child.process = Ended(status)
    child.started = time.monotonic() - lived
    return run._tend(child)


@pytest.fixture
def child():
    """A child that is never really started."""
    return Child(name="tunerd", command=[])


@pytest.mark.parametrize("status", sorted(FINAL))
def test_a_first_start_that_cannot_succeed_ends_everything(child, status):
    """Whoever has just typed `tuner run` is told at once."""
    assert status == ended(child, status)


@pytest.mark.parametrize("status", sorted(FINAL))
def test_the_surroundings_of_a_child_that_has_served_may_get_well(child, status):
    """A full disk or a wrong edit at a restart: it is tried again, for as long as it takes."""
    before = time.monotonic()
    assert 0 == ended(child, ExitCode.INTERNAL, lived=OKAY_S + 1)
    pauses = []
    for _ in range(3 * GIVE_UP):
        assert 0 == ended(child, status)
        pauses.append(child.due - before)

    assert sorted(pauses) == pytest.approx(pauses, abs=0.5)
    assert pauses[0] < 3.0
    assert PATIENCE_S == pytest.approx(pauses[-1], abs=1.0)


def test_a_defect_that_comes_back_at_once_ends_everything(child):
    """A child that dies of itself again and again is for the service manager to see."""
    assert 0 == ended(child, -9, lived=OKAY_S + 1)
    found = [ended(child, -9) for _ in range(GIVE_UP)]

    assert [0] * (GIVE_UP - 1) + [int(ExitCode.INTERNAL)] == found


def test_an_orderly_end_of_tunerd_is_an_orderly_end(child):
    """`tuner stop` ends tunerd with 0, and then the rest."""
    assert -1 == ended(child, 0)


def test_a_stop_just_after_a_hangup_is_not_forgotten(monkeypatch, tmp_path):
    """SIGTERM came while SIGHUP was passed on; both were struck off the list, and nothing ended."""
    config = Config(engine=EngineConfig(model="org/m"), state_dir=tmp_path)
    told: list[list[int]] = []
    ends = os.pipe()
    turns = iter([0, 0, 0, 0, int(ExitCode.INTERNAL)])  # both children, until it is enough

    def woken(heard_of):
        heard_of.append(signal.SIGHUP)
        told.append(heard_of)
        return ends[0]

    def hang_up(_):
        told[0].append(signal.SIGTERM)
        return True

    monkeypatch.setattr(run, "_woken_by_signals", woken)
    monkeypatch.setattr(run, "_tend", lambda _: next(turns))
    monkeypatch.setattr(run, "load", lambda _: config)
    monkeypatch.setattr(Child, "hang_up", hang_up)

    listener = socket.socket()
    assert 0 == run.supervise(config, tmp_path / "f", listener, Notifier(), leave=False)
    for end in ends:
        os.close(end)
