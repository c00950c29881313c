"""OpenAI's own clients, for Python and for Node, at a gateway process."""

import asyncio
import contextlib
import json
import time

import openai
import pytest
from aiohttp import web
from fake_engine import answer
from gateway_harness import CANARY, Gateway, answering, started
from leaving import CANCEL_S, leaves, reading
from node_stage import made, result

from tuner import keys

SECRET = "tuner-the-coder-secret-0817"
ASKED = [{"role": "user", "content": CANARY}]
BODY = {"model": "fake", "messages": ASKED}
TEXT = answer(json.dumps(ASKED), 16)  # as many as the fake engine gives unasked
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
FORMS = ("whole", "events", "collected")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("openai")


@pytest.fixture(scope="module")
def process(folder):
    file = folder / "gateway-keys"
    keys.write(file, [keys.Key.of("coder", SECRET, keys.salt())])
    settings = {
        "keys_file": str(file),
        "hold_comments": True,
        "hold_comment_s": 0.2,
        "hold_s": 4.0,
        "max_body_mib": 1,
        "idle_timeout_s": 4.0,
    }
    with started(Gateway(folder / "g", settings)) as gateway:
        yield gateway


@pytest.fixture
async def gateway(process, engine):
    """A gateway with keys and comments, in front of a fake engine."""
    await process.open()
    await process.route(engine)
    yield process
    await process.close()


class Python:
    """The client for Python, in the words of `ask.mjs`."""

    def client(self, gateway, key=SECRET, retries=0):
        return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=retries)

    async def ask(self, gateway, body, form="whole", **more):
        begun = time.monotonic()
        async with self.client(gateway, **more) as client:
            try:
                found = {"message": await getattr(self, form)(client.chat.completions, body)}
            except openai.APIError as error:
                names = ("status_code", "type", "code", "message")
                seen = {name: getattr(error, name, None) for name in names}
                seen["status"] = seen.pop("status_code")
                found = {"error": {"name": type(error).__name__, **seen}}
        return {**found, "took_s": time.monotonic() - begun}

    async def whole(self, chat, body):
        return (await chat.create(**body)).choices[0].message.model_dump()

    async def events(self, chat, body):
        stream = await chat.create(**body, stream=True)
        return {"content": "".join([event.choices[0].delta.content async for event in stream])}

    async def collected(self, chat, body):
        async with chat.stream(**body) as stream:
            async for _ in stream:
                pass
            return (await stream.get_final_completion()).choices[0].message.model_dump()

    @contextlib.asynccontextmanager
    async def begun(self, gateway, body, form):
        async with self.client(gateway) as client:
            stream = form == "events"
            ask = client.chat.completions.create
            async with reading(lambda: ask(**body, stream=stream), stream=stream) as leave:
                yield leave


class Node:
    """The client for Node."""

    def __init__(self):
        self.node = made()

    async def ask(self, gateway, body, form="whole", **more):
        return await self.node.ask(gateway, body, form, **{"key": SECRET, **more})

    @contextlib.asynccontextmanager
    async def begun(self, gateway, body, form):
        async with self.node.asking(gateway, body, form, key=SECRET) as process:

            async def leave():
                process.stdin.write(b"abort\n")
                await process.stdin.drain()

            yield leave
            assert (await result(process))["aborted"]


@pytest.fixture(scope="module", params=[Python, Node])
def client(request):
    """Each of the two."""
    return request.param()


@pytest.mark.parametrize("form", FORMS)
async def test_a_chat(gateway, client, form):
    """Whole or as a stream, the text is the engine's; the key names the application."""
    found = await client.ask(gateway, BODY, form)

    assert TEXT == found["message"]["content"]
    [record] = await gateway.records(0, 5)
    assert ("ok", "coder") == (record["outcome"], record["application"])


@pytest.mark.parametrize("form", ["whole", "collected"])
async def test_a_tool_is_called(gateway, client, form):
    """Its name and its arguments arrive whole, in one piece or in many."""
    found = await client.ask(gateway, {**BODY, "tools": [TOOL]}, form)
    [call] = found["message"]["tool_calls"]

    assert ("call_fake", "look_up") == (call["id"], call["function"]["name"])
    assert {"text": TEXT} == json.loads(call["function"]["arguments"])


