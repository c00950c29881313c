"""P: the end of an answer: was it complete, was it an error, how many tokens."""

import json
import re
from dataclasses import dataclass

TAIL_BYTES = 8 * 1024  # the usage chunk, an error event and [DONE] fit many times
BLANK_LINES = (b"\n\n", b"\r\n\r\n", b"\r\r")

# a line cannot begin within a JSON string, so these are events, not generated text
_DONE = re.compile(rb"(?:^|[\r\n])data:[ \t]*\[DONE\]\s*\Z")
_STOP = re.compile(
    rb'(?:^|[\r\n])data:[ \t]*\{\s*"type"\s*:\s*"(?:message_stop|error)"[^\r\n]*\s*\Z'
)
_ERROR = re.compile(rb'(?:^|[\r\n])data:[ \t]*\{\s*"(?:error"\s*:(?!\s*null)|type"\s*:\s*"error")')
# what a whole stream of an endpoint ends with; Anthropic's API ends one with an error as well
LAST_EVENTS = {"completions": _DONE, "chat/completions": _DONE, "messages": _STOP}
_USAGE = b'"usage"'
_decoder = json.JSONDecoder()


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens as the engine counted them."""

    prompt_tokens: int | None
    completion_tokens: int | None


class Tail:
    """The last bytes of an answer, at a cost that does not grow with its chunks."""

    def __init__(self, size: int = TAIL_BYTES) -> None:
        self._size = size
        self._chunks: list[bytes] = []
        self._held = 0

    def feed(self, chunk: bytes) -> None:
        """Add what was just relayed."""
        self._chunks.append(chunk[-self._size :])
        self._held += len(self._chunks[-1])
        if self._held > 4 * self._size:
            self._chunks = [self.bytes()]
            self._held = len(self._chunks[0])

    def bytes(self) -> bytes:
        """At most the last `size` bytes."""
        return b"".join(self._chunks)[-self._size :]


def ended(endpoint: str, tail: bytes) -> bool:
    """Whether a stream of one of `LAST_EVENTS` ended with its last event."""
    return LAST_EVENTS[endpoint].search(tail) is not None


def error(tail: bytes) -> bool:
    """Whether an event of a stream is an error; vLLM sends [DONE] after it all the same."""
    return _ERROR.search(tail) is not None


def usage(tail: bytes) -> Usage | None:
    """The last usage object of a JSON answer or of a stream that included it."""
    end = len(tail)
    while (start := tail.rfind(_USAGE, 0, end)) >= 0:
        end = start
        colon = re.match(rb"\s*:\s*(?=\{)", tail[start + len(_USAGE) :])
        if colon is None:
            continue  # null in all chunks but the last
        text = tail[start + len(_USAGE) + colon.end() :].decode("utf-8", "replace")
        try:
            counted, _ = _decoder.raw_decode(text)
        except (ValueError, RecursionError):
            continue
        return Usage(
            prompt_tokens=_tokens(counted, "prompt_tokens", "input_tokens"),
            completion_tokens=_tokens(counted, "completion_tokens", "output_tokens"),
        )
    return None


def _tokens(counted: dict[str, object], *names: str) -> int | None:
    for name in names:
        value = counted.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None
