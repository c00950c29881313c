"""The route in force: who sets it, when it ends by itself, what to do about a silent engine."""

import asyncio
import logging
import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.gateway.errors import DEFAULT_RETRY_S
from service.gateway.gate import Engine, Gate
from service.gateway.upstream import Pool, accepts

log = logging.getLogger(__name__)

PROBE_S = 0.2  # between two looks at an engine that lost a connection
REOPEN_S = 1.0  # between two attempts to reopen after tunerd's hold ran out


class RouteWish(BaseModel):
    """What tunerd asks for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gate: Literal["open", "hold", "refuse"]
    reason: str = Field(default="", max_length=1000)
    engine: Engine | None = None
    eta_s: float | None = Field(default=None, ge=0)  # until requests are served again
    ttl_s: float | None = Field(default=None, gt=0)  # of a hold: then the gate reopens by itself


class Router:
    """Owns the gate's route; everyone else asks it."""

    def __init__(self, gate: Gate, pool: Pool) -> None:
        self.gate = gate
        self._pool = pool
        self._reason = "no engine yet"
        self._last: Engine | None = None  # last engine that requests went to
        self._ready_at: float | None = None  # monotonic, by tunerd's estimate
        self._ttl: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        gate.idle = self._idle.set

    @property
    def retry_after_s(self) -> float:
        """When a refused client should come again."""
        if self._ready_at is None:
            return DEFAULT_RETRY_S
        return max(self._ready_at - time.monotonic(), 1.0)

    @property
    def left_s(self) -> float | None:
        """The rest of tunerd's estimate until requests are served; None when it is over."""
        left_s = 0.0 if self._ready_at is None else self._ready_at - time.monotonic()
        return left_s if left_s > 0 else None

    def put(self, wish: RouteWish) -> None:
        """Put a route in force."""
        now = time.monotonic()
        self._ready_at = None if wish.eta_s is None else now + wish.eta_s
        _stop(self._ttl)
        self._ttl = None
        if wish.gate == "hold" and wish.ttl_s is not None:
            last = wish.engine or self._last
            self._ttl = asyncio.create_task(self._expire(last, wish.ttl_s), name="hold ttl")
        self._set(
            is_open=wish.gate == "open",
            reason=wish.reason,
            engine=wish.engine,
            refuses=wish.gate == "refuse",
        )

    def lost(self, engine: Engine) -> None:
        """A connection to this engine broke before it answered: hold until it or another does."""
        if self.gate.suspect == engine.token or not self.gate.doubt(engine.token):
            return
        log.warning("gate hold: engine %s does not answer; %s", engine.token, self._counts())
        _stop(self._probe)
        self._probe = asyncio.create_task(self._watch(engine), name="engine probe")

    async def drained(self, deadline_s: float) -> int:
        """Wait until no request is at the engine; how many still are at the deadline."""
        deadline = time.monotonic() + deadline_s
        while self.gate.in_flight and (left_s := deadline - time.monotonic()) > 0:
            self._idle.clear()
            try:
                await asyncio.wait_for(self._idle.wait(), left_s)
            except TimeoutError:
                break
        return self.gate.in_flight

    def state(self) -> dict[str, Any]:
        """Gate and engine as they are in effect."""
        gate = self.gate
        engine = gate.engine
        silent = engine is not None and gate.suspect == engine.token
        return {
            "gate": "open" if gate.passing else "refuse" if gate.refuses else "hold",
            "reason": "the engine does not answer" if silent else self._reason,
            "engine": None
            if engine is None
            else {
                "socket": engine.socket,
                "token": engine.token,
                "profile": engine.profile,
                "refuses_plain": engine.refuses_plain,
            },
            "in_flight": gate.in_flight,
            "held": gate.held,
            "held_bytes": gate.held_size,
            "plain_waiting": gate.plain_waiting,
        }

    async def close(self) -> None:
        """End the timers."""
        tasks = [task for task in (self._ttl, self._probe) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _set(
        self, *, is_open: bool, reason: str, engine: Engine | None, refuses: bool = False
    ) -> None:
        before = (self.gate.is_open, self.gate.refuses, self.gate.engine)
        self._reason = reason
        self.gate.route(is_open=is_open, engine=engine, now=time.monotonic(), refuses=refuses)
        if engine is not None:
            self._last = engine
            self._pool.keep(engine.token)
        if before != (is_open, refuses, engine):
            log.info(
                "gate %s: %s; engine %s; %s",
                "open" if is_open else "refuse" if refuses else "hold",
                # one line, whatever the caller wrote
                reason.encode("unicode_escape").decode(),
                "none" if engine is None else engine.token,
                self._counts(),
            )

    def _counts(self) -> str:
        return f"in_flight={self.gate.in_flight} held={self.gate.held}"

    async def _expire(self, engine: Engine | None, ttl_s: float) -> None:
        """Reopen to the engine when nobody renewed the hold, as soon as it accepts."""
        await asyncio.sleep(ttl_s)
        if engine is None:
            return
        while not await accepts(engine.socket):  # noqa: ASYNC110 - nobody can tell us
            await asyncio.sleep(REOPEN_S)
        self._ready_at = None
        self._set(is_open=True, reason="the hold was not renewed", engine=engine)

    async def _watch(self, engine: Engine) -> None:
        """Trust an engine again when it accepts connections."""
        while True:
            await asyncio.sleep(PROBE_S)
            if self.gate.suspect != engine.token:
                return  # another engine has taken its place
            if await accepts(engine.socket):
                log.info("gate open: engine %s answers again; %s", engine.token, self._counts())
                self.gate.trust(engine.token, time.monotonic())
                return


def _stop(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
