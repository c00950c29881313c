"""What each fault does, and how it is undone again."""

import asyncio
import signal
from typing import Any

from soaking import clients
from soaking.around import Around
from soaking.faults import Fault
from soaking.hands import send

LENGTHS = (2, 3, 4, 5, 6, 7, 8)  # of the profiles that the operator chooses from


class Acts(Around):
    """One method per `Fault.act`; each returns a note when it has undone what it did."""

    _choices = 0

    async def strike(self, fault: Fault, lasts_s: float) -> str:
        """Do it, keep it up, undo it."""
        act = getattr(self, fault.act)
        return str(await act(fault.target, lasts_s) or "")

    async def bad_start(self, _: str, lasts_s: float) -> str:
        """The engine is killed, and none comes up for a while."""
        seen = self.found("engine")
        self.house.script(**self.house.normal, exit={"code": 1, "log": "oom"})
        try:
            for each in seen:
                send(each.pid, signal.SIGKILL)
            await asyncio.sleep(lasts_s)
        finally:
            self.house.script(**self.house.normal)
        await self._another_engine({each.token for each in seen})
        return ""

    async def die(self, _: str, lasts_s: float) -> str:
        """The engine dies within an answer, and so does each one that follows, for a while."""
        return await self._misbehave({"kind": "die", "after": 3}, lasts_s, dies=True)

    async def hang(self, _: str, lasts_s: float) -> str:
        """The engine says nothing more within answers, and is well as far as /health knows."""
        return await self._misbehave({"kind": "hang", "after": 2}, lasts_s, dies=False)

    async def _misbehave(self, fail: dict[str, Any], lasts_s: float, *, dies: bool) -> str:
        tokens = {each.token for each in self.found("engine")}
        self.house.script(**self.house.normal, fail=fail)
        try:
            if dies:  # without traffic nothing dies
                await self.until(lambda: not self._alive(tokens), within_s=5.0)
            await asyncio.sleep(lasts_s)
        finally:
            self.house.script(**self.house.normal)
        lived = self._alive(tokens)
        if dies and not lived:
            await self._another_engine(tokens)
        elif not dies:  # what hangs is ended by the gateway's timeout
            await asyncio.sleep(float(self.house.settings()["gateway"]["idle_timeout_s"]))
        return "it lived on" if dies and lived else ""

    async def choose(self, _: str, __: float) -> str:
        """The operator puts a profile in force, or hands the choice back."""
        self._choices += 1
        if self._choices % 3 == 0:
            status, answered = await self.ask("POST", "/v1/use", {"profile": "auto"})
            return f"auto: {status}"
        lengths = LENGTHS[self._choices % len(LENGTHS) :] + LENGTHS
        for length in lengths[: len(LENGTHS)]:
            knobs = {"drafter": "ngram", "draft_length": length}
            if self.house.real:
                knobs["cpu_kv_gib"] = 1
            given = {"knobs": knobs, "platform": "elsewhere", "workload": "any", "origin": "import"}
            status, answered = await self.ask("POST", "/v1/profiles/import", {"profile": given})
            if status != 200:
                return f"import: {status} {answered['error']['message']}"
            status, answered = await self.ask("POST", "/v1/use", {"profile": answered["id"]})
            if status == 200:  # else it is in quarantine
                return str(answered["sentence"])
        return f"every profile is refused: {answered['error']['message']}"

    async def slowloris(self, _: str, lasts_s: float) -> str:
        """Heads that never end and bodies that trickle."""
        return await clients.slowloris(self.house.port, lasts_s)

    async def never_read(self, _: str, lasts_s: float) -> str:
        """A client asks the status socket all the time and reads nothing."""
        return await clients.never_read(self.house.folder / "run" / "status.sock", lasts_s)
