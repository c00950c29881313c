"""Writing to a client no faster than it reads."""

import asyncio
from collections.abc import Awaitable

from service.gateway.errors import ClientGoneError


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
