"""One request from arrival to record."""

import asyncio
import time
from dataclasses import dataclass, field

from aiohttp import web

from profiles.classes import CODES
from service.engine_site.tuner_layout import stamped
from service.gateway import headers, shape, sse
from service.gateway.envelopes import Dialect
from service.gateway.gate import Engine, Ticket
from service.gateway.ledger import Record

CLIENT_GONE_STATUS = 499  # nginx's; nobody receives it
EVENT_STREAM = "text/event-stream"


@dataclass(eq=False, kw_only=True, slots=True)
class Call:
    """What is known of one request while it is served."""

    request: web.BaseRequest
    task: asyncio.Task[object]
    arrived: float  # monotonic, as all times here
    application: str
    request_id: str
    dialect: Dialect = Dialect.OPENAI  # of errors
    endpoint: str = ""
    body: bytes = b""
    taken: int = 0  # bytes of its body, as far as it came
    inspection: shape.Inspection | None = None
    ticket: Ticket | None = None
    awake: asyncio.Event = field(default_factory=asyncio.Event)
    cutting: bool = False  # our cancellation, not the client's leaving
    engine: Engine | None = None  # last one it was sent to
    sent: float | None = None
    first: float | None = None  # first chunk of a stream
    opened: web.StreamResponse | None = None  # with comments, before an engine answered
    response: web.StreamResponse | None = None  # once the engine's answer is on its way
    streaming: bool = False
    tail: sse.Tail = field(default_factory=sse.Tail)
    output_bytes: int = 0
    status: int = CLIENT_GONE_STATUS
    outcome: str | None = None

    @property
    def generates(self) -> bool:
        """Whether it draws tokens: then it has a class and a record."""
        return self.request.method == "POST" and self.endpoint in shape.GENERATION

    @property
    def held_s(self) -> float:
        """Seconds that it waited so far."""
        return 0.0 if self.ticket is None else self.ticket.held_s

    def end(self, outcome: str, status: int | None = None) -> None:
        """Settle the outcome; the first one counts."""
        if self.outcome is None:
            self.outcome = outcome
            if status is not None:
                self.status = status

    def leave(self) -> None:
        """The client left: maybe because it has the last event, or an error of the engine."""
        tail = self.tail.bytes() if self.streaming else b""
        if sse.error(tail):
            self.end("engine_error")
        elif self.endpoint in sse.LAST_EVENTS and sse.ended(self.endpoint, tail):
            self.end("ok")
        else:
            self.end("client_gone")

    def record(self, now: float) -> Record | None:
        """The record of a request that is over; None when it has no class."""
        if not self.generates:
            return None
        seen = self.inspection or shape.Inspection(
            shape=shape.unread(self.endpoint, len(self.body))
        )
        counted = sse.usage(self.tail.bytes())
        return Record(
            at=time.time(),
            application=self.application,
            request_class=str(seen.request_class),
            endpoint=self.endpoint,
            stream=seen.shape.stream,
            status=self.status,
            outcome=self.outcome or "client_gone",
            prompt_tokens=None if counted is None else counted.prompt_tokens,
            completion_tokens=None if counted is None else counted.completion_tokens,
            output_bytes=self.output_bytes,
            ttft_s=None if self.first is None or self.sent is None else self.first - self.sent,
            duration_s=now - self.arrived,
            held_s=self.held_s,
            profile=None if self.engine is None else self.engine.profile,
            engine_token=None if self.engine is None else self.engine.token,
            plain=seen.shape.refuses_speculation,
        )


def upstream_headers(call: Call) -> headers.Pairs:
    """The headers that the engine gets."""
    pairs = headers.for_engine(call.request.headers.items())
    if call.opened is not None:  # too late to name an encoding to the client
        pairs = [(name, value) for name, value in pairs if name.lower() != "accept-encoding"]
    # vLLM makes the engine's request id from it, where our scheduler finds the class
    known = call.generates and call.inspection is not None
    code = CODES.index(call.inspection.request_class) if known and call.inspection else None
    request_id = call.request_id if code is None else stamped(call.request_id, code)
    pairs.append(("X-Request-Id", request_id))
    if call.body or call.request.method in {"POST", "PUT", "PATCH"}:
        pairs.append(("Content-Length", str(len(call.body))))
    return pairs
