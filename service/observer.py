"""The observer: the one owner of what is known about live traffic."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence

from profiles.classes import RequestClass
from profiles.errors import UnavailableError
from service.gateway_client import GatewayClient
from service.traffic import ClassTraffic, Record, Window, summarise
from tuner.config import PolicyConfig

log = logging.getLogger(__name__)

WAIT_S = 2.0  # long poll
KEPT_RECORDS = 20_000
RETRY_S = 0.5


class Observer:
    """Reads request records from the gateway and keeps the window of the last minutes."""

    def __init__(self, gateway: GatewayClient, policy: PolicyConfig) -> None:
        self._gateway = gateway
        self.configure(policy)
        self._records: deque[Record] = deque(maxlen=KEPT_RECORDS)
        self._loads: dict[RequestClass, str] = {}
        self._next = 0
        self.seen: dict[str, ClassTraffic] = {}  # newest sight of every workload class
        self.last_plain_at: float | None = None
        self.lost = 0  # records that the gateway dropped because nobody read them

    def configure(self, policy: PolicyConfig) -> None:
        """Look at traffic with these settings from now on."""
        self._span_s = policy.window_s
        self._kept_s = max(policy.window_s, policy.probation_s)
        self._min_requests = policy.min_requests

    async def pump(self) -> None:
        """Read records until cancelled; a gateway that is away is asked again."""
        while True:
            try:
                answer = await self._gateway.records(self._next, WAIT_S)
            except UnavailableError:
                await asyncio.sleep(RETRY_S)
                continue
            newest = int(answer["next"])
            if newest < self._next:  # the gateway was restarted and counts from 0 again
                self._next = 0
                continue
            self._next = newest
            self.lost = int(answer["dropped"])
            for raw in answer["records"]:
                record = Record.parse(raw)
                if record is not None:
                    self.add(record)

    def add(self, record: Record) -> None:
        """Take one record in."""
        self._records.append(record)
        if record.plain:
            self.last_plain_at = record.at
        while self._records and record.at - self._records[0].at > self._kept_s:
            self._records.popleft()

    def since(self, start: float, end: float | None = None) -> Sequence[Record]:
        """Records that ended within these seconds since the epoch."""
        return [r for r in self._records if r.at >= start and (end is None or r.at < end)]

    def window(self, now: float | None = None) -> Window:
        """The window that ends now; remembers the loads for their hysteresis."""
        moment = time.time() if now is None else now
        window = summarise(self._records, now=moment, span_s=self._span_s, loads=self._loads)
        for traffic in window.classes:
            if traffic.requests < self._min_requests:
                continue  # the last few of a class that has ended say little about its load
            self._loads[traffic.workload.request] = traffic.workload.load
            self.seen[str(traffic.workload)] = traffic
        return window
