"""`tuner demo`: two applications, a real vLLM, a search, and hot restarts under traffic."""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from profiles.errors import ExitCode, TunerError
from service.demo import report
from service.demo.deepen import demo_pair
from service.demo.stage import Stage
from service.demo.traffic import Application, Load, Tally, editor, writer

CLIENTS = 8  # of the application that is looked at
LEARN_REQUESTS = 16  # of an application before its class is looked at
LEARN_S = 180.0  # longest wait for them
PHASE_S = 300.0  # longest wait for a switch
AFTER_S = 8.0  # of traffic after a switch


def main() -> int:
    """Run the demo; 0 when every request was answered."""
    parser = argparse.ArgumentParser(prog="tuner demo", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer engine starts")
    parser.add_argument("--keep", action="store_true", help="keep store and logs")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="for derived models")
    options = parser.parse_args()
    console = Console(stderr=options.json, highlight=False)
    folder = Path(tempfile.mkdtemp(prefix="tuner-demo-"))
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # end what was started, then ourselves
    try:
        result = asyncio.run(Demo(console, folder, quick=options.quick).run(options.cache))
    except TunerError as error:
        console.print(f"[red]{error.sentence()}[/red]")
        return int(error.exit_code)
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    finally:
        if options.keep:
            console.print(f"store and logs: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        sys.stdout.write(json.dumps({"v": 1, **result}) + "\n")
    return int(ExitCode.OK if result["failed"] == 0 else ExitCode.NEGATIVE)


def default_cache() -> Path:
    """Where derived models are kept: made once, 39 MB."""
    base = os.environ.get("TUNER_DEMO_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return Path(base or Path.home() / ".cache") / "tunerd"


class Demo:
    """The acts of the demo, in order."""

    def __init__(self, console: Console, folder: Path, *, quick: bool) -> None:
        self._console = console
        self._folder = folder
        self._quick = quick
        self._tallies: dict[str, Tally] = {"editor": Tally(), "writer": Tally()}

    async def run(self, cache: Path) -> dict[str, Any]:
        """All acts; the figures that were measured."""
        began = time.monotonic()
        pair = await asyncio.to_thread(demo_pair, cache)
        with Stage(self._folder, pair, quick=self._quick) as stage:
            self._say(f"gateway on {stage.url}/v1, vLLM starts behind it")
            await stage.wait_for("serving", "probation")
            classes = {app.name: await self._learn(stage, app) for app in (editor(), writer())}
            await self._tune(stage, classes)
            found = await self._found(stage, classes)
            for application in (editor(), writer()):
                await self._switch(stage, application, classes[application.name], found)
            status = await asyncio.to_thread(stage.status)
            trials = stage.control.get("/v1/trials?limit=200")["trials"]
        self._console.print(report.trial_table(trials))
        self._console.print(report.class_table(list(found.values())))
        table = report.request_table(self._tallies, status["gateway"], status["restarts"])
        self._console.print(table)
        report.print_failures(self._console, self._tallies)
        failed = sum(tally.failed for tally in self._tallies.values())
        return {
            "classes": list(found.values()),
            "requests": {
                name: {"sent": t.sent, "answered": t.answered, "failed": t.failed}
                for name, t in self._tallies.items()
            },
            "failed": failed,
            "restarts": status["restarts"],
            "held": status["gateway"]["counters"],
            "seconds": time.monotonic() - began,
        }

    async def _learn(self, stage: Stage, application: Application) -> str:
        """Let one application alone send until its traffic has a class."""
        self._say(f"{application.name} sends with {CLIENTS} clients")
        deadline = time.monotonic() + LEARN_S
        mine: list[dict[str, Any]] = []
        async with self._load(stage, application, CLIENTS):
            while sum(c["requests"] for c in mine) < LEARN_REQUESTS:
                if time.monotonic() > deadline:
                    raise TunerError(f"{application.name} got no answers in {LEARN_S:g} s.")
                await asyncio.sleep(1.0)
                status = await asyncio.to_thread(stage.status)
                mine = [
                    c for c in status["traffic"]["classes"] if application.name in c["applications"]
                ]
        row = max(mine, key=lambda c: c["requests"])
        self._say(
            f"  class {row['workload']}: {row['requests']} requests, "
            f"{row['tok_s']:.0f} tok/s at concurrency {row['concurrency']:.1f}"
        )
        return str(row["workload"])

    async def _tune(self, stage: Stage, classes: Mapping[str, str]) -> None:
        """Tune both classes while both applications keep sending."""
        self._say("both send on while their classes are tuned; held requests are answered later")
        half = CLIENTS // 2
        last = ""
        async with self._load(stage, editor(), half), self._load(stage, writer(), half):
            stage.control.post("/v1/tune", {"classes": sorted(set(classes.values()))})
            await asyncio.sleep(2.0)
            while True:
                status = await stage.try_status()
                tuning = status and status["tuning"]
                if status is not None and tuning and tuning["sentence"] != last:
                    last = tuning["sentence"]
                    self._say(f"  {tuning['phase']}: {last}{_best(tuning)}")
                if status is not None and status["mode"] in {"serving", "probation"}:
                    return
                await asyncio.sleep(1.0)

    async def _found(self, stage: Stage, classes: Mapping[str, str]) -> dict[str, Any]:
        """The verdict of each application's class."""
        profiles = (await asyncio.to_thread(stage.control.get, "/v1/profiles"))["profiles"]
        found: dict[str, Any] = {}
        for application, workload in classes.items():
            mine = [p for p in profiles if p["workload"] == workload]
            newest = max(mine, key=lambda p: p["created_at"], default=None)
            if newest is None:
                raise TunerError(f"{workload} has no verdict.", hint=f"See {stage.log}.")
            found[application] = {
                **newest,
                "application": application,
                "promoted": newest["origin"] == "search",
            }
            self._say(f"  {workload}: {newest['evidence']['sentence']}")
        return found

    async def _switch(
        self, stage: Stage, application: Application, workload: str, found: Mapping[str, Any]
    ) -> None:
        """One application alone: its profile comes into force under its own traffic."""
        wanted = found[application.name]["knobs"]
        self._say(f"{application.name} alone: {found[application.name]['label']} is wanted")
        async with self._load(stage, application, CLIENTS):
            deadline = time.monotonic() + PHASE_S
            while time.monotonic() < deadline:
                status = await stage.try_status()
                if (
                    status is not None
                    and status["profile"]["knobs"] == wanted
                    and status["mode"] in {"serving", "probation"}
                ):
                    break
                await asyncio.sleep(0.5)
            else:
                raise TunerError(f"The profile of {workload} did not come into force in time.")
            self._say(f"  in force: {status['profile']['why']}")
            await asyncio.sleep(AFTER_S)

    @contextlib.asynccontextmanager
    async def _load(
        self, stage: Stage, application: Application, clients: int
    ) -> AsyncIterator[None]:
        tally = self._tallies[application.name]
        async with Load(stage.url, application, clients, tally):
            yield

    def _say(self, sentence: str) -> None:
        self._console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] {sentence}")


def _best(tuning: Mapping[str, Any]) -> str:
    best = [f"{w}: {b['label']} {b['tok_s']:.0f} tok/s" for w, b in tuning["best"].items() if b]
    return f"  (best so far: {'; '.join(best)})" if best else ""


if __name__ == "__main__":
    sys.exit(main())
