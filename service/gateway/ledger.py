"""Records of finished requests: a ring that tunerd reads by long poll."""

import asyncio
import contextlib
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

RING = 4096  # records
PER_CALL = 512  # records


@dataclass(frozen=True, kw_only=True)
class Record:
    """One finished request; no text in it."""

    at: float  # end, seconds since the epoch
    application: str
    request_class: str
    endpoint: str
    stream: bool
    status: int  # 499 when the client left before there was one
    outcome: str
    prompt_tokens: int | None
    completion_tokens: int | None
    output_bytes: int
    ttft_s: float | None  # of a stream, from the engine's getting it to its first chunk
    duration_s: float  # from arrival to end, the hold included
    held_s: float
    profile: str | None
    engine_token: str | None
    plain: bool


@dataclass(kw_only=True)
class Counters:
    """Requests since the start: received = answered + failed + rejected + client_gone + open."""

    received: int = 0
    answered: int = 0  # by the engine, its refusals of bad requests included
    failed: int = 0
    rejected: int = 0  # by the gateway itself
    client_gone: int = 0


class Ledger:
    """The last records, numbered from 1; a cursor is the number of the last record seen."""

    def __init__(self, ring: int = RING) -> None:
        self._ring: deque[tuple[int, Record]] = deque(maxlen=ring)
        self._seen = 0  # newest number that somebody fetched
        self._arrived = asyncio.Event()
        self.newest = 0
        self.dropped = 0  # fell out of the ring before anybody fetched them

    def add(self, record: Record) -> None:
        """Append a record, dropping the oldest of a full ring."""
        if len(self._ring) == self._ring.maxlen and self._ring[0][0] > self._seen:
            self.dropped += 1
        self.newest += 1
        self._ring.append((self.newest, record))
        self._arrived.set()

    async def after(self, cursor: int, wait_s: float) -> dict[str, Any]:
        """Records after a cursor, waiting for one; a cursor of an earlier gateway starts anew."""
        if cursor > self.newest:
            cursor = 0
        if cursor == self.newest and wait_s > 0:
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), wait_s)
        oldest = self.newest - len(self._ring) + 1
        start = max(cursor + 1 - oldest, 0)
        found = [self._ring[i] for i in range(start, min(start + PER_CALL, len(self._ring)))]
        last = found[-1][0] if found else cursor
        self._seen = max(self._seen, last)
        return {
            "records": [{"seq": number, **asdict(record)} for number, record in found],
            "next": last,
            "dropped": max(oldest - 1 - cursor, 0),
        }
