"""What the gateway sees of a request, and that nothing in one can hurt it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gateway.shape import CHAT, COMPLETIONS, PARSED_BYTES, inspect

JSON = "application/json; charset=utf-8"


def shape(endpoint=COMPLETIONS, **body):
    return inspect(endpoint, json.dumps(body).encode(), JSON).shape


@pytest.mark.parametrize(
    ("endpoint", "body", "wanted"),
    [
        (COMPLETIONS, {"prompt": "x" * 400}, "sampled.short-out"),  # vLLM's default of 16 tokens
        (COMPLETIONS, {"prompt": "x", "max_tokens": None}, "sampled.short-out"),
        (COMPLETIONS, {"prompt": "x", "max_tokens": 128, "temperature": 0}, "greedy.balanced"),
        (CHAT, {"messages": [], "temperature": "0"}, "greedy.long-out"),
        (CHAT, {"messages": [], "max_completion_tokens": 8}, "sampled.short-out"),
        (CHAT, {"messages": [{"content": "x" * 5000}]}, "sampled.long-in"),
        (CHAT, {"messages": [{"content": [{"text": "x" * 5000}]}]}, "sampled.long-in"),
        (COMPLETIONS, {"prompt": list(range(1024))}, "sampled.long-in"),
        (COMPLETIONS, {"prompt": [[1] * 600, [2] * 600]}, "sampled.long-in"),
        (CHAT, {"response_format": {"type": "json_object"}}, "structured.long-out"),
        (CHAT, {"response_format": {"type": "text"}}, "sampled.long-out"),
        (CHAT, {"tools": [{}]}, "structured.long-out"),
        (CHAT, {"tools": [{}], "tool_choice": "none"}, "sampled.long-out"),
        (CHAT, {"structured_outputs": {"json": {}}}, "structured.long-out"),
        ("responses", {"input": "x" * 5000, "max_output_tokens": 9}, "sampled.long-in"),
    ],
)
def test_the_class_follows_the_shape(endpoint, body, wanted):
    """Lengths, temperature and structure decide, with vLLM's defaults for what is absent."""
    raw = json.dumps(body).encode()

    assert wanted == str(inspect(endpoint, raw, JSON).request_class)


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        ({"min_p": 0.05}, True),
        ({"min_p": "0.05"}, True),
        ({"logit_bias": {"7": 1}}, True),
        ({"min_p": 0}, False),
        ({"min_p": 1e-6}, False),
        ({"min_p": None, "logit_bias": None}, False),
        ({"logit_bias": {}}, False),
        ({"logit_bias": "x", "min_p": []}, False),
        ({"prompt": '"min_p": 1'}, False),
    ],
)
@pytest.mark.parametrize("large", [False, True])
def test_what_vllm_refuses_while_it_speculates_is_seen(body, refused, large):
    """Also in a body that is too large to parse; text that only looks like it does not count."""
    if large and body.get("min_p") in ("0.05", 1e-6):
        return  # the scan of large bodies reads no numbers; a false alarm only costs waiting
    if large:
        body = {**body, "x": "y" * PARSED_BYTES}
    if large and body.get("min_p") == []:
        return

    assert refused == shape(**body).refuses_speculation


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"", "Expecting value"),
        (b'{"prompt": secret}', "Expecting value (line 1, column 12)"),
        (b"\xff\xfe\xfa", "UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "not valid JSON"),
        (b'"text"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
    ],
)
def test_what_is_not_a_json_object_gets_a_sentence_that_quotes_nothing(raw, sentence):
    """The sentence says where, never what."""
    problem = inspect(COMPLETIONS, raw, JSON).problem

    assert sentence in problem
    assert "secret" not in problem


@pytest.mark.parametrize(
    ("endpoint", "media"),
    [(COMPLETIONS, "text/plain"), (COMPLETIONS, ""), ("audio/transcriptions", JSON)],
)
def test_other_media_types_and_endpoints_are_the_engines_business(endpoint, media):
    """No judgement on what the gateway does not know."""
    assert inspect(endpoint, b"not json", media).problem is None


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
keys = st.sampled_from(
    [
        "prompt", "messages", "input", "max_tokens", "max_completion_tokens", "temperature",
        "min_p", "logit_bias", "tools", "tool_choice", "response_format", "stream", "x",
    ]
)  # fmt: skip


@given(st.sampled_from([COMPLETIONS, CHAT, "responses"]), st.dictionaries(keys, values))
def test_no_json_can_make_it_raise(endpoint, body):
    """Wrong types, NaN, infinities, surrogates: every object has a shape and a class."""
    seen = inspect(endpoint, json.dumps(body).encode(), JSON)

    assert seen.problem is None
    assert seen.shape.prompt_tokens >= 0
    assert str(seen.request_class)


@given(st.binary())
def test_no_bytes_can_make_it_raise(raw):
    """A body is any bytes."""
    assert inspect(COMPLETIONS, raw, JSON).shape.endpoint == COMPLETIONS
