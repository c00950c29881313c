"""Carries out a schedule: one fault after the other, each healed before the next."""

import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from profiles.knobs import Knobs
from soaking import watch
from soaking.acts import Acts
from soaking.faults import BY_NAME
from soaking.history import History, Struck
from soaking.house import House
from soaking.schedule import Step
from soaking.traffic import Traffic

POLL_S = 0.2
QUIET_S = 30.0  # for the gateway to notice that everybody has gone, on a busy machine
AGREE_S = 60.0  # for a switch that is under way
SERVING = {"serving", "probation"}
PATIENCE = 4  # times the bound of a fault: what heals late is late, and excuses nothing after it
STABLE = 3  # looks in a row that must find all well


class Nemesis:
    """Faults, lulls, and what is looked at between them."""

    def __init__(self, house: House, traffic: Traffic, history: History) -> None:
        self.house, self.traffic, self.history = house, traffic, history
        self._acts = Acts(house)
        self._sessions = 0

    async def run(self, steps: list[Step]) -> None:
        """Do every step, not before its second."""
        lull = False
        for step in steps:
            await asyncio.sleep(max(0.0, step.at_s - self.traffic.now))
            if step.kind == "fault":
                await self._strike(step, lull=lull)
            elif step.kind == "lull":
                lull = True
                await self.traffic.pause()
                await self.look()
                await self._search()
            else:
                lull = False
                await self._resume()

    async def look(self) -> None:
        """Without traffic nothing may be in flight, and everybody must agree."""
        await self._quiet()
        await self._agreed()

    async def status(self) -> dict[str, Any] | None:
        """What the daemon says."""
        return await asyncio.to_thread(self.house.status)

    async def _strike(self, step: Step, *, lull: bool) -> None:
        fault = BY_NAME[step.fault]
        struck = Struck(number=step.number, fault=fault.name, began=self.traffic.now, lull=lull)
        self.history.struck.append(struck)
        try:
            struck.note = await self._acts.strike(fault, step.lasts_s)
        except OSError as error:  # nobody is there to be asked: the healing says how long
            struck.note = f"{type(error).__name__}: {error}"
        struck.ended = self.traffic.now
        if await self._heals(struck.ended + PATIENCE * fault.bound_s):
            struck.healed = self.traffic.now
        shown = f"{struck.healed - struck.ended:.1f} s" if struck.healed else "NOT HEALED"
        print(
            f"{struck.began:7.1f} s  {fault.name}{' (lull)' if lull else ''}, "
            f"{struck.ended - struck.began:.1f} s, healed after {shown}; {struck.note}",
            file=sys.stderr,
        )

    async def _heals(self, until_s: float) -> bool:
        """Wait until an engine serves; a search that goes on is well too."""
        good = 0
        while self.traffic.now < until_s:
            found = await self.status()
            good = good + 1 if _well(found) else 0
            if good == STABLE:
                return True
            await asyncio.sleep(POLL_S)
        return False

    async def _quiet(self) -> None:
        """Nothing is in flight, and the gateway's counters add up."""
        self.history.quiet_checks += 1
        deadline, left = time.monotonic() + QUIET_S, ["nobody answers"]
        while left and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
            found = await self.status()
            gateway = None if found is None else found["gateway"]
            left = ["nobody answers"] if gateway is None else _left(gateway)
            if found is not None and found["mode"] in SERVING and not left:
                left = await asyncio.to_thread(self._at_engine, found["engine"])
        late = self.traffic.busy
        left += [f"{late} clients wait beyond their bound"] if late else []
        self.history.quiet += [f"{self.traffic.now:.1f} s: {each}" for each in left]

    def _at_engine(self, engine: dict[str, Any] | None) -> list[str]:
        """What the engine itself still works on: who left must have been cancelled there."""
        record = self.house.record
        if engine is None or record is None:
            return ["there is no engine"]
        try:
            running = watch.running(self.house.metrics(Path(record.socket)))
        except OSError as error:
            return [f"the engine does not answer: {error}"]
        return [f"the engine runs {running:g} requests"] if running else []

    async def _agreed(self) -> None:
        """The store, tunerd, the gateway, the record on disk and the engine name the same."""
        self.history.equal_checks += 1
        deadline, wrong = time.monotonic() + AGREE_S, ["nobody answers"]
        while wrong and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
            found = await self.status()
            if found is None:
                wrong = ["nobody answers"]
            elif found["mode"] not in SERVING:
                wrong = [f"the mode is {found['mode']}"]
                if found["mode"] == "tuning":
                    return  # a search has begun: its engines serve nobody
            else:
                wrong = await asyncio.to_thread(self._differences, found)
        self.history.unequal += [f"{self.traffic.now:.1f} s: {each}" for each in wrong]

    def _differences(self, found: dict[str, Any]) -> list[str]:
        record, gateway = self.house.record, found["gateway"]
        engines = {s.token for s in watch.scan(self.house.needle) if s.role == "engine"}
        if record is None or gateway is None or found["engine"] is None:
            return ["there is no record, no gateway or no engine"]
        knobs = Knobs.model_validate_json(record.knobs)
        stored = watch.in_force(self.house.store)
        profile = found["profile"]["id"]
        pairs = {
            "profile of store and daemon": (stored, profile),
            "profile of record and daemon": (record.profile, profile),
            "profile of gateway and daemon": ((gateway["engine"] or {}).get("profile"), profile),
            "token of gateway and record": ((gateway["engine"] or {}).get("token"), record.token),
            "token of engine and record": (engines, {record.token}),
            "knobs of engine and profile": (knobs.given(), found["profile"]["knobs"]),
        }
        return [f"{name}: {a} and {b}" for name, (a, b) in pairs.items() if a != b]

    async def _search(self) -> None:
        """Wait for a search by itself; without one, ask for it."""
        idle_s = float(self.house.settings()["tuning"]["idle_s"])
        deadline = time.monotonic() + idle_s + 4.0
        found = None
        while time.monotonic() < deadline:
            found = await self.status()
            if found is not None and found["mode"] == "tuning":
                return
            await asyncio.sleep(POLL_S)
        classes = sorted(c["workload"] for c in (found or {}).get("traffic", {}).get("classes", ()))
        if classes:
            self._sessions += 1
            wanted = [classes[self._sessions % len(classes)]]
            with contextlib.suppress(OSError, ValueError):
                await self._acts.ask("POST", "/v1/tune", {"classes": wanted})

    async def _resume(self) -> None:
        """Traffic is back; a search that was asked for is ended by whoever asked."""
        with contextlib.suppress(OSError, ValueError):
            await self._acts.ask("POST", "/v1/tune/stop", {})
        self.traffic.go()


