"""P: the gateway's own answers: which status, what they say, and when to try again."""

import math
from typing import ClassVar

from profiles.errors import TunerError
from service.gateway import envelopes
from service.gateway.envelopes import Dialect

DEFAULT_RETRY_S = 5.0  # when nobody has said how long the engine will take
# OpenAI's and Anthropic's SDKs honour Retry-After only up to 60 s, else they back off themselves
MAX_RETRY_S = 60.0


class ClientGoneError(Exception):
    """The client's connection broke: there is nobody to answer."""


class ApiError(TunerError):
    """The gateway answers this request itself."""

    outcome: ClassVar[str] = "bad_request"
    kind: ClassVar[str] = "invalid_request_error"  # the `type` of OpenAI's envelope
    close: ClassVar[bool] = False  # whether the connection is of no further use
    retry_after_s: float | None = None

    def body(self, dialect: Dialect = Dialect.OPENAI) -> bytes:
        """The envelope as JSON."""
        return envelopes.envelope(
            self.sentence(), kind=self.kind, code=self.http_status, dialect=dialect
        )

    def event(self, dialect: Dialect = Dialect.OPENAI) -> bytes:
        """The envelope as a server-sent event."""
        return envelopes.event(
            self.sentence(), kind=self.kind, code=self.http_status, dialect=dialect
        )

    def headers(self) -> dict[str, str]:
        """Headers that tell the SDKs whether and when to try again."""
        if self.retry_after_s is None:
            return {}
        wait_s = retry_after(self.retry_after_s)
        return {
            "Retry-After": str(wait_s),
            "retry-after-ms": str(wait_s * 1000),
            "x-should-retry": "true",
        }


class BadRequestError(ApiError):
    """The request is malformed."""

    http_status = 400


class UnauthorizedError(ApiError):
    """This needs a key: there is none in the request, or one that is not valid."""

    hint = "Send `Authorization: Bearer KEY`; `tuner keys add NAME` makes one."
    http_status = 401
    kind = "authentication_error"
    close = True

    def headers(self) -> dict[str, str]:
        """How to come in."""
        return {**super().headers(), "WWW-Authenticate": "Bearer"}


class ManyWrongKeysError(ApiError):
    """Too many requests without a valid key came from this address."""

    hint = "Send `Authorization: Bearer KEY` with a valid key: that is answered at any time."
    http_status = 429
    kind = "rate_limit_error"
    close = True

    def __init__(self, *, retry_after_s: float) -> None:
        super().__init__()
        self.retry_after_s = retry_after_s

    def headers(self) -> dict[str, str]:
        """When to come back; the same key again would be as wrong as before."""
        return {**super().headers(), "x-should-retry": "false"}


class UnknownPathError(ApiError):
    """There is no such endpoint here."""

    hint = "Only paths below /v1/ are served, and /health."
    http_status = 404
    kind = "not_found_error"


class MethodError(ApiError):
    """This method is not forwarded."""

    http_status = 405


class TooLargeError(ApiError):
    """The request body is too large."""

    http_status = 413
    close = True


class HeadTimeoutError(ApiError):
    """The headers of a request did not arrive in time."""

    http_status = 408
    close = True


class BodyTimeoutError(ApiError):
    """The request body did not arrive in time."""

    hint = "Send it faster, or raise gateway.body_timeout_s."
    http_status = 408
    close = True


class WebSocketError(ApiError):
    """WebSocket connections are not forwarded."""

    http_status = 501


class RetryError(ApiError):
    """The engine cannot take this request now."""

    http_status = 503
    kind = "service_unavailable"
    retryable = True

    def __init__(self, message: str | None = None, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = DEFAULT_RETRY_S if retry_after_s is None else retry_after_s


class HoldFullError(RetryError):
    """The engine is being replaced and too many requests are waiting for it."""

    outcome = "hold_full"


class CrowdedError(RetryError):
    """There are too many connections, from this address or in total."""

    outcome = "crowded"
    close = True


class BodiesFullError(RetryError):
    """The bodies of the requests that are running leave no room for this one."""

    outcome = "bodies_full"
    close = True  # its body is not read


class HoldTimeoutError(RetryError):
    """The engine was not ready in time."""

    outcome = "hold_timeout"


class NothingServesError(RetryError):
    """No engine stays up; it is tried again after a pause."""

    outcome = "refused"


class StoppingError(RetryError):
    """The gateway is stopping."""

    outcome = "cut"
    close = True


class CutError(RetryError):
    """The engine was stopped before it answered."""

    outcome = "cut"


class NoEngineError(RetryError):
    """The engine went away before it answered, more than once."""

    http_status = 502
    outcome = "no_engine"
    kind = "bad_gateway"


class EngineTimeoutError(ApiError):
    """The engine was silent for too long."""

    http_status = 504
    outcome = "timeout"
    kind = "timeout_error"


class DefectError(ApiError):
    """The gateway failed on this request."""

    http_status = 500
    outcome = "engine_error"
    kind = "internal_error"
    close = True


def retry_after(wait_s: float) -> int:
    """Whole seconds that an SDK honours; a number that is none becomes the default."""
    if not math.isfinite(wait_s):
        wait_s = DEFAULT_RETRY_S
    return math.ceil(min(max(wait_s, 1.0), MAX_RETRY_S))
