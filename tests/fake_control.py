"""A scripted control API on the two unix sockets of a state directory, in a thread."""

import contextlib
import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

Answer = tuple[int, Any]  # HTTP status and body; bytes are sent as they are


class FakeControl:
    """Answers by method and path, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Answer | list[Answer]] = {}
        self.asked: list[tuple[str, str, str, Any]] = []  # socket, method, path, body

    def on(self, method: str, path: str, body: Any, status: int = 200) -> None:
        """Script one answer; a further one for the same path follows it, the last one stays."""
        before = self.answers.get((method, path), [])
        assert isinstance(before, list)
        self.answers[method, path] = [*before, (status, body)]

    def error(self, method: str, path: str, message: str, code: int, status: int) -> None:
        """Script a refusal."""
        error = {"message": message, "hint": "Do this.", "exit_code": code}
        self.on(method, path, {"v": 1, "error": error}, status)

    def take(self, method: str, path: str) -> Answer:
        """The next answer."""
        scripted = self.answers.get((method, path))
        if not scripted:
            message = f"{method} {path} is not scripted"
            return 500, {"v": 1, "error": {"message": message, "hint": "", "exit_code": 70}}
        assert isinstance(scripted, list)
        return scripted.pop(0) if len(scripted) > 1 else scripted[0]

    @contextlib.contextmanager
    def serving(self, run: Path) -> Iterator["FakeControl"]:
        """Listen on `status.sock` and `control.sock` in a folder."""
        run.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            for name in ("status.sock", "control.sock"):
                server = _Server(str(run / name), _handler(self, name))
                stack.callback(server.server_close)
                thread = threading.Thread(
                    target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
                )
                thread.start()
                stack.callback(thread.join)
                stack.callback(server.shutdown)
            yield self


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


def _handler(script: FakeControl, name: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            script.asked.append((name, self.command, self.path, body))
            status, answer = script.take(self.command, self.path)
            raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(raw)

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - names of http.server

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    return Handler