@pytest.mark.parametrize("form", ["events", "collected"])
async def test_a_hold_with_comments_is_only_a_wait(gateway, client, engine, form):
    """Comments disturb neither the reader of events nor what puts them together."""
    await gateway.route(None, gate="hold")
    asked = asyncio.create_task(client.ask(gateway, BODY, form))
    await gateway.becomes(held=1)
    await asyncio.sleep(0.7)  # three comments
    await gateway.route(engine)

    assert TEXT == (await asked)["message"]["content"]


async def test_errors_before_an_answer_are_typed(gateway, client, engine):
    """A wrong key, a hold that ran out, an engine's 400: each its own exception."""
    wrong = (await client.ask(gateway, BODY, key="wrong"))["error"]
    engine.script(fail={"kind": "status", "status": 400})
    bad = (await client.ask(gateway, BODY))["error"]
    await gateway.route(None, gate="hold")
    held = (await client.ask(gateway, BODY))["error"]

    assert ("AuthenticationError", 401, "authentication_error") == _seen(wrong)
    assert ("BadRequestError", 400, "BadRequestError") == _seen(bad)
    assert ("InternalServerError", 503, "service_unavailable") == _seen(held)


@pytest.mark.parametrize("form", ["events", "collected"])
@pytest.mark.parametrize(
    ("kind", "type_", "outcome"),
    [
        ("truncate", "truncated", "truncated"),
        ("hang", "timeout", "timeout"),
        ("error_event", None, "engine_error"),
    ],
)
async def test_a_stream_that_breaks_is_an_exception(
    gateway, client, engine, form, kind, type_, outcome
):
    """200 was sent long ago: the client raises what the event says, and no half answer passes."""
    engine.script(fail={"kind": kind, "after": 3})
    error = (await client.ask(gateway, BODY, form))["error"]

    assert ("APIError", type_) == (error["name"], error.get("type"))
    assert [outcome] == await gateway.outcomes(1)


async def test_a_hold_that_runs_out_within_a_stream_is_an_exception(gateway, client):
    """After the first comment there is no status left; the event says what the 503 would."""
    await gateway.route(None, gate="hold")
    error = (await client.ask(gateway, BODY, "events"))["error"]

    assert ("APIError", "service_unavailable") == (error["name"], error["type"])
    assert "The engine was not ready in time." in error["message"]


async def test_a_retry_comes_when_the_gateway_said(gateway, client, engine):
    """Retry-After is honoured; by itself the client would wait half a second at most."""
    engine.script(fail={"kind": "reset", "times": 3})  # the limit of the gateway's own tries
    await gateway.route(engine, eta_s=2.0)
    found = await client.ask(gateway, BODY, retries=2)

    assert TEXT == found["message"]["content"]
    assert found["took_s"] >= 1.0
    assert ["no_engine", "ok"] == await gateway.outcomes(2)


@pytest.mark.parametrize("status", [429, 503])
async def test_a_retry_comes_when_the_engine_said(gateway, client, tmp_path, status):
    """What an engine that is full says of the time passes, and its second answer is the answer."""
    asked_at = []

    async def handler(_):
        asked_at.append(time.monotonic())
        if len(asked_at) == 1:
            fields = {"Retry-After": "2"}
            return web.json_response({"error": {"message": "full"}}, status=status, headers=fields)
        choice = {"index": 0, "finish_reason": "stop", "message": {"content": "b", "role": "a"}}
        return web.json_response({"id": "x", "choices": [choice]})

    async with answering(tmp_path, handler) as where:
        await gateway.route(where)
        found = await client.ask(gateway, BODY, retries=2)
        await gateway.route(None, gate="hold")

    assert "b" == found["message"]["content"]
    assert asked_at[1] - asked_at[0] >= 1.9  # of 2; by itself it waits half a second


@pytest.mark.parametrize("form", ["whole", "events"])
async def test_a_client_that_leaves_ends_its_request_at_the_engine(gateway, client, engine, form):
    """A cancelled task or an AbortController: the engine knows within a second."""
    engine.script(token_delay_s=0.02)
    body = {**BODY, "max_tokens": 10_000}
    took_s, times = await leaves(engine, lambda: client.begun(gateway, body, form))

    assert took_s < CANCEL_S
    assert times == (await engine.state())["cancelled"]


def _seen(error):
    return error["name"], error["status"], error["type"]
