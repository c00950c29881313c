"""The books: write the account of what is in force into the store."""

import asyncio
import time

from profiles.profile import Profile
from service import ledger
from service.state import Parts, State

SETTLE_S = 30.0  # between two entries
LATE_S = 5.0  # the gateway's records may come this late


class Books:
    """The only writer of accounts; a death of tunerd loses the last entry at most."""

    def __init__(self, parts: Parts, state: State) -> None:
        self._parts = parts
        self._state = state
        self._profile: Profile | None = None  # whose account is open
        self._opened_at = self._settled_at = time.time()
        self._wish: ledger.Wish | None = None
        self._owed: bool | None = None  # `live` of a profile in force that the store does not have
        self._lock = asyncio.Lock()  # entries of one account are written before the next is opened

    async def opened(self, *, live: bool) -> None:
        """Close the account of what was in force, and open that of what is now."""
        profile, now = self._state.in_force, time.time()
        async with self._lock:
            self._owed = live
            await self._open(profile, now, live=live)

    async def _open(self, profile: Profile, now: float, *, live: bool) -> None:
        parts = self._parts
        await parts.archive.call(parts.archive.store.put_profile, profile)
        await self._settle(now)
        tuned = self._state.tuned_at > self._opened_at
        how = ledger.kind(self._profile, profile, live=live, tuned=tuned)
        if self._profile is None or self._profile.knobs != profile.knobs:
            self._wish = None  # fulfilled, or overtaken
        restart_s, span_s = parts.slot.eta_s, parts.config.policy.window_s
        before = parts.observer.since(now - restart_s - span_s, now - restart_s)
        seconds, tokens = ledger.lost(how, restart_s, ledger.demand(before, span_s))
        await parts.archive.call(
            parts.archive.store.set_in_force,
            profile.id,
            why=self._state.why,
            at=now,
            kind=how,
            restart_s=seconds,
            lost_tokens=tokens,
        )
        self._profile, self._opened_at, self._owed = profile, now, None

    async def keep(self) -> None:
        """Write down what was served since the last time, and a switch that was avoided.

        First what is in force, if the store could not be written when it was put in force.
        """
        async with self._lock:  # what is being written is not owed
            if self._owed is not None:
                await self._open(self._state.in_force, time.time(), live=self._owed)
        if self._profile is None:
            return
        now, decision = time.time(), self._state.decision
        async with self._lock:
            if now - self._settled_at > SETTLE_S + LATE_S:
                await self._settle(now - LATE_S)
            if decision is None:
                return
            self._wish, avoided = ledger.episode(
                self._wish,
                decision.wanted,
                decision.why,
                self._state.in_force,
                switch=decision.switch,
            )
        if avoided is not None:
            archive, serving = self._parts.archive, self._state.in_force.knobs.label()
            await archive.call(archive.store.add_to_account, avoided=1)
            await archive.event(
                "stayed",
                f"stayed with {serving}: {avoided.profile.knobs.label()} "
                f"was not worth a restart ({avoided.why})",
            )

    async def _settle(self, until: float) -> None:
        if self._profile is not None:
            records = self._parts.observer.since(self._settled_at, until)
            found = ledger.served(records, self._profile)
            if found.tokens > 0:
                store = self._parts.archive.store
                await self._parts.archive.call(
                    store.add_to_account, served_tokens=found.tokens, gained_tokens=found.gained
                )
        self._settled_at = max(self._settled_at, until)
