"""Connections before they are requests: how many, from whom, and how long a head may take.

aiohttp has no header-read timeout, and never closes a connection that sends nothing at all.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from service.gateway import errors
from service.gateway.writing import UNSENT_BYTES

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """What peers may use of us before they have asked for anything."""

    total: int
    per_address: int
    head_s: float  # from connecting, or from a further request's first byte, to its head's end


class Guard(web.Server):
    """aiohttp's server with a count of its connections and a clock on each."""

    def __init__(self, handler: Handler, *, limits: ConnectionLimits, **options: Any) -> None:
        super().__init__(handler, **options)
        self._options = options
        self.limits = limits
        self._open: dict[Connection, str] = {}  # oldest first
        self._by_address: Counter[str] = Counter()

    def __call__(self) -> "Connection":
        """The protocol of a new connection."""
        given = {key: self._options[key] for key in self._options if key != "handler_cancellation"}
        return Connection(self, **given)

    def admit(self, connection: "Connection", address: str) -> bool:
        """Count a new connection in, at the cost of the oldest one that asks for nothing."""
        limits = self.limits
        if self._by_address[address] >= limits.per_address and not self._evict(address):
            return False
        if len(self._open) >= limits.total and not self._evict(None):
            return False
        self._open[connection] = address
        self._by_address[address] += 1
        return True

    def forget(self, connection: "Connection") -> None:
        """Count a connection out; a second call changes nothing."""
        address = self._open.pop(connection, None)
        if address is None:
            return
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def _evict(self, address: str | None) -> bool:
        for connection, theirs in self._open.items():
            if connection.idle and address in {None, theirs}:
                self.forget(connection)
                connection.force_close()
                return True
        return False


class Connection(RequestHandler):
    """One connection: its head timer runs whenever a request has begun and has no head yet."""

    __slots__ = ("_guard", "_heads", "_timer")

    def __init__(self, guard: Guard, **options: Any) -> None:
        super().__init__(guard, loop=asyncio.get_running_loop(), **options)
        self._guard = guard
        self._timer: asyncio.TimerHandle | None = None
        self._heads = 0  # request heads that have arrived

    @property
    def idle(self) -> bool:
        """Whether no request of it is being answered or waits to be."""
        return self._current_request is None and not self._messages

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock, or refuse."""
        super().connection_made(transport)
        if self.transport is not None:
            self.transport.set_write_buffer_limits(high=UNSENT_BYTES)
        name = transport.get_extra_info("peername")
        address = str(name[0]) if isinstance(name, tuple) else ""  # unix: all are one
        if self._guard.admit(self, address):
            self._arm()
        else:
            self._refuse(errors.CrowdedError())

    def data_received(self, data: bytes) -> None:
        """Stop the clock at the end of a head, start it with the first byte of one."""
        waited = self.idle
        super().data_received(data)
        if self._request_count > self._heads:
            self._heads = self._request_count
            self._disarm()
        elif waited and data and self._timer is None:
            self._arm()

    def eof_received(self) -> None:
        """Take half a close for a whole one, as vLLM's own server and nginx do.

        Tunnels and Docker's proxy pass on no more than this of a client that left, so whoever kept
        the connection would let the engine work for nobody.
        """

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count it out."""
        self._disarm()
        self._guard.forget(self)
        super().connection_lost(exc)

    def _arm(self) -> None:
        self._timer = self._loop.call_later(self._guard.limits.head_s, self._late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self.idle:
            self._refuse(errors.HeadTimeoutError())

    def _refuse(self, error: errors.ApiError) -> None:
        """Answer without a request and close."""
        if self.transport is not None:
            self.transport.write(_raw(error))
        self.force_close()


def _raw(error: errors.ApiError) -> bytes:
    """An error as the bytes of a whole HTTP/1.1 answer."""
    body = error.body()
    fields = {
        **error.headers(),
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    status = HTTPStatus(error.http_status)
    head = [f"HTTP/1.1 {status.value} {status.phrase}"]
    head += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([*head, "", ""]).encode() + body
