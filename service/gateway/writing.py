"""Writing to a client no faster than it reads."""

import asyncio
from collections.abc import Awaitable

from aiohttp import web

from service.gateway.errors import ClientGoneError


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
