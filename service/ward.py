"""What a supervised child says of itself: the supervisor is its service manager."""

import contextlib
import os
import socket
import time
from pathlib import Path

SIZE = 4096  # bytes of one message, at most


class Ward:
    """The supervisor's end of a child's NOTIFY_SOCKET, a file that only this user can write to."""

    def __init__(self, path: Path, watchdog_s: float | None) -> None:
        self.ready = False
        self.status = ""
        self._path = path
        self._watchdog_s = watchdog_s
        self._beat_at = 0.0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path.unlink(missing_ok=True)
        old = os.umask(0o177)  # no moment at which others could write
        try:
            self._socket.bind(str(path))
        finally:
            os.umask(old)
        self._socket.setblocking(False)

    @property
    def environment(self) -> dict[str, str]:
        """What the child has to find in its environment."""
        watchdog = {} if self._watchdog_s is None else {"WATCHDOG_USEC": self._usec}
        return {"NOTIFY_SOCKET": str(self._path), **watchdog}

    @property
    def _usec(self) -> str:
        return str(round((self._watchdog_s or 0.0) * 1e6))

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def started(self) -> None:
        """A new child: nothing that the one before said is true of it."""
        self.read()
        self.ready, self.status = False, ""

    def read(self) -> None:
        """Take in what came."""
        while True:
            try:
                message = self._socket.recv(SIZE)
            except BlockingIOError:
                return
            for line in message.decode(errors="replace").splitlines():
                name, _, value = line.partition("=")
                if name == "STATUS":
                    self.status = value
                if name in {"READY", "WATCHDOG"}:
                    self._beat_at = time.monotonic()
                self.ready = self.ready or name == "READY"

    @property
    def wedged(self) -> bool:
        """Whether it was ready and then missed its beat."""
        late_s = time.monotonic() - self._beat_at
        return self.ready and self._watchdog_s is not None and late_s > self._watchdog_s

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()
        with contextlib.suppress(OSError):
            self._path.unlink()
