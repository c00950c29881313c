"""Listening sockets: inherited as systemd passes them, or bound here."""

import contextlib
import errno
import ipaddress
import os
import socket
from collections.abc import MutableMapping
from pathlib import Path

from profiles.errors import BusyError, ConfigError, UnavailableError
from service.activation import handed

BACKLOG = 1024
UNSENT_BYTES = 64 * 1024  # of an answer, in the kernel


def inherited(environ: MutableMapping[str, str], pid: int) -> socket.socket | None:
    """The one socket that the gateway is handed, if it is handed any.

    Raises:
        UnavailableError: it is handed something else.
    """
    found = handed(environ, pid)
    if len(found) > 1:
        raise UnavailableError(
            f"LISTEN_FDS is {len(found)}, but the gateway takes one socket.",
            hint="Pass exactly one listening stream socket as fd 3.",
        )
    return found[0][1] if found else None


def bound(host: str, port: int) -> socket.socket:
    """A new listening socket.

    Raises:
        UnavailableError: the address cannot be used.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            message = f"Cannot listen on {host}:{port}: another program does."
        else:
            message = f"Cannot listen on {host}:{port}: {error.strerror}."
        raise UnavailableError(
            message, hint="Stop that program or set gateway.listen to another port."
        ) from error
    listener.setblocking(False)
    return listener


def sparing(listener: socket.socket) -> None:
    """Let the kernel queue little for clients that do not read; accepted sockets inherit it.

    What is under way is not limited, so a distant client is as fast as ever. Without it the kernel
    took 4 MiB for each reader that stopped.
    """
    if listener.family != socket.AF_UNIX:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)


def address(listener: socket.socket) -> str:
    """Where a socket listens, for people."""
    name = listener.getsockname()
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name)


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can reach a socket; asked of the socket, which may be inherited."""
    if listener.family == socket.AF_UNIX:
        return True
    found = ipaddress.ip_address(listener.getsockname()[0].partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return found.is_loopback


def private(path: Path) -> socket.socket:
    """A unix socket that only this user can open; a dead one in its place is removed.

    Raises:
        BusyError: somebody listens there.
        ConfigError: the path cannot hold a socket.
    """
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            pass
        except OSError as error:
            raise _unusable(path, error) from error
        else:
            raise BusyError(
                f"Another gateway listens on {path}.",
                hint="Stop it, or give this one another runtime_dir.",
            )
    listener = socket.socket(socket.AF_UNIX)
    try:
        path.unlink(missing_ok=True)
        old = os.umask(0o177)  # no moment at which others could connect
        try:
            listener.bind(str(path))
        finally:
            os.umask(old)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _unusable(path, error) from error
    listener.setblocking(False)
    return listener


def _unusable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"Cannot create the socket {path}: {error.strerror or error}.",
        hint="Set runtime_dir to a short path that this user can write to.",
    )
