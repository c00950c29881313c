"""How a soak judges what came back."""

import json

import pytest
from soaking import answers
from soaking.answers import Stream
from soaking.history import DOUBLED, MALFORMED, WHOLE, WRONG

TEXT = " one two three"


def event(text):
    """A chunk of a completion."""
    return f"data: {json.dumps({'choices': [{'text': text}]})}\n\n".encode()


ERROR = b'\n\ndata: {"error": {"message": "m", "type": "t"}}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("parts", "complete", "outcome"),
    [
        ([event(" one two"), event(" three"), DONE], True, WHOLE),
        ([event(" one two"), ERROR], False, "cut"),
        ([event(" one two"), ERROR, DONE], True, "cut"),  # an engine that was asked to stop
        ([b'data: {"choi', ERROR], False, "cut"),  # an engine that died within an event
        ([event(" one two")], False, "broken"),
        ([], False, "broken"),
        ([event(" one two"), DONE], True, WRONG),  # truncated, and it looks whole
        ([event(TEXT)], True, WRONG),  # ends in order, but not with [DONE]
        ([event(" two one"), ERROR], False, WRONG),
        ([event(TEXT), event(" four"), DONE], True, WRONG),
        ([b"data: {broken\n\n", event(TEXT), DONE], True, WRONG),
        ([event(TEXT), DONE, DONE], True, DOUBLED),
        ([event(" one"), ERROR, ERROR], False, DOUBLED),
        ([event(" one"), ERROR, event(" two three"), DONE], True, DOUBLED),
        ([event(TEXT), DONE, event(" more")], True, DOUBLED),
    ],
)
def test_a_stream_has_one_right_end(parts, complete, outcome):
    """Whole, cut with a word, or broken; everything else is a violation, however it is split."""
    raw = b"".join(parts)
    for size in (1, 7, len(raw) or 1):
        stream = Stream()
        for at in range(0, len(raw), size):
            stream.feed(raw[at : at + size])

        assert outcome == stream.outcome(TEXT, complete=complete)[0]


def test_without_an_expected_text_the_form_counts():
    """A real model's text is not known beforehand."""
    stream = Stream()
    stream.feed(event("whatever") + DONE)

    assert WHOLE == stream.outcome(None, complete=True)[0]


RIGHT = json.dumps({"choices": [{"message": {"content": TEXT}}]}).encode()
REFUSAL = json.dumps({"error": {"message": "m", "type": "t", "code": 503}}).encode()


@pytest.mark.parametrize(
    ("status", "headers", "body", "outcome"),
    [
        (200, {}, RIGHT, WHOLE),
        (200, {}, RIGHT.replace(b"two", b"2"), WRONG),
        (200, {}, b"", WRONG),
        (503, {"Retry-After": "5"}, REFUSAL, "refused"),
        (502, {}, REFUSAL, "refused"),
        (503, {}, REFUSAL, MALFORMED),
        (503, {"Retry-After": "61"}, REFUSAL, MALFORMED),  # SDKs do not heed it
        (503, {"Retry-After": "soon"}, REFUSAL, MALFORMED),
        (500, {}, b"Internal Server Error", MALFORMED),
        (500, {}, b'{"error": "text"}', MALFORMED),
        (500, {}, b"[]", MALFORMED),
    ],
)
def test_a_plain_answer_is_right_or_an_error_of_openais_shape(status, headers, body, outcome):
    """A 503 also says when to come again."""
    assert outcome == answers.plain(status, headers, body, TEXT)[0]
