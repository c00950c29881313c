"""The watchman: looks whether the engine works, and ends one that hangs."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from profiles.errors import UnavailableError
from service.engine import Engine
from service.modes import Mode
from service.pulse import Finding, Look, Pulse, felt, finding
from service.state import Parts, State
from tuner.scrape import EngineCounters, parse_counters

LOOKS = 4  # within the time after which an engine counts as hung
READ_S = 30.0  # for its counters, at most
# while an engine is replaced its owner has deadlines of its own
WATCHED = frozenset({Mode.SERVING, Mode.PROBATION, Mode.TUNING})


class Watchman:
    """Ends a hung engine by its group; what follows is that of any other death."""

    def __init__(
        self, parts: Parts, state: State, *, say: Callable[[str, str], Awaitable[None]]
    ) -> None:
        self._parts = parts
        self._state = state
        self._say = say
        self._pulse: Pulse | None = None

    async def watch(self) -> None:
        """Look again and again until cancelled."""
        while True:
            await asyncio.sleep(self._parts.config.engine.hang_s / LOOKS)
            with contextlib.suppress(UnavailableError):  # without a gateway nobody waits
                await self.look()

    async def look(self) -> None:
        """Look once, and do what is to be done."""
        engine, config = self._parts.slot.engine, self._parts.config.engine
        if engine is None or engine.ended.is_set() or self._state.mode not in WATCHED:
            self._pulse = None
            return
        counters = await self._counters(engine)
        gateway = await self._parts.gateway.state()
        if engine.ended.is_set():  # a question to its closed client would end tunerd
            self._pulse = None
            return
        self._pulse = felt(
            self._pulse,
            Look(
                at=time.monotonic(),
                token=engine.record.token,
                signs=None if counters is None else repr(counters),
                running=counters is not None and counters.running + counters.waiting > 0,
                in_flight=gateway["in_flight"] > 0,
                generated=gateway["generated_bytes"],
            ),
        )
        found = finding(
            self._pulse,
            readable=counters is not None,
            hang_s=config.hang_s,
            canary_s=config.canary_s,
        )
        silent_s = self._pulse.silent_s(self._pulse.look.at)
        if found is Finding.HUNG:
            await self._end(engine, f"requests run, and no step was made for {silent_s:.0f} s")
        elif found is Finding.ASK and self._state.mode is not Mode.TUNING:
            if await engine.client.silent(config.hang_s):
                await self._end(engine, f"a short request had no answer within {config.hang_s:g} s")
            self._pulse = None  # it has answered, or it is gone

    async def _counters(self, engine: Engine) -> EngineCounters | None:
        page = await engine.client.metrics(min(self._parts.config.engine.hang_s, READ_S))
        if page is None:
            return None
        try:
            return await asyncio.to_thread(parse_counters, page)
        except ValueError:  # --disable-log-stats
            return None

    async def _end(self, engine: Engine, why: str) -> None:
        if engine is not self._parts.slot.engine or engine.ended.is_set():
            return  # it was replaced meanwhile
        await self._say("hung", f"the engine hangs: {why}; it is ended and started again")
        await engine.kill()
