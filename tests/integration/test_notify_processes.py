"""`tuner run` under a service manager: real processes around a fake vLLM, a real NOTIFY_SOCKET."""

import contextlib
import signal
import socket

import pytest
from stage import staged, until

WATCHDOG_S = 10.0


@pytest.fixture
def manager(tmp_path, monkeypatch):
    """The lines that a service manager has heard so far; what is started from now on tells it."""
    lines = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.bind(str(tmp_path / "notify"))
        ours.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", str(round(WATCHDOG_S * 1e6)))

        def heard():
            with contextlib.suppress(BlockingIOError):
                while True:
                    lines.extend(ours.recv(4096).decode().splitlines())
            return lines

        yield heard


def test_a_service_manager_hears_of_the_whole_life(manager):
    """Ready once, a status from both processes, beats, and how long the stop may take."""
    with staged() as stage:
        stage.start()
        until(lambda: "READY=1" in manager(), "READY=1")
        mode = f"STATUS={stage.status()['mode']}: "
        until(lambda: any(line.startswith(mode) for line in manager()), "the mode as status")
        until(lambda: manager().count("WATCHDOG=1") >= 2, "two beats")
        status = stage.stop()

        assert 0 == status
        assert 1 == manager().count("READY=1")
        ending = manager()[manager().index("STOPPING=1") :]
        assert ending[1].startswith("EXTEND_TIMEOUT_USEC=")
        assert any("gate open" in line for line in manager())


@pytest.mark.parametrize("module", ["service", "service.gateway"])
def test_a_wedged_child_is_replaced_and_costs_no_engine(manager, module):
    """Stopped, not dead: it misses its beat, is ended and started again; the engine stays."""
    with staged() as stage:
        stage.start()
        engine = stage.settled()["engine"]["pid"]
        until(lambda: "READY=1" in manager(), "READY=1")
        (wedged,) = stage.named("-m", module)
        wedged.send_signal(signal.SIGSTOP)
        until(lambda: "is wedged" in stage.log.read_text(), "the finding")
        until(lambda: stage.named("-m", module) not in ([], [wedged]), "another process")
        after = stage.settled()

        assert engine == after["engine"]["pid"]
        assert stage.complete("after", 8).right("after", 8)
        assert 1 == manager().count("READY=1")
