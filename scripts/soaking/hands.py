"""What faults of every kind need: processes found, killed, stopped, waited for."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from soaking import watch
from soaking.house import House

POLL_S = 0.1
NOTICE_S = 30.0  # until the service has seen what was done


class Hands:
    """Reaches for the processes of a house, and asks its daemon."""

    def __init__(self, house: House) -> None:
        self.house = house

    def found(self, role: str) -> list[watch.Seen]:
        """The live processes of a role."""
        return [seen for seen in watch.scan(self.house.needle) if seen.role == role]

    async def kill(self, target: str, _: float) -> str:
        """SIGKILL."""
        seen = self.end(target)
        await self.until(lambda: {s.pid for s in self.found(target)} - seen)
        return "" if seen else f"there was no {target}"

    def end(self, target: str) -> set[int]:
        pids = {seen.pid for seen in self.found(target)}
        for pid in pids:
            send(pid, signal.SIGKILL)
        return pids

    async def again(self, target: str) -> str:
        """How long it took until there was one again."""
        began = time.monotonic()
        await self.until(lambda: not target or self.found(target))
        return f"back after {time.monotonic() - began:.1f} s" if target else ""

    async def kill_engine(self, _: str, __: float) -> str:
        """SIGKILL of an engine's main process."""
        seen = self.found("engine")
        for each in seen:
            send(each.pid, signal.SIGKILL)
        await self._another_engine({each.token for each in seen})
        return "" if seen else "there was no engine"

    async def kill_child(self, _: str, __: float) -> str:
        """SIGKILL of what an engine has started."""
        seen = self.found("engine child")
        for each in seen:
            send(each.pid, signal.SIGKILL)
        return "" if seen else "the engine had no child"

    async def stop(self, target: str, lasts_s: float) -> str:
        """SIGSTOP, and SIGCONT after a while."""
        seen = self.found(target)
        for each in seen:
            send(each.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(lasts_s)
        finally:
            for each in seen:
                send(each.pid, signal.SIGCONT)
        return "" if seen else f"there was no {target}"

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """A question to the control socket."""
        return await asyncio.to_thread(self.house.ask, method, path, body)

    async def _another_engine(self, tokens: set[str]) -> None:
        await self.until(lambda: {each.token for each in self.found("engine")} - tokens)

    def _alive(self, tokens: set[str]) -> set[str]:
        return tokens & {each.token for each in self.found("engine")}

    async def until(self, condition: Callable[[], Any], *, within_s: float = NOTICE_S) -> None:
        """Wait for it; the healing, which has a bound, says what did not come."""
        deadline = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > deadline:
                return
            await asyncio.sleep(POLL_S)


def send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
