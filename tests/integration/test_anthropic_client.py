"""Anthropic's own client at a gateway process: what it gets and which errors it raises."""

import asyncio
import json
import time

import anthropic
import pytest
from fake_engine import answer
from gateway_harness import CANARY, Gateway, started, until
from leaving import CANCEL_S, leaves, reading

from tuner import keys

SECRET = "tuner-the-coder-secret-0816"
ASKED = [{"role": "user", "content": CANARY}]
TOOL = {"name": "look_up", "description": "d", "input_schema": {"type": "object"}}
REQUEST = {"model": "fake", "max_tokens": 8, "messages": ASKED}
TEXT = answer(json.dumps(ASKED), 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("anthropic")


@pytest.fixture(scope="module")
def process(folder):
    file = folder / "gateway-keys"
    keys.write(file, [keys.Key.of("coder", SECRET, keys.salt())])
    settings = {
        "keys_file": str(file),
        "hold_comments": True,
        "hold_comment_s": 0.2,
        "hold_s": 4.0,
        "hold_requests": 4,
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


@pytest.fixture
async def client(gateway):
    """Anthropic's client, as a program makes it: its key in x-api-key, its own retries."""
    async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key=SECRET) as made:
        yield made


@pytest.fixture
def once(client):
    """The same without retries."""
    return client.with_options(max_retries=0)


async def test_a_message_and_its_tokens(gateway, client, engine):
    """The text is the engine's, and the record has what it counted; x-api-key names who asks."""
    message = await client.messages.create(**REQUEST)

    assert (TEXT, "max_tokens") == (message.content[0].text, message.stop_reason)
    [record] = await gateway.records(0, 5)
    assert ("coder", "messages", 8) == (
        record["application"],
        record["endpoint"],
        record["completion_tokens"],
    )
    assert 1 == (await engine.state())["requests"]
    assert ["fake"] == [model.id async for model in client.models.list()]


async def test_a_stream_and_its_tokens(gateway, client):
    """Every event arrives, and the end is known for one."""
    async with client.messages.stream(**REQUEST) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        message = await stream.get_final_message()

    assert (TEXT, 8) == (text, message.usage.output_tokens)
    [record] = await gateway.records(0, 5)
    assert ("ok", True, 8) == (record["outcome"], record["stream"], record["completion_tokens"])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_is_called(client, stream):
    """Its name and its arguments arrive whole, in one piece or in many."""
    if stream:
        async with client.messages.stream(**REQUEST, tools=[TOOL]) as running:
            message = await running.get_final_message()
    else:
        message = await client.messages.create(**REQUEST, tools=[TOOL])

    [block] = message.content
    assert ("tool_use", "tool_use") == (block.type, message.stop_reason)
    assert ("look_up", {"text": TEXT}) == (block.name, block.input)


async def test_tokens_are_counted_by_the_engine_or_not_at_all(once):
    """/v1/messages/count_tokens passes too; this engine has none and says so itself."""
    with pytest.raises(anthropic.NotFoundError) as caught:
        await once.messages.count_tokens(model="fake", messages=ASKED)

    assert "/v1/messages/count_tokens" == caught.value.body["path"]


async def test_a_hold_with_comments_is_only_a_wait(gateway, client, engine):
    """Comments are skipped, and the stream is the engine's from its first event to its last."""
    await gateway.route(None, gate="hold")
    asked = asyncio.create_task(_text(client))
    await gateway.becomes(held=1)
    await asyncio.sleep(0.6)  # three comments
    await gateway.route(engine)

    assert TEXT == await asked
    assert ["ok"] == await gateway.outcomes(1)


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"api_key": "wrong"}, {"auth_token": "wrong"}])
async def test_a_wrong_key_is_an_authentication_error(gateway, options):
    """In either header; the id of the request is where the client looks for it."""
    async with anthropic.AsyncAnthropic(base_url=gateway.url, max_retries=0, **options) as stranger:
        with pytest.raises(anthropic.AuthenticationError) as caught:
            await stranger.messages.create(**REQUEST)

    assert ("authentication_error", 401) == (caught.value.type, caught.value.status_code)
    assert caught.value.request_id == caught.value.response.headers["x-request-id"]


async def test_a_bearer_key_is_as_good(gateway):
    """`auth_token` goes into Authorization, as programs behind a gateway set it."""
    async with anthropic.AsyncAnthropic(base_url=gateway.url, auth_token=SECRET) as client:
        assert TEXT == (await client.messages.create(**REQUEST)).content[0].text
        assert ["fake"] == [model.id async for model in client.models.list()]


