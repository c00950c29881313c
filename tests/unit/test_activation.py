"""Sockets that a service manager hands over."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# fds 3 and up: a listening unix socket each, "-" a pipe, "." a socket that does not listen
TAKER = """
import json, os, socket, sys
from profiles.errors import UnavailableError
from service.activation import handed

kinds, kept = sys.argv[1], []
os.closerange(3, 64)
for number, kind in enumerate(kinds, 3):
    if kind == "-":
        made = os.pipe()[0]
    else:
        kept.append(socket.socket(socket.AF_UNIX))
        if kind == "L":
            kept[-1].bind(f"{sys.argv[2]}/{number}")
            kept[-1].listen()
        made = kept[-1].fileno()
    assert number == made  # the lowest free descriptor
    if kind == "-":
        os.close(number + 1)  # the other end
try:
    given = handed(os.environ, os.getpid())
    found = [[name, each.getsockname(), each.get_inheritable()] for name, each in given]
except UnavailableError as error:
    found = error.sentence()
print(json.dumps([found, sorted(name for name in os.environ if name.startswith("LISTEN_"))]))
for each in kept:
    each.detach()
"""


def taken(folder, kinds, **variables):
    """What a process with these descriptors and variables finds, and the variables it leaves."""
    done = subprocess.run(
        [sys.executable, "-c", TAKER, kinds, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_each_socket_has_its_name(tmp_path):
    """As sd_listen_fds(3) has it; our own children inherit neither."""
    found, left = taken(tmp_path, "LL", LISTEN_FDS="2", LISTEN_FDNAMES="status:control")

    expected = [["status", f"{tmp_path}/3", False], ["control", f"{tmp_path}/4", False]]
    assert [expected, []] == [found, left]


def test_a_socket_without_a_name(tmp_path):
    """Is called as systemd calls it."""
    found, _ = taken(tmp_path, "L", LISTEN_FDS="1")

    assert ["unknown"] == [name for name, *_ in found]


def test_sockets_of_another_process_are_left(tmp_path):
    """LISTEN_PID names it; the variables go nevertheless."""
    found, left = taken(tmp_path, "L", LISTEN_FDS="1", LISTEN_PID="1")

    assert [[], []] == [found, left]


@pytest.mark.parametrize("kinds", ["-", ".", "L-"])
def test_something_else_is_refused(tmp_path, kinds):
    """A pipe, or a socket that does not listen: a sentence that names the descriptor."""
    found, _ = taken(tmp_path, kinds, LISTEN_FDS=str(len(kinds)))

    assert f"File descriptor {2 + len(kinds)} is not a listening stream socket." in found


@pytest.mark.parametrize("count", ["", "x", "-1", "1000", "²"])
def test_a_count_that_is_none(tmp_path, count):
    """Is refused before any descriptor is touched."""
    found, _ = taken(tmp_path, "L", LISTEN_FDS=count)

    assert f"LISTEN_FDS is {count!r}" in found
