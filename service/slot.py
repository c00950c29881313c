"""The slot: the one owner of the running engine and of the gate in front of it."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

from profiles.errors import UnavailableError
from profiles.knobs import Knobs
from service import inject
from service.caches import share_model_infos
from service.card_memory import CardMemory
from service.engine import Engine, LaunchPlan
from service.engine_child import ChildKeeper
from service.engine_hold import Keeper
from service.engine_record import EngineRecord
from service.engine_systemd import UnitKeeper
from service.gateway_client import EngineRoute, GatewayClient
from service.launch import CACHE_VARIABLE, launch_of
from service.live_files import LiveKnobs
from service.logs import forget_old
from service.room import Room, needed
from tuner.card_room import Need
from tuner.config import Config
from tuner.paths import Paths

log = logging.getLogger(__name__)

FIRST_START_S = 60.0  # guess for Retry-After until one start has been seen
# a hold ends by itself this long after the expected end if tunerd dies meanwhile
HOLD_GRACE_S = 120.0
GATEWAY_RETRY_S = 0.5
GATEWAY_TRIES = 10


class Wish(TypedDict):
    """What the gateway was last told."""

    gate: str
    reason: str
    engine: EngineRoute | None
    eta_s: float | None
    ttl_s: float | None


class Slot:
    """Replaces engines: hold new requests, drain running ones, stop, start, canary, release."""

    def __init__(
        self,
        config: Config,
        paths: Paths,
        gateway: GatewayClient,
        units: UnitKeeper | None = None,  # None: engines are our children
        cards: CardMemory | None = None,  # None: the engine needs none
    ) -> None:
        self.engine: Engine | None = None
        self.last_start_s: float | None = None
        self.restarts = 0
        self._cards = cards or CardMemory()
        # why engines are started without live knobs; None while they are with them
        self.live_fault: str | None = None if config.live.enabled else "live.enabled is false"
        self._config = config
        self._paths = paths
        self._keeper: Keeper = ChildKeeper() if units is None else units
        self._places = paths.engine if units is None else units.places
        self.room = Room(paths, self._places)
        self._in_units = units is not None
        self._gateway = gateway
        self._on_death: Callable[[], None] | None = None
        self._lock = asyncio.Lock()  # one replacement at a time; owners are the mode table's tasks
        self._wish: Wish | None = None  # the route in force
        self._told = asyncio.Lock()  # routes reach the gateway in the order of our wishes
        self._gateway_pid: int | None = None  # of the gateway that knows the route

    def on_death(self, callback: Callable[[], None]) -> None:
        """Call this whenever an engine ends without having been asked to."""
        self._on_death = callback

    def configure(self, config: Config) -> None:
        """Go on with other settings; those of a command line have to stay as they are."""
        self._config = config

    @property
    def eta_s(self) -> float:
        """Expected seconds of an engine start."""
        return self.last_start_s or FIRST_START_S

    def plan(self, knobs: Knobs, *, profile: str, purpose: str) -> LaunchPlan:
        """The launch of these knobs under this configuration."""
        engine, places = self._config.engine, self._places
        live = self.live_fault is None
        launch = launch_of(self._config, knobs, cache=places.cache, live=live)
        return LaunchPlan(
            command=launch.command,
            env=launch.env,
            live=LiveKnobs.of(knobs) if live else None,
            profile=profile,
            purpose=purpose,
            knobs=knobs,
            run=places.run,
            logs=places.logs,
            record_path=self._paths.engine_record,
            start_timeout_s=engine.start_timeout_s,
            stall_timeout_s=engine.stall_timeout_s,
            keeper=self._keeper,
        )

    async def adopt(self) -> EngineRecord | None:
        """Take over the engine that an earlier daemon left, or clear away what is left of it."""
        record = await asyncio.to_thread(EngineRecord.read, self._paths.engine_record)
        if record is not None:
            self.engine = await Engine.adopt(record, self._keeper)
        if record is None or self.engine is None:
            left = await self._keeper.reap(record)
            if record is not None or left:
                token = None if record is None else record.token
                log.info("engine gone token=%s reaped=%d", token, left)
            return None
        self.last_start_s = record.ready_s
        self._watch(self.engine)
        inject.at(inject.Point.ADOPTED)
        return record

    async def replace(
        self,
        knobs: Knobs,
        *,
        profile: str,
        purpose: str,
        drained: Callable[[], None] | None = None,
    ) -> Engine:
        """Put an engine with these knobs in place of the running one; the gate stays closed.

        Raises:
            EngineStartError: the new engine did not come up; the slot is empty.
        """
        async with self._lock, needed():
            plan = self.plan(knobs, profile=profile, purpose=purpose)
            await self.hold(f"the engine is replaced by {knobs.label()}", eta_s=self.eta_s)
            inject.at(inject.Point.HELD)
            await self.drain()
            inject.at(inject.Point.DRAINED)
            if drained is not None:
                drained()
            await self._stop_engine()
            inject.at(inject.Point.STOPPED)
            # nobody is routed anywhere: what is still in flight was cut
            await self.hold(f"{knobs.label()} starts", eta_s=self.eta_s)
            inject.at(inject.Point.ROUTED_NOWHERE)
            self.restarts += 1
            await asyncio.to_thread(forget_old, self._places.logs)
            await asyncio.to_thread(self.room.spend)
            await self._cards.wait(self._need(knobs))
            if not self._in_units:  # there the launcher does it, with the right to
                share_model_infos(Path(plan.env[CACHE_VARIABLE]))
            self.engine = await Engine.launch(plan)
            fault = self.engine.record.live_fault
            if fault is not None:  # this vLLM does not do what our scheduler expects
                log.warning("knobs change by restart only: %s", fault)
                self.live_fault = fault
                await self._stop_engine()
                await self._cards.wait(self._need(knobs))
                plan = self.plan(knobs, profile=profile, purpose=purpose)
                self.engine = await Engine.launch(plan)
            self.last_start_s = self.engine.record.ready_s
            self._watch(self.engine)
            inject.at(inject.Point.IN_SLOT)
            return self.engine

    def lacking(self, knobs: Knobs) -> str | None:
        """Why no engine should be given up for one with these knobs, as words; None when it may."""
        return self.room.lacking() or self._cards.lacking(self._need(knobs), self.engine)

    def _need(self, knobs: Knobs) -> Need:
        return Need.of(self._config.engine.args, knobs)

    def runs(self, knobs: Knobs) -> bool:
        """Whether an engine with these knobs is in the slot and alive."""
        return (
            self.engine is not None
            and not self.engine.ended.is_set()
            and self.engine.knobs == knobs
        )

    @property
    def live_caps(self) -> bool:
        """Whether the admitted batch of the running engine is live."""
        return (
            self.engine is not None and self.engine.link is not None and self.engine.link.can_admit
        )

    def reaches(self, knobs: Knobs) -> bool:
        """Whether the running engine can have these knobs without a restart."""
        engine = self.engine
        return (
            engine is not None
            and not engine.ended.is_set()
            and engine.link is not None
            and engine.knobs.cold() == knobs.cold()
            and (engine.knobs.max_active_seqs == knobs.max_active_seqs or self.live_caps)
        )

    async def apply(self, knobs: Knobs, *, profile: str) -> None:
        """Give the running engine these knobs at its next step; nobody is held.

        Raises:
            UnavailableError: it would need a restart.
        """
        engine = self.engine
        if engine is None or engine.link is None or not self.reaches(knobs):
            raise UnavailableError(f"{knobs.label()} cannot be reached without a restart.")
        before = engine.record
        # first, so that the live loop cannot take the old knobs for those in force
        engine.record = replace(before, profile=profile, knobs=knobs.canonical())
        try:
            await asyncio.to_thread(engine.link.put, LiveKnobs.of(knobs))
        except OSError as error:
            engine.record = before
            raise UnavailableError(
                f"The control file cannot be written: {error.strerror}.",
                hint="A restart of the engine makes a new one.",
            ) from error
        inject.at(inject.Point.KNOBS_PUT)
        await asyncio.to_thread(self._write_down, engine.record)
        inject.at(inject.Point.KNOBS_RECORDED)
        if self._wish is not None and self._wish["engine"] is not None:  # records name the profile
            wish = self._wish
            await self._route(
                wish["gate"], wish["reason"], eta_s=wish["eta_s"], ttl_s=wish["ttl_s"]
            )

    def keep(self, *, profile: str) -> None:
        """Make the engine of a trial the one that serves a profile."""
        if self.engine is not None:
            self.engine.record = replace(self.engine.record, profile=profile, purpose="serve")
            self._write_down(self.engine.record)

    def _write_down(self, record: EngineRecord) -> None:
        """Keep the record of a running engine; an old one is put right when it is adopted."""
        try:
            record.write(self._paths.engine_record)
        except OSError as error:
            log.warning("the record of the engine cannot be written: %s", error.strerror)

    async def drain(self) -> None:
        """Let running requests finish until the deadline, then cut what is left."""
        deadline_s = self._config.gateway.drain_s
        if self.engine is None or self.engine.ended.is_set():
            deadline_s = 0.5  # nobody is left to finish them; the gateway sees the broken pipes
        try:
            if await self._gateway.drain(deadline_s) > 0:
                cut = await self._gateway.cut()
                log.warning("drain deadline passed cut=%d deadline_s=%g", cut, deadline_s)
        except UnavailableError as error:
            log.warning("cannot drain: %s", error.message)

    async def quiet(self, deadline_s: float) -> bool:
        """Hold new requests and wait for running ones; False when some still run."""
        await self.hold("a measurement runs", eta_s=deadline_s)
        try:
            return await self._gateway.drain(deadline_s) == 0
        except UnavailableError:
            return False

    async def hold(self, reason: str, *, eta_s: float) -> None:
        """Close the gate: new requests wait in the gateway."""
        await self._route("hold", reason, eta_s=eta_s, ttl_s=eta_s + HOLD_GRACE_S)

    async def refuse(self, reason: str, *, eta_s: float) -> None:
        """Shut the gate: who waits or comes gets 503, and when to come again."""
        await self._route("refuse", reason, eta_s=eta_s)

    async def release(self, reason: str = "") -> None:
        """Open the gate to the engine in the slot; without one it stays closed."""
        if self.engine is not None and not self.engine.ended.is_set():
            await self._route("open", reason)

    async def stop(self) -> None:
        """Stop the engine, with the gate closed."""
        async with self._lock:
            try:
                await self.hold("tunerd stops", eta_s=self.eta_s)
                await self.drain()
            finally:
                await self._stop_engine()
                # an engine whose adoption or start was cut off has a record, but no place here
                record = await asyncio.to_thread(EngineRecord.read, self._paths.engine_record)
                if record is not None:
                    await self._keeper.reap(record)

    async def forget(self) -> None:
        """Leave the engine running for the next daemon to adopt, and requests to it meanwhile."""
        if self.engine is not None:
            if self._wish is not None and self._wish["gate"] == "hold":
                await self.release("tunerd is away")
            await self.engine.client.close()

    async def _stop_engine(self) -> None:
        if self.engine is not None:  # it stays ours until it is gone, even if this is cancelled
            await self.engine.stop(timeout_s=self._config.engine.stop_timeout_s)
            self.engine = None

    async def _route(
        self, gate: str, reason: str, *, eta_s: float | None = None, ttl_s: float | None = None
    ) -> None:
        route: EngineRoute | None = None
        if self.engine is not None and not self.engine.ended.is_set():
            record = self.engine.record
            plain_default = not self._config.engine.default.speculating
            route = EngineRoute(
                socket=record.socket,
                token=record.token,
                profile=record.profile,
                refuses_plain=self.engine.knobs.speculating and plain_default,
            )
        self._wish = Wish(gate=gate, reason=reason, engine=route, eta_s=eta_s, ttl_s=ttl_s)
        for _ in range(GATEWAY_TRIES):  # a gateway that was restarted is back within a second
            with contextlib.suppress(UnavailableError):
                await self._tell()
                return
            await asyncio.sleep(GATEWAY_RETRY_S)
        # without a gateway there are no requests; it learns the route when it is back
        log.warning("gateway away gate=%s", gate)

    async def keep_route(self) -> None:
        """Tell a gateway that was restarted the route in force, until cancelled."""
        while True:
            await asyncio.sleep(GATEWAY_RETRY_S)
            with contextlib.suppress(UnavailableError):
                state = await self._gateway.state()
                if self._wish is not None and state["pid"] != self._gateway_pid:
                    log.info("gateway pid=%s learns the route", state["pid"])
                    await self._tell()

    async def _tell(self) -> None:
        async with self._told:
            self._gateway_pid = None
            if self._wish is not None:
                self._gateway_pid = (await self._gateway.route(**self._wish))["pid"]

    def _watch(self, engine: Engine) -> None:
        def died() -> None:
            if self.engine is engine and self._on_death is not None:
                self._on_death()

        engine.on_death(died)