async def test_the_gateways_own_errors_are_typed(gateway, once):
    """Too large, held for too long: the exception that the client has for it, with its type."""
    large = {**REQUEST, "messages": [{"role": "user", "content": "x" * 1024 * 1024}]}
    with pytest.raises(anthropic.APIStatusError) as too_large:
        await once.messages.create(**large)
    await gateway.route(None, gate="hold")
    with pytest.raises(anthropic.APIStatusError) as held:
        await once.messages.create(**REQUEST)

    assert (413, "request_too_large") == (too_large.value.status_code, too_large.value.type)
    assert (503, "overloaded_error") == (held.value.status_code, held.value.type)
    assert "The engine was not ready in time." == held.value.api_message
    assert {"tunerd"} == {error.value.body["src"] for error in (too_large, held)}


async def test_errors_of_the_engine_pass_unmodified(once, engine):
    """Its status and its body, whatever their shape."""
    engine.script(fail={"kind": "status", "status": 400})
    with pytest.raises(anthropic.BadRequestError) as caught:
        await once.messages.create(**REQUEST)

    assert "the engine failed" == caught.value.body["error"]["message"]
    assert "src" not in caught.value.body


@pytest.mark.parametrize(
    ("kind", "shown", "outcome"),
    [
        ("truncate", "api_error", "truncated"),
        ("no_done", "api_error", "truncated"),
        ("hang", "timeout_error", "timeout"),
        ("error_event", "internal_error", "engine_error"),
    ],
)
async def test_a_stream_that_breaks_is_an_exception(gateway, once, engine, kind, shown, outcome):
    """200 was sent long ago: the event says what went wrong, and the client raises it."""
    engine.script(fail={"kind": kind, "after": 3})
    with pytest.raises(anthropic.APIStatusError) as caught:
        await _text(once)

    assert shown == caught.value.type
    assert [outcome] == await gateway.outcomes(1)


async def test_a_cut_stream_is_an_exception(gateway, once, engine):
    """A profile is switched and the drain is over: overloaded, so that programs ask again."""
    engine.script(token_delay_s=0.05)
    asked = asyncio.create_task(_text(once, max_tokens=10_000))
    await until(lambda: engine.runs(1))
    await asyncio.sleep(0.3)  # the stream has begun
    await gateway.ask("POST", "/cut")
    with pytest.raises(anthropic.APIStatusError) as caught:
        await asked

    assert "overloaded_error" == caught.value.type


async def test_a_hold_that_runs_out_within_a_stream_is_an_exception(gateway, once):
    """After the first comment there is no status left; the event has the type of a 503."""
    await gateway.route(None, gate="hold")
    with pytest.raises(anthropic.APIStatusError) as caught:
        await _text(once)

    assert (200, "overloaded_error") == (caught.value.status_code, caught.value.type)
    assert ["hold_timeout"] == await gateway.outcomes(1)


@pytest.mark.parametrize("kind", ["status", "reset"])
async def test_what_an_engine_refuses_after_comments_is_an_exception(gateway, once, engine, kind):
    """The engine's own message, or ours when it never answered."""
    await gateway.route(None, gate="hold")
    asked = asyncio.create_task(_text(once))
    await gateway.becomes(held=1)
    await asyncio.sleep(0.5)
    engine.script(fail={"kind": kind, "status": 400})
    await gateway.route(engine)
    with pytest.raises(anthropic.APIStatusError) as caught:
        await asked

    said = "the engine failed" if kind == "status" else "The engine went away"
    assert caught.value.api_message.startswith(said)


# -- retries and leaving --------------------------------------------------------------------------


async def test_a_retry_comes_when_the_gateway_said(gateway, client, engine):
    """Retry-After is honoured; by itself the client would wait half a second at most."""
    engine.script(fail={"kind": "reset", "times": 3})  # the limit of the gateway's own tries
    await gateway.route(engine, eta_s=2.0)
    begun = time.monotonic()
    message = await client.messages.create(**REQUEST)

    assert TEXT == message.content[0].text
    assert time.monotonic() - begun >= 1.0
    assert 4 == (await engine.state())["requests"]
    assert ["no_engine", "ok"] == await gateway.outcomes(2)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_its_message_at_the_engine(client, engine, stream):
    """Cancelling its task is all that a program does; the engine knows within a second."""
    engine.script(token_delay_s=0.02)
    more = {**REQUEST, "max_tokens": 10_000, "stream": stream}
    took_s, times = await leaves(
        engine, lambda: reading(lambda: client.messages.create(**more), stream=stream)
    )

    assert took_s < CANCEL_S
    assert times == (await engine.state())["cancelled"]


async def _text(client, **more):
    async with client.messages.stream(**{**REQUEST, **more}) as stream:
        return "".join([piece async for piece in stream.text_stream])
