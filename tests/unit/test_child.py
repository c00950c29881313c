"""A supervised process: becomes its command only under a living parent, and inherits the socket."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHOW = (
    "import json, os, socket; s = socket.socket(fileno=3); "
    "print(json.dumps([os.environ['LISTEN_FDS'], int(os.environ['LISTEN_PID']) == os.getpid(), "
    "s.getsockname()[1]]))"
)


def child(*options, code, **more):
    return subprocess.run(
        [sys.executable, "-m", "service.child", *options, "--", sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **more,
    )


def test_it_becomes_its_command():
    """The command's own status and output."""
    done = child("--parent", str(os.getpid()), code="print('here'); raise SystemExit(7)")

    assert (7, "here\n") == (done.returncode, done.stdout)


def test_it_does_not_outlive_a_parent_that_is_gone():
    """The parent died before the signal was set: nothing is started that nobody would stop."""
    done = child("--parent", "1" if os.getpid() != 1 else "2", code="print('here')")

    assert (0, "") == (done.returncode, done.stdout)


def test_it_hands_the_listening_socket_on():
    """As systemd does: fd 3, with the variables that name it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        options = ("--parent", str(os.getpid()), "--listen", str(number))
        done = child(*options, code=SHOW, pass_fds=(number,))

        assert ["1", True, listener.getsockname()[1]] == json.loads(done.stdout)
