"""Comments in the event stream of a held request, from a gateway process to real connections."""

import asyncio
import contextlib
import json

import openai
import pytest
from fake_engine import answer
from gateway_harness import CANARY, Gateway, several, started, terminate, until

COMMENT_S = 0.1
COMMENTING = {"hold_comments": True, "hold_comment_s": COMMENT_S, "hold_s": 60.0}
SWITCHING = b": tuner is switching the profile, about "
HOLDING = b": tuner holds this request until the engine is ready\n\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("comments")


@pytest.fixture
async def own(tmp_path):
    """Starts gateways that comment, for one test."""
    async with several(tmp_path) as start:
        yield lambda **settings: start({**COMMENTING, **settings})


@pytest.fixture(scope="module")
def talking(folder):
    with started(Gateway(folder / "talking", COMMENTING)) as gateway:
        yield gateway


@pytest.fixture
async def gateway(talking):
    """A gateway that comments."""
    yield await talking.open()
    await talking.close()


class Listener:
    """A client that streams, and what it has received so far."""

    def __init__(self, gateway, *, path="/v1/completions", version=b"1.1", **more):
        self.port = gateway.port
        body = json.dumps({"prompt": CANARY, "max_tokens": 8, "stream": True, **more}).encode()
        self.request = (
            b"POST %s HTTP/%s\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Accept-Encoding: gzip\r\nX-Request-Id: mine\r\nContent-Length: %d\r\n\r\n"
        ) % (path.encode(), version, len(body)) + body
        self.received = b""
        self.closed = asyncio.Event()  # by the other side

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writer.write(self.request)
        self.task = asyncio.create_task(self.read())
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def read(self):
        with contextlib.suppress(ConnectionError):
            while chunk := await self.reader.read(65536):
                self.received += chunk
        self.closed.set()

    async def hears(self, text, times=1):
        """Wait until it has received a text so often."""
        await until(lambda: self.received.count(text) >= times)

    @property
    def error(self):
        """The one error event that it received."""
        lines = self.received.split(b"\n")
        [event] = [json.loads(line[5:]) for line in lines if line.startswith(b'data: {"error"')]
        return event["error"]

    @property
    def complete(self):
        """Whether its answer ended as HTTP says that an answer ends."""
        return self.received.endswith(b"\r\n0\r\n\r\n")


async def test_a_held_stream_hears_comments_and_then_its_answer(gateway, engine):
    """200, the remaining time, and on the same answer the engine's events to the last byte."""
    await gateway.route(None, gate="hold", eta_s=100)
    asked = asyncio.create_task(gateway.complete(stream=True))
    async with Listener(gateway) as client:
        await client.hears(SWITCHING, 3)
        await gateway.route(engine)
        reply = await asked
        await client.hears(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    head = client.received.partition(b"\r\n\r\n")[0].lower()

    assert head.startswith(b"http/1.1 200 ok\r\n")
    assert b"content-type: text/event-stream" in head
    assert b"x-accel-buffering: no" in head
    assert b"x-request-id: mine" in head
    assert reply.body.startswith(SWITCHING)
    assert b" s left\n\n" in reply.body
    assert (True, True, answer("hello", 8)) == (reply.whole, reply.done, reply.text)
    assert "accept-encoding" not in {name.lower() for name, _ in (await engine.last())["headers"]}
    assert 2 == (await engine.state())["requests"]
    assert ["ok", "ok"] == await gateway.outcomes(2)
    assert 2 == (await gateway.counters())["answered"]


async def test_without_an_estimate_the_comment_names_no_time(gateway, engine):
    """Nobody has said how long it takes, so neither does the comment; HTTP/1.0 works as well."""
    async with Listener(gateway, version=b"1.0") as client:
        await client.hears(HOLDING, 2)
        await gateway.route(engine)
        await client.closed.wait()

    assert client.received.endswith(b"data: [DONE]\n\n")


async def test_what_does_not_stream_waits_as_ever(gateway, engine):
    """A plain request gets the engine's status and its body alone, however long it waited."""
    asked = asyncio.create_task(gateway.complete())
    async with Listener(gateway) as client:
        await gateway.becomes(held=2)
        await client.hears(HOLDING, 3)
        engine.script(fail={"kind": "status", "status": 400})
        await gateway.route(engine)
        reply = await asked

    assert (400, "the engine failed") == (reply.status, reply.error["message"])
    assert reply.headers["Content-Type"].startswith("application/json")


async def test_comments_are_off_unless_asked_for(own, engine):
    """By default a client that parses every line as JSON sees no comment."""
    gateway = await own(hold_comments=False)
    async with Listener(gateway) as client:
        await gateway.becomes(held=1)
        await asyncio.sleep(5 * COMMENT_S)
        await gateway.route(engine)
        await client.hears(b"data: [DONE]")

    assert b"tuner" not in client.received


async def test_a_hold_that_runs_out_ends_in_an_error_event(own):
    """200 is sent already: the event says what the 503 would have said, and the end is broken."""
    gateway = await own(hold_s=3.0)
    async with Listener(gateway) as client:
        await client.closed.wait()

    assert HOLDING in client.received
    assert {
        "message": "The engine was not ready in time.",
        "type": "service_unavailable",
        "param": None,
        "code": 503,
    } == client.error
    assert not client.complete
    [record] = await gateway.records()
    assert ("hold_timeout", 200) == (record["outcome"], record["status"])
    assert 1 == (await gateway.counters())["rejected"]


@pytest.mark.parametrize("fails", [False, True])
async def test_openais_client_skips_comments_and_raises_late_errors(gateway, engine, fails):
    """A program that streams notices nothing of a hold but its length, or gets an exception."""
    engine.script(fail={"kind": "status", "status": 400} if fails else {})
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="x") as client:

        async def text():
            stream = await client.completions.create(
                model="fake", prompt="hello", max_tokens=8, stream=True
            )
            return "".join([event.choices[0].text async for event in stream])

        asked = asyncio.create_task(text())
        await gateway.becomes(held=1)
        async with Listener(gateway) as other:  # held later, so its third comment comes later
            await other.hears(HOLDING, 3)
        await gateway.route(engine)
        if fails:
            with pytest.raises(openai.APIError, match="the engine failed"):
                await asked
        else:
            assert answer("hello", 8) == await asked


