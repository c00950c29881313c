"""Clients that mean no good, or know no better."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

SLOW_CLIENTS = 12
NEVER_READ = 400  # questions of a client that reads no answer


async def slowloris(port: int, lasts_s: float) -> str:
    """Heads that never end and bodies that trickle."""
    head = b"POST /v1/completions HTTP/1.1\r\nHost: soak\r\n"
    body = head + b"Content-Type: application/json\r\nContent-Length: 5000\r\n\r\n"
    async with contextlib.AsyncExitStack() as stack:
        tasks = []
        for number in range(SLOW_CLIENTS):
            begin, more = (head, b"X-Slow: 1\r\n") if number % 2 else (body, b" ")
            reader, writer = await stack.enter_async_context(_connected(port))
            tasks.append(asyncio.create_task(_trickle(reader, writer, begin, more)))
        done, late = await asyncio.wait(tasks, timeout=lasts_s + 30.0)
        for task in late:
            task.cancel()
    answers = sorted({task.result() for task in done})
    return f"{len(late)} were not ended; {', '.join(answers)}"


async def never_read(path: Path, lasts_s: float) -> str:
    """A client asks the status socket all the time and reads nothing."""
    question = b"GET /v1/history?limit=1000 HTTP/1.1\r\nHost: tuner\r\n\r\n"
    sockets = []
    try:
        for _number in range(4):
            client = socket.socket(socket.AF_UNIX)
            sockets.append(client)
            client.setblocking(False)
            client.connect(str(path))
            with contextlib.suppress(BlockingIOError):
                for _question in range(NEVER_READ):
                    client.send(question)
        await asyncio.sleep(lasts_s)
    finally:
        for client in sockets:
            client.close()
    return ""


@contextlib.asynccontextmanager
async def _connected(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def _trickle(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, begin: bytes, more: bytes
) -> str:
    """Write a little every half second until the other side ends it; the status that it said."""
    writer.write(begin)
    answer = asyncio.create_task(reader.read())
    while not answer.done():
        await asyncio.wait([answer], timeout=0.5)
        with contextlib.suppress(ConnectionError):
            writer.write(more)
            await writer.drain()
    try:
        said = answer.result()
    except ConnectionError:
        return "reset"
    return said.split(b" ")[1].decode() if said.startswith(b"HTTP/") else json.dumps(len(said))
