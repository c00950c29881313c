"""Holds: an application keeps a profile for as long as its connection to the daemon lives."""

import asyncio
import time
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field

from profiles.errors import BusyError
from profiles.profile import Profile

MOST = 64  # each is an open connection and a task


@dataclass(kw_only=True, eq=False)
class Hold:
    """One lease; `over` is set when somebody else than its holder ends it."""

    application: str
    profile: Profile
    reason: str
    since: float  # seconds since the epoch
    over: asyncio.Event = field(default_factory=asyncio.Event)
    why_over: str = ""
    again: bool = False  # whether its holder may take it again


class Holds:
    """The leases in force, the newest last."""

    def __init__(self) -> None:
        self._held: list[Hold] = []

    def __iter__(self) -> Iterator[Hold]:
        return iter(tuple(self._held))

    def take(self, application: str, profile: Profile, reason: str) -> Hold:
        """A new lease.

        Raises:
            BusyError: there are too many.
        """
        if len(self._held) >= MOST:
            raise BusyError(
                f"{MOST} holds are in force, which is the limit.",
                hint="`tuner holds` lists them; end some, or pin instead of holding.",
            )
        hold = Hold(application=application, profile=profile, reason=reason, since=time.time())
        self._held.append(hold)
        return hold

    def release(self, hold: Hold) -> None:
        """End one; nothing happens when it has ended already."""
        if hold in self._held:
            self._held.remove(hold)

    def clear(self, why: str, *, again: bool = False) -> None:
        """End all of them, and tell their holders why."""
        ended, self._held = self._held, []
        for hold in ended:
            hold.why_over, hold.again = why, again
            hold.over.set()

    def profiles(self) -> dict[str, Profile]:
        """What each application holds, the newest last; of its own holds the newest counts."""
        found: dict[str, Profile] = {}
        for hold in self._held:
            found.pop(hold.application, None)
            found[hold.application] = hold.profile
        return found


def allowed(wishes: Mapping[str, Profile], banned: Container[str]) -> dict[str, Profile]:
    """The wishes without those for knobs that did harm here."""
    return {name: each for name, each in wishes.items() if each.knobs.digest() not in banned}