@pytest.mark.parametrize(
    ("status", "outcome", "counter"),
    [(400, "bad_request", "answered"), (500, "engine_error", "failed")],
)
async def test_an_engine_that_refuses_is_quoted_in_an_error_event(
    gateway, engine, status, outcome, counter
):
    """The engine's own error object, of its status, in the stream that was opened."""
    engine.script(fail={"kind": "status", "status": status})
    async with Listener(gateway) as client:
        await client.hears(HOLDING)
        await gateway.route(engine)
        await client.closed.wait()

    assert ("the engine failed", status) == (client.error["message"], client.error["code"])
    assert not client.complete
    assert [outcome] == await gateway.outcomes(1)
    assert 1 == (await gateway.counters())[counter]


async def test_an_engine_without_events_is_named_in_an_error_event(gateway, engine):
    """This engine has no /v1/responses; its JSON must not stand in an event stream."""
    async with Listener(gateway, path="/v1/responses") as client:
        await client.hears(HOLDING)
        await gateway.route(engine)
        await client.closed.wait()

    assert "The engine answered 404 and no event stream." == client.error["message"]
    assert not client.complete


@pytest.mark.parametrize("after", [0, 2])
async def test_an_engine_that_breaks_is_an_error_event(gateway, engine, after):
    """Before its first event the request is sent again, up to the limit; after it never."""
    engine.script(fail={"kind": "truncate", "after": after})
    async with Listener(gateway) as client:
        await client.hears(HOLDING)
        await gateway.route(engine)
        await client.closed.wait()

    assert not client.complete
    assert ("truncated" if after else "bad_gateway") == client.error["type"]
    assert [1 if after else 3] == [(await engine.state())["requests"]]
    assert ["truncated" if after else "no_engine"] == await gateway.outcomes(1)


async def test_an_engine_that_breaks_once_is_asked_again(gateway, engine):
    """Comments are no bytes of an answer: the request goes to the engine a second time."""
    engine.script(fail={"kind": "reset", "times": 1})
    async with Listener(gateway) as client:
        await client.hears(HOLDING)
        await gateway.route(engine)
        await client.hears(b"data: [DONE]\n\n\r\n0\r\n\r\n")

    assert 1 == client.received.count(b"HTTP/1.1 200 OK")
    assert ["ok"] == await gateway.outcomes(1)


async def test_a_client_that_leaves_while_held_frees_its_place(own, engine):
    """The next request gets the place, and no engine is asked for nobody."""
    gateway = await own(hold_requests=1)
    async with Listener(gateway) as client:
        await client.hears(HOLDING, 2)
        refused = await gateway.complete(stream=True)
    await gateway.becomes(held=0, held_bytes=0)
    async with Listener(gateway) as following:
        await following.hears(HOLDING)
        await gateway.route(engine)
        await following.hears(b"data: [DONE]")

    assert 503 == refused.status
    assert 1 == (await engine.state())["requests"]
    assert ["hold_full", "client_gone", "ok"] == await gateway.outcomes(3)


async def test_a_stop_ends_opened_streams_with_an_error_event(own):
    """SIGTERM while held: the client learns it in its stream, and the exit status is 0."""
    gateway = await own()
    async with Listener(gateway) as client:
        await client.hears(HOLDING)
        terminate(gateway.process)
        await client.closed.wait()

    assert "The gateway is stopping." == client.error["message"]
    assert not client.complete
    assert 0 == await asyncio.to_thread(gateway.process.wait, 30)
