"""Request bodies: read up to a cap, sent on without stopping the loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import aiohttp
from aiohttp import web
from aiohttp.http import HttpVersion11

from service.gateway.errors import (
    BadRequestError,
    BodyTimeoutError,
    ClientGoneError,
    TooLargeError,
)

MIB = 1024 * 1024
SLICE_BYTES = 256 * 1024
# a body may pause for its timeout; beyond the first such time it must come at this rate, so that
# a byte now and then keeps no connection
SLOWEST_BYTES_S = 1024


async def read(
    request: web.BaseRequest, limit: int, pause_s: float, take: Callable[[int], None]
) -> bytes:
    """The whole body; `take` hears the size of every piece before it is kept.

    Raises:
        TooLargeError: it is, or says it is, above `limit` bytes.
        BodyTimeoutError: nothing came for `pause_s`, or it trickles.
        BadRequestError: its framing is broken.
        ClientGoneError: the client left.
    """
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    expect = request.headers.get("Expect", "")
    if expect.lower() == "100-continue" and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer proper has not begun
    data = bytearray()  # a list of pieces would cost 40 bytes for each byte that comes alone
    try:
        begun = time.monotonic()
        while chunk := await _next(request, begun + pause_s + len(data) / SLOWEST_BYTES_S, pause_s):
            if len(data) + len(chunk) > limit:
                raise _too_large(limit)
            take(len(chunk))
            data += chunk
    except TimeoutError as error:
        raise BodyTimeoutError from error
    except (aiohttp.ClientError, web.RequestPayloadError) as error:
        raise BadRequestError("The request body ended early or is badly framed.") from error
    except ConnectionError as error:
        raise ClientGoneError from error
    return bytes(data)


async def _next(request: web.BaseRequest, deadline: float, pause_s: float) -> bytes:
    if request.content.is_eof():  # a small one comes with its head: nothing to wait for
        return request.content.read_nowait()
    async with asyncio.timeout(min(pause_s, max(deadline - time.monotonic(), 0.0))):
        return await request.content.readany()


def payload(body: bytes) -> bytes | AsyncIterator[bytes] | None:
    """A body for aiohttp's client; large ones in slices, each with its turn of the loop."""
    if len(body) <= SLICE_BYTES:
        return body or None
    return _slices(body)


async def _slices(body: bytes) -> AsyncIterator[bytes]:
    view = memoryview(body)
    for start in range(0, len(body), SLICE_BYTES):
        yield bytes(view[start : start + SLICE_BYTES])


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(
        f"The request body is above {limit // MIB} MiB.",
        hint="Send less, or raise gateway.max_body_mib.",
    )
