"""The client of the control API: every way in which a daemon does not answer."""

import contextlib
import os
import socket
import tempfile
import threading
import time
from pathlib import Path

import pytest
from fake_control import FakeControl

from profiles.errors import (
    ConflictError,
    DeadlineError,
    DeniedError,
    ExitCode,
    NotFoundError,
    StoreError,
    TunerError,
    UnavailableError,
    UnreachableError,
)
from tuner import client as client_module
from tuner.client import AnswerError, ControlClient, RefusedError
from tuner.paths import Paths


@pytest.fixture
def paths(tmp_path):
    """The paths of a daemon whose sockets are in a short folder."""
    return Paths(state=tmp_path, run=tmp_path / "run")


@pytest.fixture
def daemon(paths):
    """A scripted daemon that listens."""
    with FakeControl().serving(paths.run) as script:
        yield script


@contextlib.contextmanager
def raw_server(path, behave):
    """A server that does with each connection what it likes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve():
            with contextlib.suppress(OSError):
                link, _ = listener.accept()
                with link:
                    behave(link)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_questions_and_changes_have_their_own_sockets(daemon, paths):
    """A user who may only look never opens the control socket."""
    for method in ("GET", "POST", "DELETE"):
        daemon.on(method, "/v1/x", {"v": 1, "done": method})
    client = ControlClient(paths)

    assert {"v": 1, "done": "GET"} == client.get("/v1/x")
    assert {"v": 1, "done": "POST"} == client.post("/v1/x", {"a": 1})
    assert {"v": 1, "done": "DELETE"} == client.delete("/v1/x")
    assert [
        ("status.sock", "GET", "/v1/x", None),
        ("control.sock", "POST", "/v1/x", {"a": 1}),
        ("control.sock", "DELETE", "/v1/x", None),
    ] == daemon.asked


def test_no_daemon_is_noticed_at_once(paths):
    """F85: no socket gives exit 3 at once, with what starts the daemon."""
    begun = time.monotonic()
    with pytest.raises(UnreachableError) as caught:
        ControlClient(paths, advice="Start it with `tuner --config /x run`.").get("/v1/status")

    assert time.monotonic() - begun < 5  # nothing was waited for; a busy machine is slow
    assert str(paths.status_socket) in caught.value.message
    assert "Start it with `tuner --config /x run`." == caught.value.hint
    assert ExitCode.UNREACHABLE == caught.value.exit_code


def test_socket_of_a_dead_daemon(paths):
    """A socket file that nobody listens at is the same as none."""
    paths.run.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(paths.status_socket))

    with pytest.raises(UnreachableError, match="No daemon listens"):
        ControlClient(paths).get("/v1/status")


def test_daemon_that_dies_before_it_answers(paths):
    """A closed connection is no traceback."""
    with (
        raw_server(paths.status_socket, lambda link: link.recv(10)),
        pytest.raises(UnreachableError, match="does not answer"),
    ):
        ControlClient(paths).get("/v1/status")


def test_daemon_that_hangs(paths):
    """A daemon that accepts but says nothing costs the deadline, exit 5."""
    over = threading.Event()
    client = ControlClient(paths, answer_s=0.1)
    with raw_server(paths.status_socket, lambda _: over.wait(10)):
        with pytest.raises(DeadlineError, match="did not answer in time") as caught:
            client.get("/v1/status")
        over.set()

    assert ExitCode.TIMED_OUT == caught.value.exit_code


def test_daemon_that_speaks_no_http(paths):
    """Whatever listens there, the answer is a sentence."""
    with (
        raw_server(paths.status_socket, lambda link: link.sendall(b"SSH-2.0-x\r\n")),
        pytest.raises(UnreachableError, match="does not answer"),
    ):
        ControlClient(paths).get("/v1/status")


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root can")
def test_socket_of_another_user():
    """F83: a user outside the group gets exit 4 and nothing is asked."""
    with tempfile.TemporaryDirectory() as folder:
        paths = Paths(state=Path(folder), run=Path(folder))
        paths.run.chmod(0o755)
        with FakeControl().serving(paths.run) as daemon:
            paths.control_socket.chmod(0o600)  # the group of root stays ours
            os.seteuid(65534)
            try:
                with pytest.raises(DeniedError, match="refuses this user") as caught:
                    ControlClient(paths).post("/v1/use", {"profile": "default"})
            finally:
                os.seteuid(0)

    assert ExitCode.DENIED == caught.value.exit_code
    assert [] == daemon.asked


def test_path_too_long_for_a_socket(tmp_path):
    """A socket path that the system cannot take is named, not thrown."""
    deep = Paths(state=tmp_path, run=tmp_path / ("d" * 120))
    with pytest.raises(UnreachableError, match="path too long"):
        ControlClient(deep).get("/v1/status")


@pytest.mark.parametrize(
    ("status", "code", "family"),
    [
        (404, 1, NotFoundError),
        (409, 1, ConflictError),
        (400, 2, RefusedError),
        (403, 4, DeniedError),
        (500, 74, StoreError),
        (503, 69, UnavailableError),
        (504, 5, DeadlineError),
        (500, 70, TunerError),
        (404, 99, NotFoundError),
        (418, 99, RefusedError),
    ],
)
def test_errors_keep_family_message_and_hint(daemon, paths, status, code, family):
    """What the daemon raised is what the command line exits with."""
    daemon.error("GET", "/v1/x", "It says no.", code, status)
    with pytest.raises(TunerError) as caught:
        ControlClient(paths).get("/v1/x")

    assert family is type(caught.value)
    assert ("It says no.", "Do this.") == (caught.value.message, caught.value.hint)
    assert code in {int(caught.value.exit_code), 99}


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (200, b"<html>", "is not JSON"),
        (200, b"\xff\xfe", "is not JSON"),
        (200, b"[" * 100_000, "is not JSON"),
        (200, [1], "is not a JSON object"),
        (200, {"v": 2}, "speaks version 2 of the control API"),
        (200, {}, "speaks version None of the control API"),
        (500, {"v": 1}, "answered HTTP 500 without a reason"),
        (500, {"v": 1, "error": {"message": 7}}, "answered HTTP 500 without a reason"),
    ],
)
def test_answers_that_are_none(daemon, paths, status, body, sentence):
    """F84, F89: an answer of something else, or of another version, is a sentence."""
    daemon.on("GET", "/v1/x", body, status)
    with pytest.raises(AnswerError, match=sentence):
        ControlClient(paths).get("/v1/x")


def test_oversized_answer(daemon, paths, monkeypatch):
    """F84: an endless answer is given up, not read to the end."""
    monkeypatch.setattr(client_module, "MAX_ANSWER_BYTES", 1 << 20)
    daemon.on("GET", "/v1/x", b" " * (3 << 20))
    with pytest.raises(AnswerError, match="longer than 1 MiB"):
        ControlClient(paths).get("/v1/x")
