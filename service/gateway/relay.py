"""From the gate to the engine and back: hold, send, stream, send again, or end with an error."""

import asyncio
import time

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from service.gateway import body, ending, envelopes, errors, headers, sse
from service.gateway.call import EVENT_STREAM, Call, upstream_headers
from service.gateway.comments import Comments, beginning, continues
from service.gateway.gate import Engine, Ticket
from service.gateway.route import Router
from service.gateway.upstream import BUFFER_BYTES, Pool, fail_when_lost
from service.gateway.writing import passed_on, taken

RESENDS = 2  # of a request that has had no answer when its engine went away
_SENTENCES = {
    "cut": "The engine was stopped before this answer was complete.",
    "timeout": "The engine was silent for too long; this answer is not complete.",
    "truncated": "The engine ended this answer before it was complete.",
    "engine_error": "The engine failed before this answer was complete.",
}


class EmptyStreamError(aiohttp.ClientPayloadError):
    """The engine ended a stream before its first event."""


class _Answer(web.StreamResponse):
    """An answer whose head goes out with its first chunk, which is here when the head is made."""

    # as aiohttp's own web.Response: one packet, one call of the kernel, one wake of the client
    _send_headers_immediately = False


class Relay:
    """Takes a checked request to an engine."""

    def __init__(
        self,
        *,
        router: Router,
        pool: Pool,
        hold_s: float,
        write_s: float,
        comment_s: float | None = None,
    ) -> None:
        self._router = router
        self._gate = router.gate
        self._pool = pool
        self._hold_s = hold_s
        self._write_s = write_s
        self._comments = Comments(router=router, every_s=comment_s, write_s=write_s)
        self.stopping = False
        self.generated_bytes = 0  # of what engines generated, as far as it came

    async def forward(self, call: Call) -> web.StreamResponse:
        """The engine's answer, from whichever engine gives it.

        A request of which no byte was answered is sent again when its engine goes away; after
        the first byte it never is.

        Raises:
            ApiError: no engine answered.
            ClientGoneError: the client left while we wrote.
        """
        plain = call.inspection is not None and call.inspection.shape.refuses_speculation
        try:
            call.ticket = self._gate.enter(
                size=len(call.body), plain=plain, now=time.monotonic(), wake=call.awake.set
            )
        except errors.RetryError as error:
            error.retry_after_s = self._router.retry_after_s
            raise
        while True:
            try:
                engine = await self._granted(call)
                return await self._send(call, engine)
            except asyncio.CancelledError:
                if not call.cutting or call.task.uncancel() > 0:  # the client left
                    raise
                call.cutting = False
                outcome = "cut"
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                outcome = _blame(error)
            if call.response is not None:
                return await self._break(call, outcome)
            self._again(call, outcome)

    async def _granted(self, call: Call) -> Engine:
        """The engine to send to, after a wait if the gate holds."""
        ticket = call.ticket
        assert ticket is not None  # noqa: S101 - set before
        if ticket.engine is None:
            try:
                async with asyncio.timeout(max(self._hold_s - ticket.held_s, 0.0)):
                    await self._woken(call, ticket)
            except TimeoutError:
                if ticket.engine is None:  # else it was released in the same instant
                    raise errors.HoldTimeoutError(
                        retry_after_s=self._router.retry_after_s
                    ) from None
        call.awake.clear()
        if ticket.engine is None and self._gate.refuses and not self.stopping:
            raise errors.NothingServesError(retry_after_s=self._router.retry_after_s)
        if ticket.engine is None:
            raise errors.StoppingError
        return ticket.engine

    async def _woken(self, call: Call, ticket: Ticket) -> None:
        """Wait until it may go, is refused, or we stop, as we may when a slow body has ended.

        A refusal may be over, and the gate hold again, before one hears of it who was writing a
        comment.
        """
        while ticket.engine is None and not (self.stopping or self._gate.refuses):
            await self._comments.wait(call)
            call.awake.clear()

    def _again(self, call: Call, outcome: str) -> None:
        """Back to the gate, unless it was silent, sent often enough, or we stop."""
        assert call.ticket is not None  # noqa: S101 - set before
        if outcome == "timeout":
            raise errors.EngineTimeoutError
        if outcome != "cut" and call.engine is not None:
            self._router.lost(call.engine)
        # a cut with the gate open would only begin again at the same engine
        useless = outcome == "cut" and self._gate.passing
        if self.stopping or useless or call.ticket.sends > RESENDS:
            refusal = errors.CutError if outcome == "cut" else errors.NoEngineError
            raise refusal(retry_after_s=self._router.retry_after_s)
        call.awake.clear()
        self._gate.again(call.ticket, time.monotonic())

    async def _send(self, call: Call, engine: Engine) -> web.StreamResponse:
        call.engine = engine
        call.sent = time.monotonic()
        with self._pool.session(engine) as session:
            upstream = await session.request(
                call.request.method,
                URL("http://engine" + call.request.raw_path, encoded=True),
                headers=CIMultiDict(upstream_headers(call)),
                data=body.payload(call.body),
                allow_redirects=False,
            )
            fail_when_lost(upstream)
            try:
                return await self._stream(call, upstream)
            finally:
                upstream.close()  # a client that leaves ends the request at the engine

    async def _stream(self, call: Call, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        if call.opened is not None and not continues(upstream):
            return await self._refuse(call, call.opened, upstream)
        call.streaming = upstream.content_type == EVENT_STREAM
        # nothing is committed before the first chunk: vLLM sends the headers of a stream long
        # before its first token, and an engine may die in between
        chunk = await upstream.content.read(BUFFER_BYTES)
        if call.streaming and not chunk and _has_an_end(call, upstream):
            raise EmptyStreamError
        if call.streaming:
            call.first = time.monotonic()
        response = self._response(call, upstream)
        try:
            await response.prepare(call.request)  # changes nothing when comments were sent
        except ConnectionError:
            raise errors.ClientGoneError from None
        generated = call.generates and upstream.status == 200
        while chunk:
            if generated:
                self.generated_bytes += len(chunk)
            await passed_on(call.request, response, chunk, self._write_s)
            call.tail.feed(chunk)
            call.output_bytes += len(chunk)
            chunk = await upstream.content.read(BUFFER_BYTES)
        if call.ticket is not None:  # the engine is done; a slow reader must not delay a drain
            self._gate.leave(call.ticket, time.monotonic())
        tail = call.tail.bytes()
        failed = call.streaming and sse.error(tail)
        if _has_an_end(call, upstream) and not sse.ended(call.endpoint, tail):
            return await self._break(
                call, "engine_error" if failed else "truncated", say=not failed
            )
        await taken(call.request, response.write_eof(), self._write_s)
        if failed or upstream.status >= 500:
            call.end("engine_error")
        else:
            call.end("bad_request" if upstream.status >= 400 else "ok")
        return response

    async def _refuse(
        self, call: Call, opened: web.StreamResponse, upstream: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        """Say within an opened event stream that the engine refused."""
        said = await beginning(upstream)
        call.end("bad_request" if 400 <= upstream.status < 500 else "engine_error")
        event = envelopes.engine_event(upstream.status, said, call.dialect)
        await ending.refuse(call.request, opened, event)
        return opened

    def _response(self, call: Call, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        fields = CIMultiDict(headers.for_client(upstream.headers.items()))
        fields["X-Request-Id"] = call.request_id  # not the stamped one that the engine echoes
        if call.streaming:
            fields.setdefault("X-Accel-Buffering", "no")  # nginx would collect the stream
        call.response = call.opened or _Answer(
            status=upstream.status, reason=upstream.reason, headers=fields
        )
        call.status = upstream.status
        if self.stopping:
            call.response.force_close()
        return call.response

    async def _break(self, call: Call, outcome: str, *, say: bool = True) -> web.StreamResponse:
        """End an answer that has begun so that nobody takes it for complete."""
        call.end(outcome)
        assert call.response is not None  # noqa: S101 - the caller saw it
        if say and call.streaming:
            sentence = _SENTENCES[outcome]
            event = envelopes.event(sentence, kind=outcome, code=502, dialect=call.dialect)
            await ending.say(call.response, event)
        ending.abort(call.request)
        return call.response


def _has_an_end(call: Call, upstream: aiohttp.ClientResponse) -> bool:
    """Whether the end of this stream can be checked: a last event is due and readable."""
    return (
        call.streaming
        and upstream.status == 200
        and call.endpoint in sse.LAST_EVENTS
        and "Content-Encoding" not in upstream.headers
    )


def _blame(error: Exception) -> str:
    """The outcome that a broken engine connection stands for."""
    if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError):
        return "timeout"
    return "truncated"
