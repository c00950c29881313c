"""P: how many wrong keys came from where, and from when on that is too many.

No address is ever shut out: whoever has a valid key comes in, because behind a proxy all clients
have one address, and one that guesses must not end the service for the others. So each key is
compared, whatever came before; that costs 0.64 us for each key in force, measured, which is far
less than reading the request. What stops guessing are the 256 bits of a key. What this adds:
SDKs with a wrong key are told to stop asking, and the operator is told that somebody guesses.
"""

import ipaddress
from dataclasses import dataclass

MOST = 20  # wrong keys of one source within the window that are answered as such
WINDOW_S = 60.0  # also the longest wait that SDKs honour
SOURCES = 4096  # remembered, at 164 bytes each (measured); beyond it the oldest is forgotten
_HOST_BITS = 64  # of an IPv6 address: one machine has all of them to itself


@dataclass(kw_only=True, slots=True)
class _Count:
    since: float
    wrong: int = 0


@dataclass(frozen=True, kw_only=True)
class Excess:
    """More wrong keys than are answered as such."""

    source: str
    wait_s: float  # until they are again
    first: bool  # of this window


class Guesses:
    """Wrong keys by their source, each in a window of its own; `now` is any steady clock's."""

    def __init__(self) -> None:
        self._counts: dict[str, _Count] = {}  # in the order in which their windows began

    def __len__(self) -> int:
        return len(self._counts)

    def wrong(self, address: str, now: float) -> Excess | None:
        """Count one wrong or missing key; None while there are few enough."""
        name = source(address)
        count = self._counts.get(name)
        if count is not None and now - count.since >= WINDOW_S:
            del self._counts[name]
            count = None
        if count is None:
            if len(self._counts) >= SOURCES:
                del self._counts[next(iter(self._counts))]
            count = self._counts[name] = _Count(since=now)
        count.wrong += 1
        if count.wrong <= MOST:
            return None
        wait_s = WINDOW_S - (now - count.since)
        return Excess(source=name, wait_s=wait_s, first=count.wrong == MOST + 1)


def source(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 network of an IPv6 address."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address  # a unix socket has none: all its clients are one
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found) >> _HOST_BITS << _HOST_BITS, _HOST_BITS)))
