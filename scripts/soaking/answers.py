"""What came back, judged: a stream or a plain answer beside the text that it should have."""

import json
from collections.abc import Mapping
from typing import Any

from soaking.faults import BROKEN, CUT, REFUSED
from soaking.history import DOUBLED, MALFORMED, WHOLE, WRONG

MAX_RETRY_S = 60  # beyond it SDKs ignore Retry-After


class Stream:
    """The events of one stream, as they come."""

    def __init__(self) -> None:
        self.text = ""
        self.done = self.errors = 0
        self.late = False  # content after an end
        self.torn = False  # the last event is no JSON
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take bytes in."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip())

    def _event(self, data: bytes) -> None:
        if data == b"[DONE]":
            self.done += 1
            return
        try:
            event = json.loads(data)
        except ValueError:
            self.torn = True
            return
        if "error" in event:
            # an engine may die within an event: then that one is torn, and this one says so
            self.errors, self.torn = self.errors + 1, False
            return
        text = text_of(event)
        self.late = self.late or (bool(text) and bool(self.done or self.errors))
        self.text += text

    def outcome(self, expected: str | None, *, complete: bool) -> tuple[str, str]:
        """How it ended, and a note; `complete` says that HTTP ended it in order.

        Without an expected text only the form is judged.
        """
        if self.done > 1 or self.errors > 1 or self.late:
            return DOUBLED, f"{self.done} times [DONE], {self.errors} errors, late={self.late}"
        if expected is not None and not expected.startswith(self.text):
            return WRONG, f"{len(self.text)} characters that differ"
        if self.errors:
            return CUT, ""
        if not complete:
            return BROKEN, f"after {len(self.text)} characters"
        if self.torn or not self.done or (expected is not None and self.text != expected):
            return WRONG, f"it looks complete after {len(self.text)} characters"
        return WHOLE, ""


def plain(
    status: int, headers: Mapping[str, str], body: bytes, expected: str | None
) -> tuple[str, str]:
    """How a plain answer, or an error, is to be judged."""
    try:
        found = json.loads(body)
    except ValueError:
        return (WRONG if status < 400 else MALFORMED), "no JSON"
    if status >= 400:
        return _refusal(status, headers, found)
    text = text_of(found)
    if expected is not None and text != expected:
        return WRONG, f"{len(text)} characters that differ"
    return WHOLE, ""


def _refusal(status: int, headers: Mapping[str, str], found: Any) -> tuple[str, str]:
    error = found.get("error") if isinstance(found, dict) else None
    if not isinstance(error, dict) or not all(
        isinstance(error.get(key), str) for key in ("message", "type")
    ):
        return MALFORMED, "no error of OpenAI's shape"
    if status == 503 and retry_after_s(headers) is None:
        return MALFORMED, "503 without a Retry-After that SDKs honour"
    return REFUSED, error["message"][:80]


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """What an SDK waits for; None when it would not heed it."""
    text = headers.get("Retry-After", "")
    return float(text) if text.isdecimal() and 0 < int(text) <= MAX_RETRY_S else None


def text_of(event: Any) -> str:
    """The text that a completion, or a chunk of one, carries."""
    found = ""
    for choice in event.get("choices") or []:
        part = choice.get("delta") or choice.get("message") or {}
        found += choice.get("text") or part.get("content") or ""
    return found
