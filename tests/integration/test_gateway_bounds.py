"""What many clients together can take of a gateway process: its memory, measured from outside."""

import asyncio
import contextlib
import json
import resource
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


IDLE, EACH = 6000, 900  # connections in all, which is above the limit, and of one address
LIMIT = 4096  # gateway.connections


def idle(gateway, number):
    """A connection from an address of its group that asks for nothing."""
    made = socket.socket()
    made.bind((f"127.0.1.{1 + number // EACH}", 0))
    made.connect(("127.0.0.1", gateway.port))
    return made


async def test_thousands_of_idle_connections_cost_little_and_nobody_is_refused(own, engine):
    """F79: 6000 at the default limit of 4096: requests between them are served, the oldest go."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < 2 * IDLE:
        pytest.skip(f"needs {2 * IDLE} open files; {most} are allowed (ulimit -Hn)")
    gateway = await own({"header_timeout_s": 300.0})
    await gateway.route(engine)
    await gateway.complete()
    before = resident(gateway)
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        with contextlib.ExitStack() as stack:
            statuses = set()
            for number in range(IDLE):
                await asyncio.to_thread(stack.enter_context, idle(gateway, number))
                if number % 500 == 0:
                    statuses.add((await gateway.complete()).status)
            grown = resident(gateway) - before
            held = psutil.Process(gateway.process.pid).num_fds()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, soft)
    print(f"{grown / IDLE / KIB:.1f} KiB each, {held} descriptors")

    assert {200} == statuses
    assert LIMIT <= held <= LIMIT + 64
    assert grown <= LIMIT * 16 * KIB
    assert 200 == (await gateway.complete()).status


BODY_MIB, BODIES_MIB, SENDERS = 8, 32, 24
SLACK = 48 * MIB  # one body twice while it is put together, and the connections
LARGE = b'{"max_tokens": 10000, "prompt": "' + b"x" * (BODY_MIB * MIB - 64) + b'"}'
LIMITS = {"max_body_mib": BODY_MIB, "bodies_mib": BODIES_MIB, "body_timeout_s": 5.0}


async def upload(gateway, *, chunked):
    """Send a large body; the status and the headers of the answer, when there is one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        length = b"Content-Length: %d\r\n\r\n" % len(LARGE)
        writer.write(POST + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else length))
        for start in range(0, len(LARGE), MIB):
            piece = LARGE[start : start + MIB]
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        writer.write(b"0\r\n\r\n" if chunked else b"")
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    finally:
        writer.close()
    fields = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), fields


@pytest.mark.parametrize("chunked", [False, True])
async def test_large_bodies_of_many_take_no_more_than_their_bound(own, engine, chunked):
    """24 clients send 8 MiB each where 32 are allowed: some run, the rest are told to wait."""
    gateway = await own(LIMITS)
    engine.script(token_delay_s=60.0)
    await gateway.route(engine)
    before = resident(gateway)
    peak = before

    async def watch():
        nonlocal peak
        while True:
            peak = max(peak, resident(gateway))
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    asking = [asyncio.create_task(upload(gateway, chunked=chunked)) for _ in range(SENDERS)]

    async def settled():
        running = (await gateway.state())["in_flight"]
        return running + sum(task.done() for task in asking) == SENDERS

    await until(settled)
    held = (await gateway.state())["bodies_bytes"]
    refused = [task.result() for task in asking if task.done()]
    running = SENDERS - len(refused)
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    await gateway.becomes(in_flight=0, bodies_bytes=0)
    watching.cancel()
    print(f"{running} ran, {(peak - before) / MIB:.0f} MiB at most")

    assert 1 <= running <= BODIES_MIB // BODY_MIB
    assert held == running * len(LARGE)
    assert peak - before < BODIES_MIB * MIB + SLACK
    assert {503} == {status for status, _ in refused}
    assert all(0 < int(fields["retry-after"]) <= 60 for _, fields in refused)
    assert ["bodies_full"] * len(refused) == sorted(
        outcome for outcome in await gateway.outcomes(SENDERS) if outcome != "client_gone"
    )
    assert len(refused) == (await gateway.counters())["rejected"]


async def test_a_declared_body_takes_nothing_until_it_comes(own, engine):
    """Heads that promise more than all the room leave it to those who send."""
    gateway = await own(LIMITS)
    await gateway.route(engine)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2 * BODIES_MIB // BODY_MIB):
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            stack.callback(writer.close)
            writer.write(POST + b"Content-Length: %d\r\n\r\n{" % len(LARGE))
        await gateway.becomes(bodies_bytes=2 * BODIES_MIB // BODY_MIB)
        reply = await gateway.complete()

    assert 200 == reply.status
    await gateway.becomes(bodies_bytes=0)
