"""How a chunk reaches a client that reads, one that does not, and one that left."""

import asyncio
import subprocess
import sys
from types import SimpleNamespace

import pytest

from service.gateway.errors import ClientGoneError
from service.gateway.writing import ROOM_BYTES, passed_on

SETTLED = """
import gc
from service.gateway.__main__ import settle
settle()
print(gc.get_freeze_count(), len(gc.get_objects()))
"""


def request(held):
    """A request whose transport still holds so many bytes for its client; None: it is gone."""
    transport = None if held is None else SimpleNamespace(get_write_buffer_size=lambda: held)
    return SimpleNamespace(transport=transport, protocol=SimpleNamespace(writing_paused=False))


class Response:
    """An answer whose write takes a while or fails."""

    def __init__(self, *, wait_s=0.0, fault=None):
        self.wait_s, self.fault, self.written = wait_s, fault, []

    async def write(self, chunk):
        await asyncio.sleep(self.wait_s)
        if self.fault is not None:
            raise self.fault
        self.written.append(chunk)


@pytest.mark.parametrize("held", [0, ROOM_BYTES, None])
async def test_a_chunk_is_written_once(held):
    """With room in the transport and without."""
    response = Response()
    await passed_on(request(held), response, b"chunk", 60)

    assert [b"chunk"] == response.written


@pytest.mark.parametrize(("held", "size"), [(ROOM_BYTES, 1), (0, ROOM_BYTES + 1), (None, 1)])
async def test_a_client_that_does_not_read_is_left(held, size):
    """Where the write may wait for the client, it waits no longer than this."""
    response = Response(wait_s=60)
    with pytest.raises(ClientGoneError):
        await passed_on(request(held), response, b"x" * size, 0.01)

    assert [] == response.written


@pytest.mark.parametrize("held", [0, ROOM_BYTES, None])
async def test_a_client_that_left_is_told_apart_from_a_defect(held):
    """A reset connection is the client's leaving, whichever way was taken."""
    with pytest.raises(ClientGoneError):
        await passed_on(request(held), Response(fault=ConnectionResetError()), b"x", 60)


def test_a_full_collection_has_nothing_to_walk():
    """What the imports made is frozen: walking it stopped every stream for 20 ms."""
    said = subprocess.run(
        [sys.executable, "-c", SETTLED], check=True, capture_output=True, text=True
    ).stdout
    frozen, left = map(int, said.split())

    assert (True, True) == (frozen > 10_000, left < 1000)
