"""What many clients together can take of a gateway process: its memory, measured from outside."""

import asyncio
import contextlib
import json
import socket

import psutil
import pytest
from gateway_harness import several, until

READERS = 200
MIB = 1024 * 1024
KIB = 1024
PER_STREAM = 256 * KIB
POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
STILL_S = 0.7  # without a further byte: the engine waits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bounds")


@pytest.fixture
async def own(tmp_path):
    """Starts gateways for one test."""
    async with several(tmp_path) as start:
        yield start


def resident(gateway):
    """Bytes of the process in memory."""
    return psutil.Process(gateway.process.pid).memory_info().rss


def deaf(gateway, body):
    """A client that asks and does not read."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
    made.connect(("127.0.0.1", gateway.port))
    made.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    return made


@pytest.mark.parametrize("chunk_bytes", [KIB, 64 * KIB])
async def test_readers_that_do_not_read_cost_little_each(own, engine, chunk_bytes):
    """F72: 200 at once hold at most 256 KiB each here, and their engine waits."""
    gateway = await own()
    engine.script(chunk_bytes=chunk_bytes)
    await gateway.route(engine)
    await gateway.complete(max_tokens=10, stream=True)
    before, sent_before = resident(gateway), (await engine.state())["sent_bytes"]
    body = json.dumps({"prompt": "x", "max_tokens": 10**6, "stream": True}).encode()

    async def still():
        first = (await engine.state())["sent_bytes"]
        await asyncio.sleep(STILL_S)
        return first == (await engine.state())["sent_bytes"] > sent_before

    with contextlib.ExitStack() as stack:
        for _ in range(READERS):
            stack.enter_context(deaf(gateway, body))
        await until(lambda: engine.runs(READERS))
        await until(still)
        grown = (resident(gateway) - before) / READERS
        taken = ((await engine.state())["sent_bytes"] - sent_before) / READERS
    print(f"{chunk_bytes}: {grown / KIB:.0f} KiB here, {taken / KIB:.0f} KiB taken, each")

    assert grown <= PER_STREAM
    assert taken <= MIB  # with the kernel's buffers on both sides
    await gateway.becomes(in_flight=0)
    assert ["client_gone"] * READERS == (await gateway.outcomes(READERS + 1))[1:]
