"""Clients that leave, and how soon their engine knows."""

import asyncio
import contextlib
import time

from gateway_harness import until

CANCEL_S = 1.0  # within which an engine must learn that its client left
TRIES = 3  # a busy machine is slow at times
READ_S = 0.3  # of a stream before its client leaves


@contextlib.asynccontextmanager
async def reading(ask, *, stream):
    """A task that makes a request by `ask` and reads its answer; yields what ends it."""

    async def read():
        answer = await ask()
        if stream:
            async for _ in answer:
                pass

    task = asyncio.create_task(read())

    async def leave():
        task.cancel()

    yield leave
    await asyncio.gather(task, return_exceptions=True)


async def leaves(engine, begun):
    """Let requests begin at the engine and their client leave, until one of them was quick.

    `begun()` is a context of a request, which yields a function that makes the client leave.
    How many seconds it took until the engine knew, and how many requests there were.
    """
    took = []
    while not took or (len(took) < TRIES and took[-1] >= CANCEL_S):
        async with begun() as leave:
            await until(lambda: engine.runs(1))
            await asyncio.sleep(READ_S)
            await leave()
            left = time.monotonic()
            await until(lambda: engine.runs(0))
            took.append(time.monotonic() - left)
    return took[-1], len(took)
