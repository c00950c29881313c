"""The notification protocol on real sockets, and the watchdog against real wedges."""

import asyncio
import os
import socket
import threading
import time

import pytest

from service.notify import Beat, Notifier
from service.ward import Ward

PATIENCE_S = 0.4  # of the service manager in these tests


class Manager:
    """A service manager's socket."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self):
        """Every message since the last call."""
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return found


@pytest.fixture
def manager(tmp_path):
    """One that listens on a file."""
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.socket.close()


def notifier(tmp_path, watchdog_s=PATIENCE_S):
    """Ours, for the manager of the fixture."""
    return Notifier(str(tmp_path / "notify"), watchdog_s)


def test_the_environment_says_where_and_how_often(tmp_path):
    """The variables are consumed: what we start must not speak in our name."""
    environ = {
        "NOTIFY_SOCKET": str(tmp_path / "n"),
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": "7",
    }
    found = Notifier.of(environ, 7)

    assert (True, 30.0, {}) == (bool(found), found.watchdog_s, environ)


@pytest.mark.parametrize("usec", ["", "0", "-5", "soon", "²"])
def test_a_watchdog_that_is_no_number_is_none(usec):
    """A strange value is no reason to die."""
    assert None is Notifier.of({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": usec}, 7).watchdog_s


def test_the_watchdog_of_another_process_is_not_ours():
    """WATCHDOG_PID names whom it is for."""
    environ = {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "8"}

    assert None is Notifier.of(environ, 7).watchdog_s


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_without_a_manager_nothing_is_said(environ):
    """In a terminal and in a container the same code runs."""
    found = Notifier.of(dict(environ), 7)
    found.is_ready()

    assert not found


def test_a_manager_that_is_gone_stops_nobody(tmp_path):
    """Serving goes on without one."""
    notifier(tmp_path).is_ready()


def test_the_abstract_namespace(tmp_path):
    """@ stands for the zero byte of an address that is no file."""
    name = f"tuner-{os.getpid()}-{tmp_path.name}"
    manager = Manager(f"\0{name}")
    Notifier(f"@{name}").is_ready()

    heard = manager.heard()
    manager.socket.close()

    assert ["READY=1"] == heard


def test_every_message_is_the_one_of_the_protocol(manager, tmp_path):
    """Names and units are systemd's: microseconds, one field a line."""
    ours = notifier(tmp_path)
    ours.still_starting()
    ours.is_ready()
    ours.alive()
    ours.stopping(180.0)

    assert [
        "EXTEND_TIMEOUT_USEC=60000000",
        "READY=1",
        "WATCHDOG=1",
        "STOPPING=1\nEXTEND_TIMEOUT_USEC=180000000",
    ] == manager.heard()


def test_a_status_is_one_line_and_sent_once(manager, tmp_path):
    """A line break in a sentence would be a field of its own."""
    ours = notifier(tmp_path)
    ours.status("serving:\nSTOPPING=1")
    ours.status("serving:\nSTOPPING=1")

    assert ["STATUS=serving: STOPPING=1"] == manager.heard()


async def test_it_beats_at_half_of_the_patience(manager, tmp_path):
    """Time is asked for until ready; then every beat comes in time."""
    ours = notifier(tmp_path)
    beat = Beat(ours)
    await asyncio.sleep(PATIENCE_S)
    early = manager.heard()
    ours.is_ready()
    beat.go_on(lambda: "serving")
    await asyncio.sleep(3 * PATIENCE_S)
    await beat.end()
    late = manager.heard()

    assert ("EXTEND_TIMEOUT_USEC=60000000", "STATUS=starting") == tuple(early[:2])
    assert "WATCHDOG=1" not in early
    assert 3 <= late.count("WATCHDOG=1")
    assert "STATUS=serving" in late


async def test_a_wedged_thread_withholds_the_beat(manager, tmp_path):
    """The loop turns, the thread does not answer: the manager hears nothing until it does."""
    gate = threading.Event()
    blocked = asyncio.create_task(asyncio.to_thread(gate.wait, 10.0))
    ours = notifier(tmp_path)
    ours.is_ready()
    beat = Beat(ours)
    beat.go_on(lambda: "serving", [lambda: asyncio.shield(blocked)])
    await asyncio.sleep(0.1)
    manager.heard()
    await asyncio.sleep(3 * PATIENCE_S)
    wedged = manager.heard()
    gate.set()
    await asyncio.sleep(2 * PATIENCE_S)
    await beat.end()

    assert "WATCHDOG=1" not in wedged
    assert "WATCHDOG=1" in manager.heard()


async def test_a_wedged_loop_withholds_the_beat(manager, tmp_path):
    """Who blocks the loop blocks the beat."""
    ours = notifier(tmp_path)
    ours.is_ready()
    beat = Beat(ours)
    await asyncio.sleep(0.1)
    manager.heard()
    time.sleep(2 * PATIENCE_S)  # noqa: ASYNC251 - that is the fault
    silent = manager.heard()
    await beat.end()

    assert [] == silent


def test_a_ward_takes_in_what_its_child_says(tmp_path):
    """The supervisor speaks the same protocol from the other end, and consumes it as we do."""
    ward = Ward(tmp_path / "child", PATIENCE_S)
    child = Notifier.of(dict(ward.environment), os.getpid())
    child.is_ready()
    child.status("serving")
    ward.read()

    assert (True, "serving", False) == (ward.ready, ward.status, ward.wedged)
    assert PATIENCE_S == child.watchdog_s
    assert 0o600 == (tmp_path / "child").stat().st_mode & 0o777
    ward.close()


def test_a_ward_that_misses_its_beat_is_wedged(tmp_path):
    """After READY; before it a start takes as long as it takes."""
    ward = Ward(tmp_path / "child", PATIENCE_S)
    child = Notifier(str(tmp_path / "child"), PATIENCE_S)
    time.sleep(1.5 * PATIENCE_S)
    before = ward.wedged
    child.is_ready()
    ward.read()
    time.sleep(1.5 * PATIENCE_S)
    late = ward.wedged
    child.alive()
    ward.read()

    assert (False, True, False) == (before, late, ward.wedged)
    ward.close()


def test_a_new_child_inherits_nothing(tmp_path):
    """What the one before said is not true of the next."""
    ward = Ward(tmp_path / "child", PATIENCE_S)
    Notifier(str(tmp_path / "child")).is_ready()
    ward.read()
    ward.started()

    assert (False, "") == (ward.ready, ward.status)
    ward.close()
