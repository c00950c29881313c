"""Clients that leave, and how soon that is known."""

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


async def leaves_between(begun, arrived, gone):
    """Let requests arrive and their client leave, until one of them was gone quickly.

    `begun()` is a context of a request, which yields a function that makes the client leave.
    How many seconds it took until it was gone, and how many requests there were.
    """
    took = []
    while not took or (len(took) < TRIES and took[-1] >= CANCEL_S):
        async with begun() as leave:
            await until(arrived)
            await asyncio.sleep(READ_S)
            await leave()
            left = time.monotonic()
            await until(gone)
            took.append(time.monotonic() - left)
    return took[-1], len(took)


async def leaves(engine, begun):
    """The same with what an engine sees: a request runs there, and then none does."""
    return await leaves_between(begun, lambda: engine.runs(1), lambda: engine.runs(0))
