"""What each fault does, and how it is undone again."""

import asyncio
import contextlib
import signal
import sys
import time
from typing import Any

from stage import ROOT

from soaking import clients
from soaking.around import Around
from soaking.faults import Fault
from soaking.hands import NOTICE_S, POLL_S, send

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
            status, _answered = await self.ask("POST", "/v1/use", {"profile": "auto"})
            return f"auto: {status}"
        sentence = "no profile can be imported"
        for length in self._lengths():
            profile = await self._profile(length)
            status, answered = await self.ask("POST", "/v1/use", {"profile": profile})
            if status == 200:  # else it is in quarantine
                return str(answered["sentence"])
            sentence = answered["error"]["message"]
        return sentence

    async def hold(self, target: str, lasts_s: float) -> str:
        """An application holds a profile, and is killed while it does."""
        self._choices += 1
        profile = await self._profile(self._lengths()[0])
        config = str(self.house.folder / "tuner.toml")
        holder = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tuner.cli", "--config", config, "hold", target, profile),
            cwd=ROOT,
            env=self.house.environ(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await asyncio.sleep(lasts_s)
            held = await self._held()
        finally:
            with contextlib.suppress(ProcessLookupError):
                holder.kill()
            await holder.wait()
        left, deadline = held, time.monotonic() + NOTICE_S
        while left and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
            left = await self._held()
        return f"{held} held, {left} after its end"

    async def _held(self) -> int:
        _status, answered = await self.ask("GET", "/v1/holds")
        return len(answered["holds"])

    def _lengths(self) -> list[int]:
        """Every draft length, beginning with another one each time."""
        at = self._choices % len(LENGTHS)
        return [*LENGTHS[at:], *LENGTHS[:at]]

    async def _profile(self, length: int) -> str:
        """Import a profile; its id."""
        knobs: dict[str, Any] = {"drafter": "ngram", "draft_length": length}
        if self.house.real:
            knobs["cpu_kv_gib"] = 1
        given = {"knobs": knobs, "platform": "elsewhere", "workload": "any", "origin": "import"}
        _status, answered = await self.ask("POST", "/v1/profiles/import", {"profile": given})
        return str(answered["id"])

    async def slowloris(self, _: str, lasts_s: float) -> str:
        """Heads that never end and bodies that trickle."""
        return await clients.slowloris(self.house.port, lasts_s)

    async def never_read(self, _: str, lasts_s: float) -> str:
        """A client asks the status socket all the time and reads nothing."""
        return await clients.never_read(self.house.folder / "run" / "status.sock", lasts_s)
