"""Clients that leave, and how soon their engine knows."""

import asyncio
import contextlib
import time

from gateway_harness import until

CANCEL_S = 1.0  # within which an engine must learn that its client left
TRIES = 3  # a busy machine is slow at times


async def leaves(engine, ask, *, stream):
    """Let a request begin at the engine and its client leave; seconds until the engine knew.

    `ask` makes the request; if it streams, it returns something that can be iterated.
    """
    took = []
    while not took or (len(took) < TRIES and took[-1] >= CANCEL_S):
        asking = asyncio.create_task(_read(ask, stream=stream))
        await until(lambda: engine.runs(1))
        if stream:
            await asyncio.sleep(0.3)  # some of it is read
        asking.cancel()
        left = time.monotonic()
        await until(lambda: engine.runs(0))
        took.append(time.monotonic() - left)
        with contextlib.suppress(asyncio.CancelledError):
            await asking
    return took[-1], len(took)


async def _read(ask, *, stream):
    answer = await ask()
    if stream:
        async for _ in answer:
            pass
