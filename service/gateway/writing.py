"""Writing to a client no faster than it reads."""

import asyncio
from collections.abc import Awaitable

from aiohttp import web

from service.gateway.errors import ClientGoneError

# a transport that holds less than asyncio's low-water mark (16 KiB) is not paused
ROOM_BYTES = 8 * 1024


async def taken(writing: Awaitable[None], write_s: float) -> None:
    """Wait until the client takes what is written; while it does not, the engine waits too.

    Raises:
        ClientGoneError: it left, or has not read for `write_s`.
    """
    try:
        async with asyncio.timeout(write_s):
            await writing
    except (ConnectionError, TimeoutError):
        raise ClientGoneError from None


async def passed_on(
    request: web.BaseRequest, response: web.StreamResponse, chunk: bytes, write_s: float
) -> None:
    """Write a chunk of an answer; the clock runs only where the write may have to wait.

    Raises:
        ClientGoneError: the client left, or has not read for `write_s`.
    """
    transport = request.transport
    if transport is None or transport.get_write_buffer_size() + len(chunk) > ROOM_BYTES:
        await taken(response.write(chunk), write_s)
        return
    try:
        await response.write(chunk)
    except ConnectionError:
        raise ClientGoneError from None
