"""The gateway as a process, between real connections and fake engines that misbehave."""

import asyncio
import base64
import contextlib
import gzip
import json
import os
import socket
import sys
import time
import zlib

import aiohttp
import psutil
import pytest
from aiohttp import web
from fake_engine import answer
from gateway_harness import (
    CANARY,
    Gateway,
    answering,
    fake,
    raw,
    several,
    started,
    terminate,
    until,
)
from leaving import CANCEL_S, leaves, leaves_between, reading
from yarl import URL

MIB = 1024 * 1024
SPECULATION = '{"method": "ngram", "num_speculative_tokens": 3}'
STREAM = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def ordinary(folder):
    with started(Gateway(folder / "ordinary", tuning={"sampling": "off"})) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def narrow(folder):
    limits = {"hold_requests": 2, "hold_mib": 1, "hold_s": 2.0, "max_body_mib": 8}
    settings = {**limits, "idle_timeout_s": 0.5}
    with started(Gateway(folder / "narrow", settings, {"sample_requests": 2})) as gateway:
        yield gateway


@pytest.fixture
async def gateway(ordinary):
    """A gateway that keeps no samples."""
    yield await ordinary.open()
    await ordinary.close()


@pytest.fixture
async def strict(narrow):
    """A gateway with small limits, which keeps two samples of a class."""
    yield await narrow.open()
    await narrow.close()


