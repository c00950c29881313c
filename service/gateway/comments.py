"""What a client that streams hears while its request is held: comments in its event stream."""

import asyncio
import math

import aiohttp
from aiohttp import web

from service.gateway import headers
from service.gateway.call import EVENT_STREAM, Call
from service.gateway.errors import ClientGoneError
from service.gateway.route import Router
from service.gateway.writing import taken

REFUSAL_BYTES = 64 * 1024  # of an engine's error; vLLM's are below 1 KiB


class Comments:
    """Waits with a request; proxies and clients that time out see that its stream lives."""

    def __init__(self, *, router: Router, every_s: float | None, write_s: float) -> None:
        self._router = router
        self._every_s = every_s  # None: nothing is said
        self._write_s = write_s

    async def wait(self, call: Call) -> None:
        """Wait until the request may go or must end, with a comment after every period.

        The first comment commits the answer to 200 and an event stream.

        Raises:
            ClientGoneError: the client left while we wrote.
        """
        while self._every_s is not None and _streams(call):
            try:
                async with asyncio.timeout(self._every_s):
                    await call.awake.wait()
            except TimeoutError:
                opened = call.opened or await _open(call)
                writing = opened.write(comment(self._router.left_s))
                await taken(call.request, writing, self._write_s)
            else:
                return
        await call.awake.wait()


def comment(left_s: float | None) -> bytes:
    """A comment of an event stream; `left_s` is the estimate of the rest of the wait."""
    if left_s is None:
        return b": tuner holds this request until the engine is ready\n\n"
    return b": tuner is switching the profile, about %d s left\n\n" % math.ceil(left_s)


def continues(upstream: aiohttp.ClientResponse) -> bool:
    """Whether an engine's answer can follow comments: events, as they are and not an error."""
    encoding = upstream.headers.get("Content-Encoding", headers.IDENTITY)
    events = upstream.content_type == EVENT_STREAM and encoding.lower() == headers.IDENTITY
    return upstream.status == 200 and events


async def beginning(upstream: aiohttp.ClientResponse) -> bytes:
    """As much of an engine's refusal as can be put into one event."""
    found = b""
    while len(found) < REFUSAL_BYTES and (chunk := await upstream.content.readany()):
        found += chunk
    return found


def _streams(call: Call) -> bool:
    return call.generates and call.inspection is not None and call.inspection.shape.stream


async def _open(call: Call) -> web.StreamResponse:
    fields = {
        "Content-Type": EVENT_STREAM,
        "X-Accel-Buffering": "no",  # nginx would collect the stream
        "X-Request-Id": call.request_id,
    }
    opened = web.StreamResponse(headers=fields)
    try:
        await opened.prepare(call.request)
    except ConnectionError:
        raise ClientGoneError from None
    call.opened = opened
    call.status = opened.status
    return opened
