"""The shape of an error is that of the API that the client speaks."""

import json

import pytest

from service.gateway import envelopes, errors
from service.gateway.envelopes import Dialect

ANTHROPIC = Dialect.ANTHROPIC


@pytest.mark.parametrize(
    ("endpoint", "dialect"),
    [
        ("messages", ANTHROPIC),
        ("messages/count_tokens", ANTHROPIC),
        ("messages/batches", Dialect.OPENAI),
        ("chat/completions", Dialect.OPENAI),
        (None, Dialect.OPENAI),
    ],
)
def test_anthropics_endpoints_speak_its_dialect(endpoint, dialect):
    """What is not Anthropic's, and what is not served at all, is answered as OpenAI does."""
    assert dialect is Dialect.of(endpoint)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.BadRequestError("No."), "invalid_request_error"),
        (errors.UnauthorizedError(), "authentication_error"),
        (errors.ManyWrongKeysError(retry_after_s=3), "rate_limit_error"),
        (errors.UnknownPathError(), "not_found_error"),
        (errors.MethodError(), "invalid_request_error"),
        (errors.TooLargeError(), "request_too_large"),
        (errors.BodyTimeoutError(), "invalid_request_error"),
        (errors.HoldTimeoutError(), "overloaded_error"),
        (errors.NoEngineError(), "api_error"),
        (errors.EngineTimeoutError(), "timeout_error"),
        (errors.DefectError(), "api_error"),
    ],
)
def test_every_error_has_a_type_that_anthropics_clients_know(error, kind):
    """The same sentence, in the other envelope, with the mark of who made it."""
    found = json.loads(error.body(ANTHROPIC))

    assert {
        "type": "error",
        "error": {"type": kind, "message": error.sentence()},
        "src": "tunerd",
    } == found


@pytest.mark.parametrize(
    ("kind", "shown"),
    [("cut", "overloaded_error"), ("timeout", "timeout_error"), ("truncated", "api_error")],
)
def test_an_error_within_a_stream_is_an_event_with_a_name(kind, shown):
    """Anthropic's clients skip events without a name; OpenAI's have none."""
    said = envelopes.event("Broken.", kind=kind, code=502, dialect=ANTHROPIC)
    before, name, data, *after = said.split(b"\n")[1:]

    assert (b"", b"event: error", [b"", b""]) == (before, name, after)
    assert {"type": shown, "message": "Broken."} == json.loads(data[5:])["error"]


@pytest.mark.parametrize("body", [{"error": {"type": "t", "message": "m"}}, {"type": "error"}])
def test_an_engines_refusal_is_quoted_in_the_dialect(body):
    """Its own error object, whatever envelope it had; without one a sentence of ours."""
    body["type"] = "error"
    said = envelopes.engine_event(400, json.dumps(body).encode(), ANTHROPIC)
    data = json.loads(said.partition(b"data: ")[2])

    assert said.startswith(b"\n\nevent: error\n")
    assert "error" == data["type"]
    assert body.get("error", {"type": "invalid_request_error"}).items() <= data["error"].items()