@pytest.fixture
async def own(tmp_path):
    """Starts gateways for one test."""
    async with several(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def second_fake(folder):
    with fake(folder, "second") as engine:
        yield engine


@pytest.fixture(scope="module")
def speculating_fake(folder):
    with fake(folder, "spec", "--speculative-config", SPECULATION) as engine:
        yield engine


@pytest.fixture
async def other(second_fake):
    """Another one."""
    return await second_fake.fresh()


@pytest.fixture
async def speculating(speculating_fake):
    """One that speculates."""
    return await speculating_fake.fresh()


@pytest.fixture
def mortal(tmp_path):
    """Starts fake engines that may die."""
    with contextlib.ExitStack() as stack:
        yield lambda **wanted: stack.enter_context(fake(tmp_path, "mortal", **wanted))


# -- hold and release -----------------------------------------------------------------------------


async def test_held_requests_are_answered_once_each_by_the_next_engine(gateway, engine):
    """Before there is an engine requests wait; then each gets the one right answer."""
    asked = [
        asyncio.create_task(gateway.complete(f"{CANARY} {i}", stream=i % 2 == 0)) for i in range(8)
    ]
    held = await gateway.becomes(held=8)
    await gateway.route(engine)
    replies = await asyncio.gather(*asked)

    assert ("hold", 0) == (held["gate"], held["in_flight"])
    assert [answer(f"{CANARY} {i}", 8) for i in range(8)] == [reply.text for reply in replies]
    assert all(reply.whole for reply in replies)
    assert 8 == (await engine.state())["requests"]
    assert ["ok"] * 8 == await gateway.outcomes(8)
    await gateway.becomes(in_flight=0, held=0)
    counters = await gateway.counters()
    assert (8, 8, 8) == (counters["received"], counters["answered"], counters["held_total"])
    assert counters["held_s_total"] > 0


async def test_the_queue_is_bounded_and_says_when_to_come_again(strict):
    """Beyond the bounds of count and bytes a request gets 503 with what the SDKs read."""
    await strict.route(None, gate="hold", eta_s=20.0)
    waiting = [asyncio.create_task(strict.complete("small"))]
    await strict.becomes(held=1)
    too_big = await strict.complete("x" * (MIB - 80))
    waiting.append(asyncio.create_task(strict.complete("small")))
    await strict.becomes(held=2)
    too_many = await strict.complete("small")
    for task in waiting:
        task.cancel()

    assert [503, 503] == [too_big.status, too_many.status]
    assert 15 <= int(too_many.headers["Retry-After"]) <= 20
    assert int(too_many.headers["retry-after-ms"]) == int(too_many.headers["Retry-After"]) * 1000
    assert "true" == too_many.headers["x-should-retry"]
    assert "tunerd" == json.loads(too_many.body)["src"]
    assert "service_unavailable" == too_many.error["type"]
    assert ["hold_full"] * 2 == (await strict.outcomes(2))[:2]
    await strict.becomes(held=0, held_bytes=0)


async def test_a_hold_ends_after_its_seconds(strict):
    """A request is not held for ever: 503 with Retry-After, at most 60."""
    await strict.route(None, gate="hold", eta_s=4000.0)
    reply = await strict.complete()

    assert (503, "60") == (reply.status, reply.headers["Retry-After"])
    assert ["hold_timeout"] == await strict.outcomes(1)


async def test_a_hold_that_nobody_renews_ends_by_itself(gateway, engine):
    """When tunerd dies within a switch the gate reopens to the engine that still answers."""
    await gateway.route(engine)
    await gateway.route(None, gate="hold", ttl_s=0.3)
    reply = await gateway.complete()

    assert answer("hello", 8) == reply.text
    state = await gateway.state()
    assert ("open", engine.token) == (state["gate"], state["engine"]["token"])


async def test_requests_that_speculation_would_break_wait_for_it_to_end(
    gateway, speculating, engine
):
    """min_p and logit_bias are held while our profile speculates; everything else passes."""
    await gateway.route(speculating, refuses_plain=True)
    asked = [
        asyncio.create_task(gateway.complete("a", min_p=0.1)),
        asyncio.create_task(gateway.complete("b", logit_bias={"5": 1})),
    ]
    await gateway.becomes(plain_waiting=2)
    harmless = await gateway.complete("c", min_p=0, logit_bias={})
    await gateway.route(engine)
    replies = await asyncio.gather(*asked)

    assert answer("c", 8) == harmless.text
    assert [answer("a", 8), answer("b", 8)] == [reply.text for reply in replies]
    plain_flags = [record["plain"] for record in await gateway.records()]
    assert [False, True, True] == plain_flags


# -- clients that leave ---------------------------------------------------------------------------


async def test_a_client_that_leaves_while_held_is_never_sent(gateway, engine):
    """Its place in the queue is free at once and the engine never sees the request."""
    took_s, times = await leaves_between(
        lambda: reading(gateway.complete, stream=False),
        lambda: gateway.becomes(held=1),
        lambda: gateway.becomes(held=0, held_bytes=0),
    )
    await gateway.route(engine)
    await gateway.complete("after")

    assert took_s < CANCEL_S
    assert 1 == (await engine.state())["requests"]
    assert ["client_gone"] * times + ["ok"] == await gateway.outcomes(times + 1)


@pytest.mark.parametrize(
    ("stream", "token_delay_s"),
    [
        pytest.param(True, 60.0, id="before the first byte"),
        pytest.param(True, 0.02, id="in mid-stream"),
        pytest.param(False, 0.02, id="not streamed"),
    ],
)
async def test_a_client_that_leaves_ends_its_request_at_the_engine(
    gateway, engine, stream, token_delay_s
):
    """F74: in each phase of an answer the engine sees the cancellation within a second."""
    engine.script(token_delay_s=token_delay_s)
    await gateway.route(engine)
    read = bytearray()

    async def ask():
        body = {"model": "fake", "prompt": CANARY, "max_tokens": 10_000, "stream": stream}
        async with gateway.session.post("/v1/completions", json=body) as reply:
            async for chunk in reply.content.iter_any():
                read.extend(chunk)

    took_s, times = await leaves(engine, lambda: reading(ask, stream=False))
    await gateway.becomes(in_flight=0)

    assert took_s < CANCEL_S
    assert (stream and token_delay_s < 1) == bool(read)
    assert times == (await engine.state())["cancelled"]
    assert ["client_gone"] * times == await gateway.outcomes(times)


# -- engines that fail ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["truncate", "no_done", "bad_chunks", "exit", "die"])
async def test_a_broken_stream_never_looks_complete(gateway, engine, mortal, kind):
    """However an engine breaks off: an error event, no [DONE], no proper end, and no second try."""
    fail = {"kind": kind, "after": 3}
    if kind in {"exit", "die"}:
        engine = mortal(fail=fail)
    else:
        engine.script(fail=fail)
    await gateway.route(engine)
    reply = await gateway.complete(CANARY, **STREAM)

    assert not reply.done
    assert not reply.whole
    assert "truncated" == reply.error["type"]
    assert ["truncated"] == await gateway.outcomes(1)
    await gateway.becomes(in_flight=0)
    if kind not in {"exit", "die"}:  # those cannot be asked any more
        assert 1 == (await engine.state())["requests"]


async def test_an_aborted_stream_is_passed_on_but_not_counted_as_success(gateway, engine):
    """An abort of vLLM sends an error and [DONE] with status 200: the record says what it was."""
    engine.script(fail={"kind": "error_event", "after": 2})
    await gateway.route(engine)
    reply = await gateway.complete(**STREAM)

    assert (200, True, True) == (reply.status, reply.whole, reply.done)
    assert 500 == reply.error["code"]
    assert ["engine_error"] == await gateway.outcomes(1)
    assert 1 == (await gateway.counters())["failed"]


@pytest.mark.parametrize(("kind", "stream"), [("die", False), ("die", True), ("die_headers", True)])
async def test_a_request_without_an_answer_is_sent_to_the_next_engine(
    gateway, engine, mortal, kind, stream
):
    """An engine killed before its first token costs waiting, not an answer."""
    await gateway.route(mortal(fail={"kind": kind}))
    asked = [asyncio.create_task(gateway.complete(CANARY, stream=stream)) for _ in range(3)]
    await gateway.becomes(gate="hold", held=3, in_flight=0)
    waiting = asyncio.create_task(gateway.complete("a newcomer"))
    await gateway.becomes(held=4)
    await gateway.route(engine)
    replies = await asyncio.gather(*asked)

    assert [answer(CANARY, 8)] * 3 == [reply.text for reply in replies]
    assert answer("a newcomer", 8) == (await waiting).text
    assert 4 == (await engine.state())["requests"]


async def test_an_engine_that_drops_one_connection_is_asked_again(gateway, engine):
    """A lost connection to an engine that lives is no reason to wait for another engine."""
    engine.script(fail={"kind": "reset", "times": 1})
    await gateway.route(engine)

    assert answer("hello", 8) == (await gateway.complete()).text
    assert 2 == (await engine.state())["requests"]


async def test_a_request_that_always_breaks_the_engine_gets_an_end(gateway, engine):
    """Three times is enough: 502 with Retry-After."""
    engine.script(fail={"kind": "reset"})
    await gateway.route(engine)
    reply = await gateway.complete()

    assert 502 == reply.status
    assert "Retry-After" in reply.headers
    assert 3 == (await engine.state())["requests"]
    assert ["no_engine"] == await gateway.outcomes(1)


async def test_errors_of_the_engine_pass_unmodified(gateway, engine):
    """Status and body are the engine's own, without our mark."""
    engine.script(fail={"kind": "status", "status": 503})
    await gateway.route(engine)
    reply = await gateway.complete()

    assert (503, "the engine failed") == (reply.status, reply.error["message"])
    assert "src" not in json.loads(reply.body)
    assert ["engine_error"] == await gateway.outcomes(1)


@pytest.mark.parametrize("after", [0, 2])
async def test_a_silent_engine_times_out(strict, engine, after):
    """Before the first byte 504; afterwards an error in the stream."""
    engine.script(fail={"kind": "hang", "after": after})
    await strict.route(engine)
    reply = await strict.complete(stream=after > 0)

    assert (504 if after == 0 else 200) == reply.status
    assert "timeout" in reply.error["type"]
    assert ["timeout"] == await strict.outcomes(1)


async def test_a_compressed_answer_passes_as_it_is(gateway, tmp_path):
    """F80: the gateway neither unpacks nor counts what the client and the engine agreed on."""
    packed = gzip.compress(b'{"choices": []}' * 1000)

    async def handler(_):
        return web.Response(
            body=packed,
            headers={"Content-Encoding": "gzip", "Content-Type": "application/json"},
        )

    async with answering(tmp_path, handler) as engine:
        await gateway.route(engine)
        connector = aiohttp.TCPConnector()
        session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        async with (
            session,
            session.post(f"{gateway.url}/v1/completions", json={"prompt": "x"}) as reply,
        ):
            found = (reply.status, reply.headers["Content-Encoding"], await reply.read())
        await gateway.route(None, gate="hold")

    assert (200, "gzip", packed) == found


async def test_an_answer_in_one_large_chunk_passes_whole(gateway, tmp_path):
    """F80: 8 MiB at once, as embeddings of a large batch are."""
    large = bytes(range(256)) * (8 * MIB // 256)

    async def handler(request):
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(large)
        return response

    async with answering(tmp_path, handler) as engine:
        await gateway.route(engine)
        body = {"prompt": "x"}
        async with gateway.session.post("/v1/embeddings", json=body) as reply:
            found = (reply.status, zlib.crc32(await reply.read()))
        await gateway.route(None, gate="hold")

    assert (200, zlib.crc32(large)) == found


async def test_the_head_of_a_stream_comes_with_its_first_chunk(gateway, tmp_path):
    """Two packets were two calls of the kernel and two wakes of the client for a first token."""

    async def handler(request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: {}\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    body = b'{"messages": [], "stream": true}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    async with answering(tmp_path, handler) as engine:
        await gateway.route(engine)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(head + body)
        first = await asyncio.wait_for(reader.read(65536), 60)
        writer.close()
        await gateway.route(None, gate="hold")

    assert (True, True) == (first.startswith(b"HTTP/1.1 200 OK"), b"data: {}" in first)


async def test_endless_headers_of_an_engine_are_a_bad_gateway(gateway, tmp_path):
    """F80: 64 KiB in one header get an end with a status, and the gateway lives on."""

    async def handler(_):
        return web.json_response({}, headers={"X-Endless": "y" * 65536})

    async with answering(tmp_path, handler) as engine:
        await gateway.route(engine)
        reply = await gateway.complete()
        await gateway.route(None, gate="hold")

    assert (502, "tunerd") == (reply.status, json.loads(reply.body)["src"])
    await gateway.becomes(in_flight=0, held=0)


# -- bytes ----------------------------------------------------------------------------------------


async def test_the_engine_gets_the_bytes_that_the_client_sent(gateway, engine):
    """Odd white space, key order, escapes and duplicate keys arrive as they were."""
    await gateway.route(engine)
    odd = b'{ "prompt"\t:"\\u00e9 \xc3\xa9",\r\n"max_tokens":3, "max_tokens" : 4,"x":[1e2,-0]}\n'
    headers = {
        "Content-Type": "application/json",
        "Authorization": "Bearer k",
        "Connection": "keep-alive, X-Hop",
        "X-Hop": "1",
        "X-Forwarded-For": "10.0.0.1",
        "X-Request-Id": "mine",
        "X-Odd": "a, b",
    }
    url = URL(f"{gateway.url}/v1/completions?a=%2F", encoded=True)
    session = aiohttp.ClientSession()
    async with session, session.post(url, data=odd, headers=headers) as reply:
        assert 200 == reply.status
    seen = await engine.last()

    assert odd == base64.b64decode(seen["body"])
    assert "/v1/completions?a=%2F" == seen["path"]
    names = {name.lower(): value for name, value in seen["headers"]}
    # the class (sampled.short-out) is at the end of the id, for our scheduler in the engine
    assert ("mine~t4", "a, b") == (names["x-request-id"], names["x-odd"])
    assert not {"authorization", "x-hop", "x-forwarded-for", "keep-alive", "expect"} & set(names)


async def test_the_id_of_a_request_is_stamped_for_the_engine_only(gateway, tmp_path):
    """An engine that echoes request ids shows the client its own one, not the stamped one."""
    seen = []

    async def echo(request):
        seen.append(request.headers["X-Request-Id"])
        return web.json_response({"id": "x"}, headers={"X-Request-Id": seen[-1]})

    async with answering(tmp_path, echo) as where:
        await gateway.route(where)
        body = {"prompt": "x", "max_tokens": 128, "temperature": 0}
        ids = {"X-Request-Id": "mine~t7"}
        async with gateway.session.post("/v1/completions", json=body, headers=ids) as reply:
            own = reply.headers.getall("X-Request-Id")
        async with gateway.session.get("/v1/models", headers=ids) as reply:
            plain = reply.headers.getall("X-Request-Id")
        await gateway.route(None, gate="hold")

    assert [["mine~t7"], ["mine~t7"]] == [own, plain]
    assert ["mine~t7~t1", "mine~t7"] == seen


async def test_a_stream_arrives_byte_for_byte(gateway, speculating):
    """What the client reads is what the engine writes, and usage is counted from its end."""
    await gateway.route(speculating)
    body = {"prompt": CANARY, "max_tokens": 50, **STREAM}
    headers = {"X-Tuner-Application": "coder"}
    async with gateway.session.post("/v1/completions", json=body, headers=headers) as reply:
        through = await reply.read()
    connector = aiohttp.UnixConnector(str(speculating.socket))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post("http://x/v1/completions", json=body) as reply,
    ):
        direct = await reply.read()

    assert direct == through
    [record] = await gateway.records()
    assert ("ok", 50, len(direct)) == (
        record["outcome"],
        record["completion_tokens"],
        record["output_bytes"],
    )
    assert ("coder", "sampled.balanced", speculating.token) == (
        record["application"],
        record["request_class"],
        record["engine_token"],
    )
    assert 0 < record["ttft_s"] <= record["duration_s"]


async def test_a_large_body_passes_whole(gateway, engine):
    """20 MB arrive complete, sent in chunks without a length."""
    await gateway.route(engine)
    big = json.dumps({"prompt": "x" * 20 * MIB, "max_tokens": 1}).encode()

    async def pieces():
        for start in range(0, len(big), MIB):
            yield big[start : start + MIB]

    headers = {"Content-Type": "application/json"}
    async with gateway.session.post("/v1/completions", data=pieces(), headers=headers) as reply:
        assert 200 == reply.status
    assert zlib.crc32(big) == (await engine.last())["crc32"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_beyond_the_cap_is_refused_and_not_collected(strict, engine, chunked):
    """100 MB get 413, and the gateway's memory never holds them."""
    await strict.route(engine)
    before = psutil.Process(strict.process.pid).memory_info().rss

    async def pieces():
        for _ in range(100):
            yield b"x" * MIB

    headers = {"Content-Type": "application/json"}
    if not chunked:
        headers["Content-Length"] = str(100 * MIB)
    status = None
    with contextlib.suppress(aiohttp.ClientError):  # it may close while we still send
        async with strict.session.post("/v1/completions", data=pieces(), headers=headers) as reply:
            status = reply.status
            envelope = await reply.json()

    assert 413 == status
    assert "8 MiB" in envelope["error"]["message"]
    assert psutil.Process(strict.process.pid).memory_info().rss - before < 40 * MIB
    assert 0 == (await engine.state())["requests"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"prompt": "' + CANARY.encode(), b"[1]", b"\xff\xfe\xfa", b"[" * 10**5]
)
async def test_what_is_not_json_is_refused_in_a_sentence(gateway, engine, body):
    """The engine is not bothered, and the sentence quotes nothing."""
    await gateway.route(engine)
    headers = {"Content-Type": "application/json"}
    async with gateway.session.post("/v1/completions", data=body, headers=headers) as reply:
        envelope = await reply.json()

    assert (400, "tunerd") == (reply.status, envelope["src"])
    assert envelope["error"]["message"].startswith("The request body ")
    assert CANARY not in json.dumps(envelope)
    assert 0 == (await engine.state())["requests"]


# -- paths and protocol ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "/", "/sleep", "/pause", "/collective_rpc", "/reset_prefix_cache", "/metrics", "/v1",
        "/v1/../sleep", "/v1/%2e%2e/sleep", "/v1/..%2fsleep", "/v1//sleep", "//sleep",
        "/v1/x%2f..%2f..%2fsleep", "http://engine/sleep", "http://engine/v1/models",
        "/v1/./models", "/v1\\..\\sleep", "/V1/models", "*",
    ],
)  # fmt: skip
async def test_nothing_but_v1_is_reachable(gateway, engine, target):
    """Development endpoints and every spelling of a way to them are 404, asked of nobody."""
    await gateway.route(engine)
    data = await raw(
        gateway, f"POST {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    )

    assert data.split(b" ")[1] in {b"404", b"400"}
    assert {} == await engine.last()


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /v1/models\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost:x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nX: " + CANARY.encode() + b"\0\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 65536 + b"\r\n\r\n",
    ],
)
async def test_malformed_requests_are_refused(gateway, engine, request_):
    """No version, two framings, control characters, endless headers: 400, and no log of them."""
    await gateway.route(engine)
    data = await raw(gateway, request_)

    assert b" 400 " in data.split(b"\r\n")[0]
    assert {} == await engine.last()


async def test_other_verbs_and_upgrades_are_refused(gateway, engine):
    """TRACE and WebSocket get a defined answer; /health is the gateway's own, engine or not."""
    async with gateway.session.get("/health") as reply:
        assert {"status": "ok", "gate": "hold"} == await reply.json()
    await gateway.route(engine)
    async with gateway.session.request("TRACE", "/v1/models") as reply:
        assert 405 == reply.status
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    async with gateway.session.get("/v1/realtime", headers=upgrade) as reply:
        assert 501 == reply.status
    async with gateway.session.get("/v1/models") as reply:
        assert "fake" == (await reply.json())["data"][0]["id"]
    async with gateway.session.get("/v1/no-such-thing") as reply:
        assert {"detail": "Not Found", "path": "/v1/no-such-thing"} == await reply.json()
    assert [] == await gateway.records()


async def test_expect_continue_and_keep_alive_work(gateway, engine):
    """Large uploads of curl wait for 100 Continue; the connection serves a second request."""
    await gateway.route(engine)
    body = b'{"prompt": "a", "max_tokens": 1}'
    head = (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n" % len(body)
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(head + b"Expect: 100-continue\r\n\r\n")

    assert b"HTTP/1.1 100 Continue\r\n" == await reader.readline()
    await reader.readline()
    writer.write(body)
    assert b"HTTP/1.1 200 OK\r\n" == await reader.readline()
    assert not {"expect", "Expect"} & dict((await engine.last())["headers"]).keys()
    await reader.readuntil(b"}]") and await reader.readuntil(b"}}")
    writer.write(head + b"Connection: close\r\n\r\n" + body)
    assert b"HTTP/1.1 200 OK\r\n" == await reader.readline()
    writer.close()


# -- slow readers ---------------------------------------------------------------------------------


async def test_a_slow_reader_pauses_the_engine(gateway, engine):
    """A client that stops reading costs a bounded piece of memory, and the engine waits."""
    engine.script(chunk_bytes=65536)
    await gateway.route(engine)
    before = psutil.Process(gateway.process.pid).memory_info().rss
    raw_socket = socket.socket()
    raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    raw_socket.connect(("127.0.0.1", gateway.port))
    body = json.dumps({"prompt": "x", "max_tokens": 4000, "stream": True}).encode()
    raw_socket.sendall(
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body
    )

    async def still():
        first = (await engine.state())["sent_bytes"]
        await asyncio.sleep(0.3)
        return first > 0 and first == (await engine.state())["sent_bytes"] and first

    sent = await until(still)
    grown = psutil.Process(gateway.process.pid).memory_info().rss - before
    raw_socket.close()

    assert sent < 16 * MIB  # of 260 MB; kernel buffers on both sides included
    assert grown < 8 * MIB
    await gateway.becomes(in_flight=0)
    assert ["client_gone"] == await gateway.outcomes(1)


# -- drain, cut, stop -----------------------------------------------------------------------------


async def test_a_drain_ends_with_the_last_request(gateway, engine):
    """It returns as soon as nothing is at the engine; what comes meanwhile is held."""
    engine.script(token_delay_s=0.05)
    await gateway.route(engine)
    first = asyncio.create_task(gateway.complete(stream=True))
    await gateway.becomes(in_flight=1)
    await gateway.route(engine, gate="hold")
    second = asyncio.create_task(gateway.complete())
    await gateway.becomes(held=1)
    early = await gateway.ask("POST", "/drain", json={"deadline_s": 0.05})
    drained = await gateway.ask("POST", "/drain", json={"deadline_s": 5})
    await gateway.route(engine)

    assert ({"in_flight": 1}, {"in_flight": 0}) == (early, drained)
    assert [answer("hello", 8)] * 2 == [(await first).text, (await second).text]


async def test_a_cut_ends_streams_with_an_error_and_keeps_the_rest(gateway, engine, other):
    """A started stream breaks visibly; a request without a byte waits for the next engine."""
    engine.script(token_delay_s=0.05)
    await gateway.route(engine)
    stream = asyncio.create_task(gateway.complete(max_tokens=1000, stream=True))
    whole = asyncio.create_task(gateway.complete(max_tokens=100))
    await until(lambda: engine.runs(2))
    await asyncio.sleep(0.2)  # the stream has begun
    await gateway.route(engine, gate="hold")
    cut = await gateway.ask("POST", "/cut")
    broken = await stream
    await gateway.becomes(in_flight=0, held=1)
    await until(lambda: engine.runs(0), CANCEL_S)
    await gateway.route(other)

    assert {"cut": 2} == cut
    assert (False, False, "cut") == (broken.whole, broken.done, broken.error["type"])
    assert answer("hello", 100) == (await whole).text
    assert ["cut", "ok"] == await gateway.outcomes(2)


async def test_a_cut_with_the_gate_open_answers_503(gateway, engine):
    """There is no next engine to wait for, so the client is told to come again."""
    engine.script(token_delay_s=0.05)
    await gateway.route(engine)
    asked = asyncio.create_task(gateway.complete(max_tokens=1000))
    await until(lambda: engine.runs(1))
    await gateway.ask("POST", "/cut")
    reply = await asked

    assert (503, "true") == (reply.status, reply.headers["x-should-retry"])
    assert ["cut"] == await gateway.outcomes(1)


async def test_sigterm_waits_for_streams_and_refuses_the_rest(own, engine):
    """Running answers end in full, held ones get 503 at once, the exit status is 0."""
    engine.script(token_delay_s=0.05)
    gateway = await own()
    await gateway.route(engine)
    stream = asyncio.create_task(gateway.complete(max_tokens=10, stream=True))
    await gateway.becomes(in_flight=1)
    await gateway.route(engine, gate="hold")
    held = asyncio.create_task(gateway.complete())
    await gateway.becomes(held=1)
    terminate(gateway.process)
    refused = await held

    assert 503 == refused.status
    assert (True, True) == ((await stream).whole, (await stream).done)
    assert 0 == await asyncio.to_thread(gateway.process.wait, 30)
    assert not gateway.socket.exists()
    assert "0 answers were cut" in gateway.log.read_text()


@pytest.mark.parametrize("second", [False, True])
async def test_sigterm_cuts_at_the_deadline_or_at_the_second_signal(own, engine, second):
    """A long stream gets an error event, and the log says how many were cut."""
    engine.script(token_delay_s=0.05)
    gateway = await own({"drain_s": 60.0 if second else 0.3})
    await gateway.route(engine)
    stream = asyncio.create_task(gateway.complete(max_tokens=10_000, stream=True))
    await gateway.becomes(in_flight=1)
    await asyncio.sleep(0.3)
    terminate(gateway.process)
    if second:
        await until(lambda: "stopping" in gateway.log.read_text())
        terminate(gateway.process)
    reply = await stream

    assert (False, "cut") == (reply.whole, reply.error["type"])
    assert 0 == await asyncio.to_thread(gateway.process.wait, 30)
    assert "1 answers were cut" in gateway.log.read_text()


# -- records and samples --------------------------------------------------------------------------


async def test_records_come_by_long_poll_and_carry_no_text(gateway, engine):
    """A waiting reader gets a record the moment a request ends; nothing of its text is in it."""
    await gateway.route(engine)
    asking = asyncio.create_task(gateway.records(0, 20))
    await asyncio.sleep(0.1)
    started = time.monotonic()
    await gateway.complete(CANARY)
    [record] = await asking

    assert time.monotonic() - started < 10  # of the 20 s that it would have waited
    assert gateway.first + 1 == record["seq"]
    assert CANARY not in json.dumps(record)
    assert answer(CANARY, 8) not in json.dumps(record)
    assert [] == await gateway.records(1, 0.05)
    assert gateway.first + 1 == (await gateway.state())["records_next"]


async def test_samples_are_the_requests_that_went_well(strict, engine):
    """Kept in memory by class for a measurement; refused, plain and failed ones are not."""
    await strict.route(engine)
    for number in range(3):
        await strict.complete(f"{CANARY} {number}")
    await strict.complete("plain", min_p=0.5)
    engine.script(fail={"kind": "status", "status": 500})
    await strict.complete("failed")
    classes = await strict.ask("GET", "/samples/classes")
    params = {"request_class": "greedy.short-out"}
    found = (await strict.ask("GET", "/samples", params=params))["samples"]

    assert {"classes": {"greedy.short-out": 2}} == classes
    assert all(CANARY in sample["body"]["prompt"] for sample in found)
    assert {"completions"} == {sample["endpoint"] for sample in found}


async def test_no_sample_is_kept_when_sampling_is_off(gateway, engine):
    """`sampling = "off"` means that no prompt outlives its request."""
    await gateway.route(engine)
    await gateway.complete(CANARY)

    assert {"classes": {}} == await gateway.ask("GET", "/samples/classes")


# -- sockets and start ----------------------------------------------------------------------------


async def test_a_port_in_use_is_one_sentence_and_69(gateway, tmp_path):
    """It says which address and what to do; no traceback."""
    second = Gateway(tmp_path, {"listen": f"127.0.0.1:{gateway.port}"})
    code = await asyncio.to_thread(second.spawn().wait, 60)

    assert 69 == code
    assert (
        f"Cannot listen on 127.0.0.1:{gateway.port}: another program does. "
        "Stop that program or set gateway.listen to another port.\n"
    ) == second.log.read_text()


async def test_a_second_gateway_of_the_same_directory_is_refused(gateway, tmp_path):
    """A living admin socket is never taken over; the first gateway stays."""
    second = Gateway(tmp_path, runtime=gateway.socket.parent)
    code = await asyncio.to_thread(second.spawn().wait, 60)

    assert 75 == code
    assert "hold" == (await gateway.state())["gate"]


async def test_a_dead_socket_is_replaced_and_a_live_one_is_private(own, tmp_path):
    """After kill -9 the file stays: the next gateway takes its place, mode 0600."""
    folder = tmp_path / "dead"
    folder.mkdir()
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(folder / "gateway.sock"))
    gateway = await own(runtime=folder)

    assert 0o600 == gateway.socket.stat().st_mode & 0o777
    assert "hold" == (await gateway.state())["gate"]


async def test_an_inherited_socket_is_used(own, engine):
    """A listening fd 3 with LISTEN_FDS=1, as systemd passes it; LISTEN_PID may be absent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        move = f"import os, sys; os.dup2({number}, 3); os.execv(sys.argv[1], sys.argv[1:])"
        gateway = await own(
            prefix=(sys.executable, "-c", move),
            pass_fds=(number,),
            env={**os.environ, "LISTEN_FDS": "1"},
        )

        assert listener.getsockname()[1] == gateway.port
        await gateway.route(engine)
        assert answer("hello", 8) == (await gateway.complete()).text


async def test_the_slow_parser_is_refused(tmp_path):
    """The parser that aiohttp has in Python let smuggled requests through: 69 and a sentence."""
    gateway = Gateway(tmp_path)
    process = gateway.spawn(env={**os.environ, "AIOHTTP_NO_EXTENSIONS": "1"})

    assert 69 == await asyncio.to_thread(process.wait, 60)
    assert "AIOHTTP_NO_EXTENSIONS" in gateway.log.read_text()


async def test_the_admin_interface_explains_what_is_wrong(gateway):
    """Bad wishes change nothing and get a sentence."""
    for body in ({"gate": "ajar"}, {"gate": "open"}, {"gate": "hold", "colour": 1}, [1]):
        async with gateway.admin.put("/route", json=body) as reply:
            assert 400 == reply.status
            assert (await reply.json())["error"]["message"]
    async with gateway.admin.get("/records", params={"after": "x"}) as reply:
        assert 400 == reply.status
    async with gateway.admin.get("/nothing") as reply:
        assert 404 == reply.status

    state = await gateway.state()
    assert ("hold", "test hold") == (state["gate"], state["reason"])


async def test_a_gateway_without_descriptors_serves_on(own, engine):
    """F43: connections are bounded below the descriptors, what runs goes on, no core is burnt."""
    few = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96)); "
    run = "os.execv(sys.argv[1], sys.argv[1:])"
    engine.script(token_delay_s=0.05)
    gateway = await own({"connections_per_address": 1000}, prefix=(sys.executable, "-c", few + run))
    await gateway.route(engine)
    stream = asyncio.create_task(gateway.complete(max_tokens=60, stream=True))
    await until(lambda: engine.runs(1))
    process = psutil.Process(gateway.process.pid)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(120):
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            stack.callback(writer.close)
        before = process.cpu_times()
        await asyncio.sleep(1.5)
        after, descriptors = process.cpu_times(), process.num_fds()
        reply = await stream

    assert descriptors < 96
    assert answer("hello", 60) == reply.text
    assert after.user + after.system - before.user - before.system < 1.0
    assert answer("after", 8) == (await gateway.complete("after")).text