def _well(found: dict[str, Any] | None) -> bool:
    if found is None or found["gateway"] is None:
        return False
    if found["mode"] == "tuning":
        return True
    served, engine = found["gateway"]["engine"] or {}, found["engine"] or {}
    return (
        found["mode"] in SERVING
        and found["gateway"]["gate"] == "open"
        and engine.get("state") == "running"
        and served.get("token") == engine.get("token")
    )


def _left(gateway: dict[str, Any]) -> list[str]:
    counters = gateway["counters"]
    ends = sum(counters[key] for key in ("answered", "failed", "rejected", "client_gone"))
    found = [f"{key} = {gateway[key]}" for key in ("in_flight", "held", "held_bytes")]
    found = [each for each in found if not each.endswith(" = 0")]
    if counters["received"] != ends:
        found.append(f"received {counters['received']}, ended {ends}: {json.dumps(counters)}")
    return found


async def observe(house: House, traffic: Traffic, history: History, every_s: float = 1.0) -> None:
    """Look at the processes until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        evidence = await asyncio.to_thread(watch.two_engines, house.needle)
        if evidence is not None:
            history.two_engines.append(f"{traffic.now:.1f} s: {evidence}")
        for seen in await asyncio.to_thread(watch.scan, house.needle):
            if seen.role in {"gateway", "tunerd", "supervisor"}:
                found = watch.sample(seen, traffic.now)
                if found is not None:
                    history.samples.append(found)
        traffic.check()


def searched(house: House, marker: str, history: History) -> None:
    """Look for a prompt and for tracebacks in what the service has written."""
    history.marked, history.files_searched = watch.files_with(house.folder, marker.encode())
    history.tracebacks = watch.tracebacks(house.log.read_text(errors="replace"))
