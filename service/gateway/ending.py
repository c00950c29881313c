"""Endings that no client can take for a complete answer."""

import asyncio
import contextlib
import socket
import struct

from aiohttp import web
from aiohttp.http import HttpVersion11

LAST_WORD_S = 0.5  # to hand the error event to the connection of a slow reader
FLUSH_S = 5.0  # for what the connection still holds, then it is reset


async def say(response: web.StreamResponse, event: bytes) -> None:
    """Write a last event, as far as the client takes it."""
    with contextlib.suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(LAST_WORD_S):
            await response.write(event)


async def refuse(request: web.BaseRequest, response: web.StreamResponse, event: bytes) -> None:
    """End a begun event stream with an error event, so that nobody takes it for complete."""
    await say(response, event)
    abort(request)


def abort(request: web.BaseRequest) -> None:
    """Close the connection without the end of the answer: no last chunk, no full length."""
    transport = request.transport
    if transport is None:
        return
    if request.version < HttpVersion11:
        # an HTTP/1.0 answer ends where the connection ends: only a reset says that it broke
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if transport.get_write_buffer_size() == 0:
        transport.abort()
        return
    transport.close()  # sends what is buffered first
    asyncio.get_running_loop().call_later(FLUSH_S, transport.abort)
