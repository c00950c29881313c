"""Sockets that systemd hands over (sd_listen_fds(3))."""

import os
import socket
import stat
from collections.abc import MutableMapping

from profiles.errors import UnavailableError

FIRST_FD = 3  # SD_LISTEN_FDS_START
MOST = 16  # far more than any unit of ours has


def handed(environ: MutableMapping[str, str], pid: int) -> list[tuple[str, socket.socket]]:
    """The names and sockets that the environment says are ours; its variables are consumed.

    Raises:
        UnavailableError: one of the descriptors is not a listening stream socket.
    """
    count = environ.pop("LISTEN_FDS", None)
    owner = environ.pop("LISTEN_PID", None)
    names = [name for name in environ.pop("LISTEN_FDNAMES", "").split(":") if name]
    if count is None or (owner is not None and owner != str(pid)):
        return []
    if not (count.isascii() and count.isdigit() and int(count) <= MOST):
        raise UnavailableError(
            f"LISTEN_FDS is {count!r}, which is no number of sockets.",
            hint="Unset it to let the process bind its own.",
        )
    names += ["unknown"] * int(count)  # as systemd calls a socket without a name
    return [(names[index], _listener(FIRST_FD + index)) for index in range(int(count))]


def _listener(fd: int) -> socket.socket:
    try:
        is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        is_socket = False
    if is_socket:
        os.set_inheritable(fd, False)
        found = socket.socket(fileno=fd)
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if found.type == socket.SOCK_STREAM and listens:
            found.setblocking(False)
            return found
        found.detach()
    raise UnavailableError(
        f"File descriptor {fd} is not a listening stream socket.",
        hint="Unset LISTEN_FDS to let the process bind its own.",
    )
