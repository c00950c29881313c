"""A gateway process and peers that are slow, many, or hostile; raw sockets throughout."""

import asyncio
import base64
import contextlib
import json
import re
import socket
import time

import pytest
from gateway_harness import CANARY, Gateway, raw, started, until
from leaving import CANCEL_S, leaves

HEAD_S, BODY_S, WRITE_S = 0.6, 0.6, 1.0
PER_ADDRESS = 6
OK = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("peers")


@pytest.fixture(scope="module")
def wary(folder):
    settings = {
        "header_timeout_s": HEAD_S,
        "body_timeout_s": BODY_S,
        "connections_per_address": PER_ADDRESS,
        "write_timeout_s": WRITE_S,
    }
    with started(Gateway(folder / "wary", settings)) as gateway:
        yield gateway


@pytest.fixture
async def gateway(wary, engine):
    """A gateway with short timeouts and few connections, in front of a fake engine."""
    await wary.open()
    await wary.route(engine)
    yield wary
    await wary.close()


@contextlib.asynccontextmanager
async def connection(gateway):
    """One raw connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def rest(reader):
    """Everything until the gateway closes."""
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(), 10)
    return b""


async def trickle(writer, text, step_s):
    """Send byte by byte until the peer closes."""
    with contextlib.suppress(ConnectionError):
        for position in range(len(text)):
            writer.write(text[position : position + 1])
            await writer.drain()
            await asyncio.sleep(step_s)


async def refused(gateway):
    """Whether a new connection is refused with 503."""
    return b" 503 " in (await raw(gateway, OK + b"Connection: close\r\n\r\n")).split(b"\r\n")[0]


def statuses(said):
    """The status of every answer in what came back."""
    return re.findall(rb"HTTP/1\.[01] (\d{3}) ", said)


# -- slow heads and bodies ------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"GET /v1/mo", OK])
async def test_a_head_that_does_not_come_ends_the_connection(gateway, engine, sent):
    """Nothing, half a line, or headers without their end: closed at the header timeout."""
    async with connection(gateway) as (reader, writer):
        begun = time.monotonic()
        writer.write(sent)
        said = await rest(reader)
        took_s = time.monotonic() - begun

    assert b"HTTP/1.1 408 Request Timeout" == said.split(b"\r\n")[0]
    assert "tunerd" == json.loads(said.partition(b"\r\n\r\n")[2])["src"]
    assert HEAD_S - 0.1 < took_s < HEAD_S + 3
    assert {} == await engine.last()


async def test_trickled_headers_do_not_stretch_the_timeout(gateway, engine):
    """Slowloris: a byte every 50 ms is no head after the timeout either."""
    async with connection(gateway) as (reader, writer):
        begun = time.monotonic()
        sending = asyncio.create_task(trickle(writer, OK + b"X: " + b"y" * 1000, 0.05))
        said = await rest(reader)
        took_s = time.monotonic() - begun
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    assert b" 408 " in said.split(b"\r\n")[0]
    assert took_s < HEAD_S + 3
    assert {} == await engine.last()


async def test_a_second_head_has_the_same_timeout(gateway):
    """On a kept connection the clock starts with the first byte, not with the answer."""
    async with connection(gateway) as (reader, writer):
        writer.write(OK + b"\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(HEAD_S * 2)  # idle between requests is fine
        writer.write(OK)
        said = await rest(reader)

    assert b"HTTP/1.1 408 Request Timeout" in said


async def test_a_slow_answer_is_not_a_slow_head(gateway, engine):
    """The clock is off while the engine works."""
    engine.script(token_delay_s=HEAD_S / 2)
    body = b'{"prompt": "a", "max_tokens": 6}'
    said = await raw(
        gateway, POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )

    assert b" 200 " in said.split(b"\r\n")[0]


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 5000\r\n", b"Transfer-Encoding: chunked\r\n"]
)
@pytest.mark.parametrize("trickled", [False, True])
async def test_a_body_that_does_not_come_on_ends_the_connection(gateway, engine, framing, trickled):
    """Silence, or a byte now and then: 408, and the engine never hears of it."""
    async with connection(gateway) as (reader, writer):
        begun = time.monotonic()
        writer.write(POST + framing + b"\r\n")
        text = b"1\r\nx\r\n" * 900 if b"chunked" in framing else b"x" * 4000
        sending = asyncio.create_task(trickle(writer, text if trickled else b"", 0.05))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        took_s = time.monotonic() - begun
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    assert b" 408 " in head.split(b"\r\n")[0]
    assert b"connection: close" in head.lower()
    assert BODY_S - 0.1 < took_s < BODY_S + 3
    assert {} == await engine.last()
    await gateway.becomes(in_flight=0, held=0)


# -- slow readers ---------------------------------------------------------------------------------


async def test_a_reader_that_stopped_gives_the_engine_back(gateway, engine):
    """A client that stays and reads nothing counts as gone at the write timeout."""
    engine.script(chunk_bytes=65536)
    body = json.dumps({"prompt": "x", "max_tokens": 2000, "stream": True}).encode()
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        deaf.connect(("127.0.0.1", gateway.port))
        deaf.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        found = await gateway.outcomes(1)
        await until(lambda: engine.runs(0), CANCEL_S)

    assert ["client_gone"] == found
    await gateway.becomes(in_flight=0)


async def test_a_reader_that_reads_slowly_gets_its_answer(gateway, engine):
    """Pauses below the timeout are fine, however long the whole takes."""
    engine.script(chunk_bytes=65536)
    body = json.dumps({"prompt": "x", "max_tokens": 100, "stream": True}).encode()
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # else the kernel hides the pauses
    slow.connect(("127.0.0.1", gateway.port))
    reader, writer = await asyncio.open_connection(sock=slow, limit=32768)
    head = POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    writer.write(head + body)
    begun = time.monotonic()
    said = b""
    while chunk := await reader.read(65536):
        said = said[-200:] + chunk
        await asyncio.sleep(WRITE_S / 50)
    took_s = time.monotonic() - begun
    writer.close()
    await writer.wait_closed()

    assert took_s > WRITE_S
    assert b"data: [DONE]" in said


# -- many connections -----------------------------------------------------------------------------


async def test_idle_connections_make_room_for_new_ones(gateway):
    """At the limit of an address its oldest connection that asks for nothing is closed."""
    async with contextlib.AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(connection(gateway)) for _ in range(PER_ADDRESS)]
        for reader, writer in opened:
            writer.write(OK + b"\r\n")
            await reader.readuntil(b"\r\n\r\n")
        answer = await raw(gateway, OK + b"Connection: close\r\n\r\n")
        first = await rest(opened[0][0])
        last_reader, last_writer = opened[-1]
        last_writer.write(OK + b"Connection: close\r\n\r\n")
        last = await rest(last_reader)

    assert b" 200 " in answer.split(b"\r\n")[0]
    assert b"HTTP/1.1" not in first  # the rest of its one answer, then the end
    assert b"HTTP/1.1 200 OK" in last


async def test_few_descriptors_are_few_connections_and_a_warning(folder, engine):
    """With 96 of them 16 connections fit; more that idle come and go, and requests are served."""
    few = ("sh", "-c", 'ulimit -n 96; exec "$@"', "sh")
    gateway = Gateway(folder / "few")
    with started(gateway, prefix=few):
        await gateway.open()
        await gateway.route(engine)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(60):
                reader, writer = await stack.enter_async_context(connection(gateway))
                writer.write(OK + b"\r\n")
                await reader.readuntil(b"\r\n\r\n")
            reply = await gateway.complete()
        await gateway.close()

    said = gateway.log.read_text()
    assert 200 == reply.status
    assert "Only 16 of gateway.connections = 4096 are accepted: 96 open files" in said
    assert "LimitNOFILE=8256" in said


async def test_connections_that_are_served_are_not_closed_for_new_ones(gateway, engine):
    """When all of them are being answered the new one gets 503 and when to come again."""
    engine.script(token_delay_s=0.05)
    body = b'{"prompt": "a", "max_tokens": 10000, "stream": true}'
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(PER_ADDRESS):
            reader, writer = await stack.enter_async_context(connection(gateway))
            writer.write(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            await reader.readuntil(b"\r\n\r\n")
        said = await raw(gateway, b"")
        running = (await engine.state())["running"]

    assert PER_ADDRESS == running
    head, _, text = said.partition(b"\r\n\r\n")
    assert b" 503 " in head.split(b"\r\n")[0]
    assert b"Retry-After: 5" in head
    assert "service_unavailable" == json.loads(text)["error"]["type"]
    await gateway.becomes(in_flight=0)
    assert not await refused(gateway)


# -- smuggling ------------------------------------------------------------------------------------

HIDDEN = json.dumps({"prompt": CANARY, "max_tokens": 1}).encode()
# ends well: after an error aiohttp would forget what came before it in the same packet
SMUGGLED = POST + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(HIDDEN) + HIDDEN
FORMS = {
    "length and chunks": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "two equal lengths": POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "list of lengths": POST + b"Content-Length: 3, 3\r\n\r\nabc",
    "negative length": POST + b"Content-Length: -3\r\n\r\nabc",
    "signed length": POST + b"Content-Length: +3\r\n\r\nabc",
    "underscored length": POST + b"Content-Length: 1_0\r\n\r\nabcdefghij",
    "unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunks, then identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "two codings": POST
    + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "vertical tab before coding": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "space before colon": POST + b"Content-Length : 3\r\n\r\nabc",
    "folded header": POST + b"X: a\r\n b\r\n\r\n",
    "space before first header": b"GET /v1/models HTTP/1.1\r\n Host: x\r\n\r\n",
    "bare line feeds": b"GET /v1/models HTTP/1.1\nHost: x\n\n",
    "bare carriage return": b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n",
    "zero byte": b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
    "no version": b"GET /v1/models\r\n\r\n",
    "version 0.9": b"GET /v1/models HTTP/0.9\r\nHost: x\r\n\r\n",
    "version 2.0": b"GET /v1/models HTTP/2.0\r\nHost: x\r\n\r\n",
    "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no host": b"GET /v1/models HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /v1/models HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "tls hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,
    "endless target": b"GET /v1/" + b"x" * 65536 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "endless header": OK + b"X: " + b"y" * 65536 + b"\r\n\r\n",
    "many headers": OK + b"".join(b"X%d: y\r\n" % n for n in range(2000)) + b"\r\n",
    "bad chunk size": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    "signed chunk size": POST + b"Transfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n",
    "chunk without its end": POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcX\r\n0\r\n\r\n",
    "bare line feed in chunks": POST + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
    "line feed in chunk extension": POST
    + b"Transfer-Encoding: chunked\r\n\r\n3;a\nx\r\nabc\r\n0\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
async def test_smuggling_forms_are_refused(gateway, engine, form):
    """One 400 and the end: nothing behind it is taken for a request, and nothing is logged."""
    said = await raw(gateway, FORMS[form] + SMUGGLED)

    assert [b"400"] == statuses(said)
    assert {} == await engine.last()
    assert CANARY not in gateway.log.read_text()


@pytest.mark.parametrize(
    "line",
    [b"GET http://engine/v1/models", b"CONNECT engine:80", b"OPTIONS *", b"TRACE /v1/models"],
)
async def test_other_forms_of_a_target_are_not_served(gateway, engine, line):
    """Nobody uses the gateway as a proxy to elsewhere; what is framed well stays in step."""
    said = await raw(gateway, line + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    assert statuses(said) in ([b"400"], [b"404"], [b"405"])
    assert {} == await engine.last()


async def test_what_is_smuggled_would_be_noticed(gateway, engine):
    """Behind a request that is framed well the same bytes are a request of their own."""
    said = await raw(gateway, OK + b"\r\n" + SMUGGLED)

    assert [b"200", b"200"] == statuses(said)
    assert HIDDEN == base64.b64decode((await engine.last())["body"])


# -- odd but allowed ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 500\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"]
)
async def test_a_client_that_ends_within_its_body_is_not_sent_on(gateway, engine, framing):
    """F70: half a body is no request, whatever of it was there."""
    async with connection(gateway) as (reader, writer):
        writer.write(POST + framing)
        await writer.drain()
        await asyncio.sleep(0.1)  # its head has arrived
        writer.write_eof()
        said = await rest(reader)

    assert statuses(said) in ([], [b"400"], [b"408"])
    await gateway.becomes(in_flight=0, held=0)
    assert {} == await engine.last()


async def test_a_head_without_a_body_keeps_the_connection_in_step(gateway):
    """F76: the answer to HEAD has no body, and the next answer is that of the next request."""
    head = OK.replace(b"GET", b"HEAD")
    async with connection(gateway) as (reader, writer):
        writer.write(head + b"\r\n")
        first = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        writer.write(OK + b"Connection: close\r\n\r\n")
        second = await rest(reader)

    assert [b"200"] == statuses(first)
    assert second.startswith(b"HTTP/1.1 200 OK\r\n")
    assert "fake" == json.loads(second.partition(b"\r\n\r\n")[2])["data"][0]["id"]


async def test_options_are_the_engines_business(gateway, engine):
    """F76: whether browsers may ask is what vLLM was told; its answer passes."""
    said = await raw(
        gateway, b"OPTIONS /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )

    assert 1 == len(statuses(said))
    assert b"tunerd" not in said.partition(b"\r\n\r\n")[2]
    assert "/v1/models" == (await engine.last())["path"]


LONG = b'{"prompt": "a", "max_tokens": 10000, "stream": %s}'


def long_request(stream=b"false"):
    """A request that takes minutes."""
    body = LONG % stream
    return POST + b"Content-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize("held", [False, True])
async def test_a_client_that_closes_its_half_counts_as_gone(gateway, engine, held):
    """F75: its request ends at the engine or in the queue, and neither side waits for the other."""
    engine.script(token_delay_s=0.05)
    if held:
        await gateway.route(None, gate="hold")
    async with connection(gateway) as (reader, writer):
        writer.write(long_request())
        await (gateway.becomes(held=1) if held else until(lambda: engine.runs(1)))
        writer.write_eof()
        said = await rest(reader)

    assert b"" == said
    await until(lambda: engine.runs(0))
    assert ["client_gone"] == await gateway.outcomes(1)
    await gateway.becomes(in_flight=0, held=0)


@contextlib.asynccontextmanager
async def forwarder(gateway):
    """The port of one that passes on bytes and the end of each half, as `ssh -L` does."""
    tasks = set()

    async def pump(reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    async def forward(reader, writer):
        tasks.add(asyncio.current_task())
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        try:
            await asyncio.gather(pump(reader, behind_writer), pump(behind_reader, writer))
        finally:
            behind_writer.close()
            writer.close()

    async with await asyncio.start_server(forward, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("stream", [b"false", b"true"])
async def test_a_client_that_leaves_a_forwarder_is_noticed(gateway, engine, stream):
    """Why half a close is an end: behind a tunnel or Docker's proxy nothing else is seen of one."""
    engine.script(token_delay_s=60.0)  # no byte to write, at which a broken connection would show

    @contextlib.asynccontextmanager
    async def begun():
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(long_request(stream))

        async def leave():
            writer.close()

        yield leave

    async with forwarder(gateway) as port:
        took_s, times = await leaves(engine, begun)

    assert took_s < CANCEL_S
    assert ["client_gone"] * times == await gateway.outcomes(times)
