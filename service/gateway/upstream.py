"""Connections to engines: one client session per engine, closed when its last request is over."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import aiohttp

from service.gateway.gate import Engine

CONNECT_S = 5.0
# of an answer that waits here for a slow reader: reading stops at twice as much, and one read of
# uvloop's takes what the unix socket holds (up to 208 KiB); aiohttp's default is 256 KiB
BUFFER_BYTES = 16 * 1024
# what aiohttp's client would add by itself; the engine gets the client's headers and no others
_NOT_ADDED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


@dataclass(eq=False, slots=True)
class _Line:
    session: aiohttp.ClientSession
    users: int = 0


class Pool:
    """Sessions by engine token."""

    def __init__(self, idle_timeout_s: float) -> None:
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_S, sock_read=idle_timeout_s
        )
        self._lines: dict[str, _Line] = {}
        self._current: str | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def session(self, engine: Engine) -> Iterator[aiohttp.ClientSession]:
        """The session of an engine, which stays open while it is used."""
        line = self._lines.get(engine.token)
        if line is None:
            line = self._lines[engine.token] = _Line(self._connect(engine))
        line.users += 1
        try:
            yield line.session
        finally:
            line.users -= 1
            self._sweep()

    def keep(self, token: str | None) -> None:
        """Name the engine in use; the sessions of others go when their requests are over."""
        self._current = token
        self._sweep()

    async def close(self) -> None:
        """Close everything."""
        self._current = None
        for line in self._lines.values():
            line.users = 0
        self._sweep()
        await asyncio.gather(*self._closing)

    def _connect(self, engine: Engine) -> aiohttp.ClientSession:
        # force_close: uvicorn closes idle connections after 5 s, and a request sent into that
        # moment is lost; connecting to a unix socket costs 0.1 ms
        connector = aiohttp.UnixConnector(engine.socket, limit=0, force_close=True)
        return aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            auto_decompress=False,
            read_bufsize=BUFFER_BYTES,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_NOT_ADDED,
            trust_env=False,
        )

    def _sweep(self) -> None:
        for token, line in list(self._lines.items()):
            if line.users == 0 and token != self._current:
                del self._lines[token]
                task = asyncio.create_task(line.session.close(), name=f"close {token}")
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)


def fail_when_lost(answer: aiohttp.ClientResponse) -> None:
    """Wake a reader whose connection is gone.

    aiohttp 3.14's client leaves it waiting for ever when chunk framing breaks within a body.
    """
    connection = answer.connection
    if connection is None or connection.protocol is None:
        return  # the whole answer is here
    closed = connection.protocol.closed
    if closed is None:
        return

    def lost(future: asyncio.Future[None]) -> None:
        broken = not future.cancelled() and future.exception()
        content = answer.content
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError(f"connection lost: {broken}"))

    closed.add_done_callback(lost)


async def accepts(socket: str) -> bool:
    """Whether somebody listens on a unix socket."""
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_unix_connection(socket)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
