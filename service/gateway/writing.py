"""Writing to a client no faster than it reads."""

import asyncio
from collections.abc import Awaitable

from aiohttp import web

from service.gateway.errors import ClientGoneError

UNSENT_BYTES = 16 * 1024  # of an answer, in this process; beyond it the engine waits
# at asyncio's low-water mark, a quarter of the above, nobody is paused any more
ROOM_BYTES = UNSENT_BYTES // 4


async def taken(request: web.BaseRequest, writing: Awaitable[None], write_s: float) -> None:
    """Wait until the client takes what is written; while it does not, the engine waits too.

    Raises:
        ClientGoneError: it left, or has not read for `write_s`.
    """
    try:
        async with asyncio.timeout(write_s):
            await writing
            if request.protocol.writing_paused:  # aiohttp looks every 64 KiB only
                await request.writer.drain()
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
        await taken(request, response.write(chunk), write_s)
        return
    try:
        await response.write(chunk)
    except ConnectionError:
        raise ClientGoneError from None
