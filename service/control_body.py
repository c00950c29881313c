"""What is in the body of a question to the control API."""

import json
from typing import Any

from aiohttp import web

from profiles.errors import InvalidKnobsError

LONGEST = 256  # characters of a name: it goes into status, history and log


async def body_of(request: web.Request) -> dict[str, Any]:
    """The object of a request.

    Raises:
        InvalidKnobsError: it is none.
    """
    try:
        body = json.loads(await request.read() or b"{}")
    except ValueError as error:
        raise InvalidKnobsError("The body is not JSON.") from error
    if not isinstance(body, dict):
        raise InvalidKnobsError("The body is not a JSON object.")
    return body


def text_of(body: dict[str, Any], key: str) -> str:
    """A text that has to be there.

    Raises:
        InvalidKnobsError: it is not, or empty, or too long, or something else.
    """
    value = body.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST:
        raise InvalidKnobsError(f'"{key}" must be a text of at most {LONGEST} characters.')
    return value
