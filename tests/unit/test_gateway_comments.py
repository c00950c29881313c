"""The words of the gateway in an event stream that it opened itself."""

import asyncio
import json
from types import SimpleNamespace

import pytest

from service.gateway import envelopes, errors
from service.gateway.comments import Comments, comment, continues


@pytest.mark.parametrize(
    ("left_s", "text"),
    [
        (37.2, b": tuner is switching the profile, about 38 s left\n\n"),
        (0.1, b": tuner is switching the profile, about 1 s left\n\n"),
        (None, b": tuner holds this request until the engine is ready\n\n"),
    ],
)
def test_a_comment_names_the_time_that_is_left_if_known(left_s, text):
    """Whole seconds, rounded up; a comment of an event stream, which ends with a blank line."""
    assert text == comment(left_s)


@pytest.mark.parametrize(
    ("status", "media", "encoding", "follows"),
    [
        (200, "text/event-stream", None, True),
        (200, "text/event-stream", "Identity", True),
        (200, "text/event-stream", "gzip", False),
        (200, "application/json", None, False),
        (400, "text/event-stream", None, False),
        (204, "text/event-stream", None, False),
    ],
)
def test_only_events_as_they_are_follow_comments(status, media, encoding, follows):
    """The head has been sent: nothing else can be announced any more."""
    fields = {} if encoding is None else {"Content-Encoding": encoding}
    upstream = SimpleNamespace(status=status, content_type=media, headers=fields)

    assert follows == continues(upstream)


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"error": "x"}', b"\xff", b"[" * 10**5])
def test_an_engine_without_an_error_object_gets_a_sentence(body):
    """A proxy's page or half a body is not passed on, only the status."""
    line = envelopes.engine_event(502, body).strip()

    assert line.startswith(b"data: {")
    assert {
        "error": {
            "message": "The engine answered 502 and no event stream.",
            "type": "engine_error",
            "param": None,
            "code": 502,
        },
        "src": "tunerd",
    } == json.loads(line[5:])


def test_an_engines_error_is_quoted_on_one_line():
    """A line break within an event would end its data."""
    error = {"message": "two\nlines", "type": "BadRequestError", "param": None, "code": 400}
    body = json.dumps({"error": error}, indent=2).encode()
    line = envelopes.engine_event(400, body).strip()

    assert 0 == line.count(b"\n")
    assert {"error": error} == json.loads(line[5:])


async def test_a_client_that_takes_no_comment_counts_as_gone():
    """After the write timeout its place is free, however long the hold would have lasted."""

    class Stuck:
        async def write(self, data):
            await asyncio.Event().wait()

    call = SimpleNamespace(
        generates=True,
        inspection=SimpleNamespace(shape=SimpleNamespace(stream=True)),
        awake=asyncio.Event(),
        opened=Stuck(),
        request=SimpleNamespace(protocol=SimpleNamespace(writing_paused=False)),
    )
    comments = Comments(router=SimpleNamespace(left_s=None), every_s=0.01, write_s=0.01)

    with pytest.raises(errors.ClientGoneError):
        await asyncio.wait_for(comments.wait(call), 30)
