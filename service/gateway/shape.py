"""P: what a request asks for, read from its bytes; never raises, keeps no text."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from profiles.classes import BYTES_PER_TOKEN, RequestClass, RequestShape, request_class

COMPLETIONS = "completions"
CHAT = "chat/completions"
# requests that draw tokens from the engine: these have a class and a record
GENERATION = frozenset({COMPLETIONS, CHAT, "responses", "messages"})
JSON_ENDPOINTS = GENERATION | {"embeddings"}
SAMPLED = frozenset({COMPLETIONS, CHAT})  # what a measurement can replay

# parsing holds the loop, and so every token stream: 6 ms for 1 MiB of token ids (worst case)
PARSED_BYTES = 2 * 1024 * 1024
COMPLETIONS_DEFAULT_TOKENS = 16  # vLLM's, openai/completion/protocol.py
MIN_P_EPSILON = 1e-5  # vLLM's, sampling_params.py

_STRUCTURED_KEYS = ("structured_outputs", "guided_json", "guided_regex", "guided_choice")
# in a JSON string the quotes would be escaped, so these are keys (or, harmlessly, whole values)
_PLAIN_KEYS = re.compile(rb'"(?:min_p"\s*:\s*+(?!null|0[,}\s])|logit_bias"\s*:\s*\{\s*")')


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was seen of one request."""

    shape: RequestShape
    problem: str | None = None  # a sentence; the engine would refuse this request too

    @property
    def request_class(self) -> RequestClass:
        """The class of the request, by its shape alone."""
        return request_class(self.shape)


def inspect(endpoint: str, body: bytes, content_type: str) -> Inspection:
    """Shape and problem of a request body; other media types are the engine's business."""
    media = content_type.partition(";")[0].strip().lower()
    by_size = unread(endpoint, len(body))
    if endpoint not in JSON_ENDPOINTS or not media.endswith(("/json", "+json")):
        return Inspection(shape=by_size)
    if len(body) > PARSED_BYTES:
        plain = _PLAIN_KEYS.search(body) is not None
        return Inspection(shape=replace(by_size, refuses_speculation=plain))
    parsed, problem = _parse(body)
    if parsed is None:
        return Inspection(shape=by_size, problem=problem)
    return Inspection(shape=_shape(endpoint, parsed, len(body)))


def _parse(body: bytes) -> tuple[dict[str, Any] | None, str]:
    """The JSON object in a body, or a sentence that quotes nothing of it."""
    try:
        parsed = json.loads(body)
    except RecursionError:
        return None, "The request body is nested too deeply."
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        return None, f"The request body is not valid JSON: {error.msg} ({where})."
    except UnicodeDecodeError:
        return None, "The request body is not UTF-8 text."
    except ValueError:  # an integer of more than 4300 digits
        return None, "The request body is not valid JSON."
    if not isinstance(parsed, dict):
        return None, "The request body must be a JSON object."
    return parsed, ""


def unread(endpoint: str, size: int) -> RequestShape:
    """The shape of a request of which only the size in bytes is known."""
    return RequestShape(
        endpoint=endpoint,
        prompt_tokens=size // BYTES_PER_TOKEN,
        max_tokens=None,
        temperature=1.0,
        structured=False,
        stream=False,
    )


def _shape(endpoint: str, body: Mapping[str, Any], size: int) -> RequestShape:
    text = body.get("prompt") if endpoint == COMPLETIONS else body.get("messages")
    counted = _prompt_tokens(text) if text is not None else _prompt_tokens(body.get("input"))
    temperature = _number(body.get("temperature"))
    return RequestShape(
        endpoint=endpoint,
        prompt_tokens=counted if counted is not None else size // BYTES_PER_TOKEN,
        max_tokens=_max_tokens(endpoint, body),
        temperature=1.0 if temperature is None else temperature,
        structured=_structured(body),
        stream=body.get("stream") is True,
        refuses_speculation=_refuses_speculation(body),
    )


def _number(value: object) -> float | None:
    """A finite number; pydantic also takes one in a string, so do we."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _max_tokens(endpoint: str, body: Mapping[str, Any]) -> int | None:
    for key in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        number = _number(body.get(key))
        if number is not None:
            return max(int(number), 0)
    return COMPLETIONS_DEFAULT_TOKENS if endpoint == COMPLETIONS else None


def _structured(body: Mapping[str, Any]) -> bool:
    form = body.get("response_format")
    if isinstance(form, dict) and form.get("type") not in {None, "text"}:
        return True
    if body.get("tools") and body.get("tool_choice") != "none":
        return True
    return any(body.get(key) for key in _STRUCTURED_KEYS)


def _refuses_speculation(body: Mapping[str, Any]) -> bool:
    min_p = _number(body.get("min_p"))
    bias = body.get("logit_bias")
    return (min_p is not None and min_p > MIN_P_EPSILON) or (isinstance(bias, dict) and bool(bias))


def _prompt_tokens(value: object) -> int | None:
    """Tokens of a prompt, a list of prompts, token ids or chat messages; None: no idea."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN
    if not isinstance(value, list):
        return None
    if value and all(type(item) is int for item in value):
        return len(value)
    total = 0
    for item in value:
        text = item
        if isinstance(item, dict):
            text = item.get("text", item.get("content"))
        total += _nested_tokens(text)
    return total


def _nested_tokens(value: object) -> int:
    """Tokens of one message, part or prompt; what is not text counts as nothing."""
    if isinstance(value, list):
        if value and all(type(item) is int for item in value):
            return len(value)
        texts = [item.get("text") for item in value if isinstance(item, dict)]
        return sum(_prompt_tokens(text) or 0 for text in texts if isinstance(text, str))
    return _prompt_tokens(value) or 0 if isinstance(value, str) else 0
