"""P: which paths and headers pass, in both directions."""

import re
from collections.abc import Iterable

Pairs = list[tuple[str, str]]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
DEFAULT_APPLICATION = "default"
IDENTITY = "identity"  # the encoding that is none

# RFC 9110 section 7.6.1, and its predecessors' additions
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# a client's key is for us: no engine needs one, and its logs must not have it
AUTHORIZATION = "authorization"
X_API_KEY = "x-api-key"
# ours to set: framing is rebuilt, and a client must not tell the engine who its peer is
_NOT_FORWARDED = frozenset(
    {"host", "content-length", "expect", "forwarded", "x-request-id", AUTHORIZATION, X_API_KEY}
)
_FORWARDED_PREFIX = "x-forwarded-"

# no escapes, no empty segment: nothing that the engine could read as another path
_TARGET = re.compile(r"/v1((?:/[A-Za-z0-9._~:@-]+)+)(?:\?[!\"$-~]*)?")
_REQUEST_ID = re.compile(r"[!-~]{1,256}")


def endpoint(target: str) -> str | None:
    """What follows `/v1/` in a request target, None when the target is not served."""
    match = _TARGET.fullmatch(target)
    if match is None:
        return None
    path = match[1][1:]
    return None if {".", ".."} & set(path.split("/")) else path


def application(value: str | None) -> str:
    """The name in the application header, made harmless."""
    if value is None or not value.strip():
        return DEFAULT_APPLICATION
    return re.sub(r"[^\w.-]", "_", value.strip(), flags=re.ASCII)[:64]


def request_id(value: str | None) -> str | None:
    """A client's own request id if it can be forwarded."""
    return value if value is not None and _REQUEST_ID.fullmatch(value) else None


def for_engine(pairs: Iterable[tuple[str, str]]) -> Pairs:
    """The request headers that the engine gets; Content-Length and the id are added later."""
    return [
        (name, value)
        for name, value in _end_to_end(pairs)
        if name.lower() not in _NOT_FORWARDED and not name.lower().startswith(_FORWARDED_PREFIX)
    ]


def for_client(pairs: Iterable[tuple[str, str]]) -> Pairs:
    """The response headers that the client gets."""
    return _end_to_end(pairs)


def _end_to_end(pairs: Iterable[tuple[str, str]]) -> Pairs:
    listed = list(pairs)
    named = {
        token.strip().lower()
        for name, value in listed
        if name.lower() == "connection"
        for token in value.split(",")
    }
    # framing is ours, whatever Connection says
    dropped = _HOP_BY_HOP | (named - {"content-length", "content-type"})
    return [(name, value) for name, value in listed if name.lower() not in dropped]
