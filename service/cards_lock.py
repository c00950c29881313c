"""The lock of the cards: one tunerd per GPU, or per host without one, whatever its directory.

It is a socket in the abstract namespace: the kernel takes it away with its process, it needs no
directory that every user and every sandbox can write to, and it tells who holds it. Containers
with networks of their own do not see each other's.
"""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator

from profiles.errors import BusyError

HOST = "host"
BACKLOG = 1024  # each refused tunerd leaves one connection that nobody accepts
CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


def used(uuids: Iterable[str], seen: frozenset[str] | None) -> tuple[str, ...]:
    """What an engine will use: the cards that it can see, or the host's processors."""
    return tuple(sorted(uuid for uuid in uuids if seen is None or uuid in seen)) or (HOST,)


@contextlib.contextmanager
def only_user(names: Iterable[str]) -> Iterator[None]:
    """Hold the locks of these cards.

    Raises:
        BusyError: another tunerd holds one of them; names its pid.
    """
    with contextlib.ExitStack() as held:
        for name in names:
            held.enter_context(_held(name))
        yield


def _held(name: str) -> socket.socket:
    address = f"\0tunerd/{name}"
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        lock.bind(address)
        lock.listen(BACKLOG)
    except OSError as error:
        lock.close()
        if error.errno != errno.EADDRINUSE:
            raise
        card = "the processors of this host" if name == HOST else name
        raise BusyError(
            f"Another tunerd, {_holder(address)}, uses {card}.",
            hint="Stop it, give each its own cards (engine.env.CUDA_VISIBLE_DEVICES), or set "
            "engine.exclusive = false for both: then each disturbs what the other measures.",
        ) from error
    return lock


def _holder(address: str) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        try:
            asking.connect(address)
            raw = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        except OSError:
            return "which does not say its pid"
    pid, uid, _ = CREDENTIALS.unpack(raw)
    other = "" if uid == os.getuid() else f" of user {uid}"
    return f"pid {pid}{other}"
