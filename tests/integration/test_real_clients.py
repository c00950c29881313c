"""Official clients, a gateway process and a real vLLM: what each sends, the other understands."""

from types import SimpleNamespace

import anthropic
import openai
import pytest
from gateway_harness import Gateway, started

pytestmark = pytest.mark.vllm

ASKED = [{"role": "user", "content": "Tell me a story about a small robot."}]
REQUEST = {"model": "demo", "max_tokens": 128, "messages": ASKED}
GREEDY = {"extra_body": {"temperature": 0}}  # not among what Anthropic's client names


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    with started(Gateway(tmp_path_factory.mktemp("real") / "g")) as gateway:
        yield gateway


@pytest.fixture
async def gateway(process, engine_socket):
    """A gateway in front of a vLLM that drafts from the prompt."""
    where = {"socket": str(engine_socket.socket), "token": "real", "profile": "p"}
    await process.open()
    await process.route(SimpleNamespace(route=lambda **more: {**where, **more}))
    yield process
    await process.close()


@pytest.fixture
async def messages(gateway):
    """Anthropic's client."""
    async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key="x", max_retries=0) as made:
        yield made.messages


@pytest.fixture
async def chat(gateway):
    """OpenAI's client."""
    base_url = f"{gateway.url}/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key="x", max_retries=0) as made:
        yield made.chat.completions


async def test_a_message_is_the_same_as_a_stream_and_whole(gateway, messages):
    """Greedy text, by both ways of asking; the end of the stream is seen as one."""
    whole = await messages.create(**REQUEST, **GREEDY)
    async with messages.stream(**REQUEST, **GREEDY) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        last = await stream.get_final_message()

    assert whole.content[0].text == text
    assert whole.usage.output_tokens == last.usage.output_tokens > 0
    records = await gateway.records(0, 5)
    assert ["ok", "ok"] == await gateway.outcomes(2)
    assert whole.usage.output_tokens == records[0]["completion_tokens"]


async def test_a_chat_is_the_same_as_a_stream_and_whole(gateway, chat):
    """The same for OpenAI's."""
    whole = await chat.create(**REQUEST, **GREEDY)
    events = [event async for event in await chat.create(**REQUEST, **GREEDY, stream=True)]
    text = "".join(event.choices[0].delta.content or "" for event in events)

    assert whole.choices[0].message.content == text
    assert ["ok", "ok"] == await gateway.outcomes(2)


async def test_what_vllm_refuses_is_the_clients_own_exception(messages, chat):
    """More tokens than the model can: a 400 of vLLM's, which passes unmodified."""
    long = {**REQUEST, "max_tokens": 5000}
    with pytest.raises(anthropic.BadRequestError) as message:
        await messages.create(**long)
    with pytest.raises(openai.BadRequestError) as answer:
        await chat.create(**long)

    assert "src" not in message.value.body
    assert "max_tokens" in answer.value.message
