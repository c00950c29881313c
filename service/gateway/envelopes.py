"""P: the shapes in which errors reach a client: OpenAI's, or Anthropic's on its own endpoints."""

import enum
import json
from typing import Any

_ANTHROPIC_ENDPOINTS = frozenset({"messages", "messages/count_tokens"})
# platform.claude.com/docs/en/api/errors; by our kinds first, for a late error has no status
_ANTHROPIC_KINDS = {
    "service_unavailable": "overloaded_error",
    "cut": "overloaded_error",
    "timeout": "timeout_error",
    "timeout_error": "timeout_error",
    "authentication_error": "authentication_error",
    "not_found_error": "not_found_error",
    "rate_limit_error": "rate_limit_error",
}
_TOO_LARGE = "request_too_large"


class Dialect(enum.Enum):
    """Whose API a request speaks."""

    OPENAI = "openai"  # everything that is not the other
    ANTHROPIC = "anthropic"

    @classmethod
    def of(cls, endpoint: str | None) -> "Dialect":
        """The one of an endpoint below /v1/; None is a path that is not served."""
        return cls.ANTHROPIC if endpoint in _ANTHROPIC_ENDPOINTS else cls.OPENAI


def envelope(message: str, *, kind: str, code: int, dialect: Dialect = Dialect.OPENAI) -> bytes:
    """The error object of an API, naming us as the component that made it."""
    error: dict[str, Any]
    if dialect is Dialect.ANTHROPIC:
        error = {"type": "error", "error": {"type": _anthropic(kind, code), "message": message}}
    else:
        error = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return json.dumps({**error, "src": "tunerd"}).encode()


def event(message: str, *, kind: str, code: int, dialect: Dialect = Dialect.OPENAI) -> bytes:
    """The same as a server-sent event: all that is left once 200 has been sent.

    It starts with a blank line, because the engine may have died within an event.
    """
    return _event(envelope(message, kind=kind, code=code, dialect=dialect), dialect)


def engine_event(status: int, body: bytes, dialect: Dialect = Dialect.OPENAI) -> bytes:
    """An engine's refusal as a server-sent event: its own error, or a sentence of ours."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict) and isinstance(said.get("error"), dict):
        shown: dict[str, Any] = {"error": said["error"]}
        if dialect is Dialect.ANTHROPIC:
            shown = {"type": "error", **shown}
        return _event(json.dumps(shown).encode(), dialect)  # on one line
    sentence = f"The engine answered {status} and no event stream."
    return event(sentence, kind="engine_error", code=status, dialect=dialect)


def _anthropic(kind: str, code: int) -> str:
    if code == 413:
        return _TOO_LARGE
    return _ANTHROPIC_KINDS.get(kind, "invalid_request_error" if code < 500 else "api_error")


def _event(data: bytes, dialect: Dialect) -> bytes:
    # Anthropic's clients look at the event's name and skip what has none
    name = b"event: error\n" if dialect is Dialect.ANTHROPIC else b""
    return b"\n\n" + name + b"data: " + data + b"\n\n"
