"""Who may connect to a unix socket, and how often at once.

Anybody on the machine may ask for the status, so nobody may take all the descriptors for that.
"""

import asyncio
import json
import logging
import os
import socket
import struct
from collections import Counter

from aiohttp import web

from profiles.errors import ExitCode

log = logging.getLogger(__name__)

PER_USER = 64  # connections of one user; a command of `tuner` takes one
OF_OTHERS = 256  # of all users but root and ours: a user may own 65536 ids (subuid(5))
PAUSE_S = 1.0  # when no descriptor is left
CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: struct ucred, unix(7)


class Reception:
    """Accepts connections for an aiohttp server; root's and our own are not limited."""

    def __init__(
        self,
        server: web.Server,
        listener: socket.socket,
        *,
        trusted: frozenset[int] | None = None,
    ) -> None:
        self._server = server
        listener.setblocking(False)
        self._listener = listener  # ours from now on
        self._trusted = frozenset({0, os.geteuid()}) if trusted is None else trusted
        self._users: dict[asyncio.BaseProtocol, int] = {}  # who counts, of those that we let in
        self._task = asyncio.create_task(self._receive(), name="reception")

    async def close(self) -> None:
        """Let nobody in any more; who is in stays."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._listener.close()

    async def _receive(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError:  # no descriptor is left; what waits stays in the queue
                await asyncio.sleep(PAUSE_S)
                continue
            try:
                await self._admit(connection)
            except Exception:  # one connection must not make us deaf to all others
                log.exception("cannot let a connection in")
                connection.close()

    async def _admit(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            user = _user(connection)
            if not self._has_room(user):
                connection.send(CROWDED)  # fits: nothing else was sent
                connection.close()
                return
            loop = asyncio.get_running_loop()
            _, protocol = await loop.connect_accepted_socket(self._server, connection)
        except OSError:  # it has gone
            connection.close()
            return
        if user not in self._trusted:
            self._users[protocol] = user

    def _has_room(self, user: int) -> bool:
        """Whether a further connection of this user fits."""
        if user in self._trusted:
            return True
        open_now = set(self._server.connections)
        self._users = {who: uid for who, uid in self._users.items() if who in open_now}
        count = Counter(self._users.values())
        return count[user] < PER_USER and count.total() < OF_OTHERS


def _user(connection: socket.socket) -> int:
    """The user id of who has connected."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    return int(CREDENTIALS.unpack(raw)[1])


def _crowded() -> bytes:
    error = {
        "message": "Too many connections of this user, or of all users, are open.",
        "hint": f"Close some; each user may have {PER_USER}.",
        "exit_code": int(ExitCode.UNAVAILABLE),
    }
    body = json.dumps({"v": 1, "error": error}).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nRetry-After: 5\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


CROWDED = _crowded()
