"""The end of an answer, however it was cut into chunks."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gateway import sse

USAGE = {"prompt_tokens": 5, "total_tokens": 12, "completion_tokens": 7}


@pytest.mark.parametrize(
    ("tail", "done"),
    [
        (b"data: {}\n\ndata: [DONE]\n\n", True),
        (b"data: {}\r\n\r\ndata: [DONE]\r\n\r\n", True),
        (b"data:[DONE]", True),
        (b'data: {"text": "data: [DONE]"}\n\n', False),
        (b"data: [DONE]\n\ndata: {}\n\n", False),
        (b"data: [DO", False),
        (b"", False),
    ],
)
def test_only_done_at_the_end_is_done(tail, done):
    """The word within a text or before more events is not an end."""
    assert done == sse.ended("completions", tail)
    assert done == sse.ended("chat/completions", tail)


STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{}}\n\n'


@pytest.mark.parametrize(
    ("tail", "ended"),
    [
        (DELTA + STOP, True),
        (DELTA + STOP.replace(b"\n", b"\r\n"), True),
        (b'data:{ "type" : "message_stop" }', True),
        (b'event: error\ndata: {"type":"error","error":{"message":"x"}}\n\n', True),
        (STOP + DELTA, False),
        (DELTA, False),
        (json.dumps({"text": 'data: {"type":"message_stop"}'}).encode(), False),
        (b'data: {"type":"message_st', False),
        (b"data: [DONE]\n\n", False),
        (b"", False),
    ],
)
def test_messages_end_with_their_own_last_event(tail, ended):
    """Anthropic's streams know no [DONE]; an error ends one as well."""
    assert ended == sse.ended("messages", tail)


@pytest.mark.parametrize(
    ("tail", "error"),
    [
        (b'data: {"error": {"code": 500}}\n\ndata: [DONE]\n\n', True),
        (b'data: {}\r\n\r\ndata:{ "error":{}}\r\n\r\n', True),
        (b'event: error\ndata: {"type":"error","error":{"message":"x"}}\n\n', True),
        (b'data: {"type":"message_stop"}\n\n', False),
        (b'data: {"id": 1, "error": null}\n\n', False),
        (b'data: {"error": null}\n\n', False),
        (json.dumps({"text": 'data: {"error": 1}'}).encode(), False),
    ],
)
def test_error_events_are_seen_and_text_about_them_is_not(tail, error):
    """VLLM's abort is a 200 with an error event and [DONE]."""
    assert error == sse.error(tail)


@pytest.mark.parametrize(
    "tail",
    [
        json.dumps({"choices": [{"text": '"usage": {"completion_tokens": 99}'}], "usage": USAGE}),
        f'data: {{"usage": null}}\n\ndata: {json.dumps({"usage": USAGE})}\n\ndata: [DONE]\n\n',
        f'ut off"}}], "usage":{json.dumps(USAGE)}, "prompt_logprobs": null}}',
        json.dumps({"usage": USAGE, "metrics": {"usage": None}}),
        json.dumps({"usage": {"input_tokens": 5, "output_tokens": 7}}),
    ],
)
def test_tokens_are_those_that_the_engine_counted(tail):
    """From the last usage object, not from anything that generated text says."""
    assert sse.Usage(prompt_tokens=5, completion_tokens=7) == sse.usage(tail.encode())


@pytest.mark.parametrize(
    ("tail", "found"),
    [
        (b"", None),
        (b'{"usage": null}', None),
        (b'{"usage": {"completion_to', None),
        (b'{"usage": 5}', None),
        (b'"usage": {}', sse.Usage(prompt_tokens=None, completion_tokens=None)),
        (
            b'"usage": {"prompt_tokens": -1, "completion_tokens": true}',
            sse.Usage(prompt_tokens=None, completion_tokens=None),
        ),
    ],
)
def test_missing_or_broken_usage_is_none(tail, found):
    """Nothing is guessed."""
    assert found == sse.usage(tail)


@given(st.lists(st.binary(max_size=40)), st.integers(1, 64))
def test_the_tail_is_the_end_of_everything_fed(chunks, size):
    """However the answer was cut, and never more than asked for."""
    tail = sse.Tail(size)
    for chunk in chunks:
        tail.feed(chunk)

    assert b"".join(chunks)[-size:] == tail.bytes()


def test_the_tail_of_a_long_stream_stays_small():
    """A million chunks cost what one costs."""
    tail = sse.Tail(100)
    for _ in range(10_000):
        tail.feed(b"x" * 10)

    assert tail._held <= 400 + 10


@given(st.binary(max_size=300))
def test_no_tail_can_make_it_raise(tail):
    """An engine may send anything."""
    sse.usage(b'"usage": {' + tail)
    sse.error(tail)
    assert sse.ended("completions", tail + b"\ndata: [DONE]\n\n")
