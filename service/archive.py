"""The archive: the store behind one thread, so that SQL never stalls the event loop."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from profiles.errors import ConflictError, StoreDamagedError, StoreError
from profiles.knobs import Knobs
from profiles.measurement import Failure, Measurement
from profiles.platform import Platform, difference
from profiles.profile import Origin, Profile
from profiles.records import TrialStatus
from profiles.recovery import recover
from profiles.store import Store
from service import inject
from tuner.objective import DEFAULT, Goals, unfit

log = logging.getLogger(__name__)

QUARANTINE_S, QUARANTINE_MOST_S = 3600.0, 86400.0  # doubles each time
RETRY_FIRST_S, RETRY_MOST_S = 1.0, 15.0  # between two attempts at a store that cannot be used
BANNED = "it did harm here and is in quarantine"

P = ParamSpec("P")
T = TypeVar("T")


class Archive:
    """Async access to the one store; every call is one small transaction."""

    def __init__(
        self, store: Store, thread: ThreadPoolExecutor, goals: Goals, relief: Callable[[], None]
    ) -> None:
        self.store = store
        self.goals = goals  # verdicts that were reached under others decide nothing
        self._thread = thread
        self._relief = relief

    @classmethod
    async def open(
        cls, path: Path, goals: Goals = DEFAULT, *, relief: Callable[[], None] = lambda: None
    ) -> "Archive":
        """Open the store, migrating it if it is older; `relief` makes room on a full disk.

        A damaged one is moved aside, and the newest whole copy of it takes its place.

        Raises:
            StoreError: it cannot be used, with the reason.
        """
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        loop = asyncio.get_running_loop()
        store, said = await loop.run_in_executor(thread, _open, path, relief)
        opened = cls(store, thread, goals, relief)
        for sentence in (said, store.slow):
            if sentence is not None:
                log.warning("%s", sentence)
                await opened.event("store", sentence)
        return opened

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a store method on its thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: function(*args, **kwargs))

    async def introduce(self, platform: Platform) -> str | None:
        """Remember a platform; a sentence when it is new and replaces another one."""
        known = await self.insist(self.store.platforms)
        await self.insist(self.store.ensure_platform, platform, at=time.time())
        if not known or platform in known:
            return None
        changed = difference(platform, known[-1])
        return f"{changed}: what was found before is kept, and not applied here"

    async def open_trial(
        self, *, study: str, platform: str, workloads: list[str], knobs: Knobs, why: str
    ) -> int:
        """Write down that an engine start begins; its number."""
        return await self.call(
            self.store.open_trial,
            study=study,
            platform=platform,
            workloads=workloads,
            knobs=knobs,
            why=why,
            at=time.time(),
        )

    async def close_trial(
        self, trial: int, status: TrialStatus, failure: Failure | None = None
    ) -> None:
        """Write down how an engine start ended."""
        await self.call(
            self.store.close_trial, trial, status=status, at=time.time(), failure=failure
        )

    async def add_measurement(self, measurement: Measurement, trial: int) -> None:
        """Append a measurement; it is on disk when this returns."""
        await self.call(self.store.add_measurement, measurement, trial=trial)

    async def measurements(self, platform: str, workload: str) -> list[Measurement]:
        """Everything measured for a class on this platform, oldest first."""
        return await self.call(self.store.measurements, platform, workload)

    async def decided_at(self, platform: str, workload: str) -> float | None:
        """When a class had its latest verdict, seconds since the epoch; None before the first."""
        promotion = (await self.call(self.store.promotions, platform)).get(workload)
        return None if promotion is None else promotion.at

    async def promote(self, profile: Profile, *, kept_default: bool) -> None:
        """Keep a profile and the decision that it is the best for its class."""
        await self.call(self.store.put_profile, profile)
        inject.at(inject.Point.WINNER_STORED)
        await self.call(
            self.store.promote,
            platform=profile.platform,
            workload=profile.workload,
            profile=profile.id,
            evidence=profile.evidence,
            sentence=profile.evidence.sentence,
            at=time.time(),
            kept_default=kept_default,
        )
        inject.at(inject.Point.PROMOTED)

    async def promoted(self, platform: str) -> dict[str, Profile]:
        """The winner of every class with the evidence of its latest promotion, by class.

        Profiles in quarantine are left out: their class falls back to the default. So are verdicts
        about another objective or other limits: their class is tuned anew, from the same rows.
        """
        promotions = await self.call(self.store.promotions, platform)
        banned = await self.banned(platform)
        found: dict[str, Profile] = {}
        for workload, promotion in promotions.items():
            if not self.goals.decided(promotion.evidence):
                continue
            profile = await self.call(self.store.profile, promotion.profile)
            if profile.knobs.digest() not in banned:
                found[workload] = profile.model_copy(update={"evidence": promotion.evidence})
        return found

    async def unfit(self, profile: Profile) -> str | None:
        """Why a profile must not be handed on, as words; None when it may."""
        if profile.knobs.digest() in await self.banned(profile.platform):
            return BANNED
        rows = await self.call(self.store.measurements, profile.platform)
        # a failure in any class condemns an engine, a limit is kept or broken by a class
        known = [m for m in rows if m.failure is not None or m.workload == profile.workload]
        return await asyncio.to_thread(unfit, profile.knobs, known, self.goals)

    async def refusal(self, profile: Profile) -> str | None:
        """Why a profile must not even be chosen by hand, as words; None when it may.

        The operator's own configuration always may, and an import unless it is in quarantine.
        """
        if profile.origin is Origin.DEFAULT:
            return None
        if profile.origin is Origin.IMPORT:
            return BANNED if profile.knobs.digest() in await self.banned(profile.platform) else None
        return await self.unfit(profile)

    async def check_choice(self, profile: Profile) -> None:
        """Refuse what an operator must not choose.

        Raises:
            ConflictError: it did harm here, or breaks a limit.
        """
        why = await self.refusal(profile)
        if why is not None:
            raise ConflictError(
                f"Cannot use profile {profile.id} ({profile.knobs.label()}): {why}.",
                hint="`tuner use default` is always possible; `tuner history` has the details.",
            )

    async def bar(self, profile: Profile, reason: str) -> float:
        """Put the knobs of a profile in quarantine; for how many seconds."""
        count = await self.call(self.store.quarantine_count, profile.platform, profile.knobs)
        seconds: float = min(QUARANTINE_S * 2**count, QUARANTINE_MOST_S)
        await self.call(
            self.store.quarantine,
            profile.knobs,
            platform=profile.platform,
            reason=reason,
            at=time.time(),
            until=time.time() + seconds,
            profile=profile.id,
        )
        inject.at(inject.Point.QUARANTINED)
        return seconds

    async def banned(self, platform: str) -> set[str]:
        """Digests of the knobs in quarantine."""
        return {q.knobs for q in await self.call(self.store.quarantined, platform, time.time())}

    async def pins(self, platform: str) -> dict[str, Profile]:
        """Pinned profiles of this platform by application."""
        pins = await self.call(self.store.pins)
        return {
            pin.application: await self.call(self.store.profile, pin.profile)
            for pin in pins
            if pin.platform == platform
        }

    async def event(self, kind: str, sentence: str) -> None:
        """Append an event for `tuner history`; what happens goes on when it cannot be kept."""
        try:
            await self.call(self.store.add_event, kind, sentence, at=time.time())
        except StoreError as error:
            log.warning("not in the history: %s", error.sentence())

    async def insist(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a store method, again and again while the store cannot be used."""
        pause_s = RETRY_FIRST_S
        while True:
            try:
                return await self.call(function, *args, **kwargs)
            except StoreError as error:
                log.warning("waiting for the store, %g s: %s", pause_s, error.sentence())
            await asyncio.to_thread(self._relief)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_MOST_S)

    async def close(self) -> None:
        """Close the store and its thread."""
        await self.call(self.store.close)
        self._thread.shutdown()


def _open(path: Path, relief: Callable[[], None]) -> tuple[Store, str | None]:
    """The store, and what was done about a damaged one."""
    try:
        return Store.open(path, now=time.time()), None
    except StoreError:  # SQLite makes its files anew after a clean stop
        relief()
    try:
        return Store.open(path, now=time.time()), None
    except StoreDamagedError as error:
        said = recover(path, at=time.time()).sentence(error.message)
    return Store.open(path, now=time.time()), said
