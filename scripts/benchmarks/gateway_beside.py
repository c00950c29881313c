"""`scripts/bench gateway --beside-tunerd`: the gateway's tail while tunerd computes or hangs.

A whole service: gateway, tunerd and a fake vLLM; the gateway is then pointed at the scripted
upstream. The search step runs in a process of its own, as tunerd's does beside the gateway, and
loops, at tunerd's priority and at a low one; a plain loop in its place shows what a busy core does
whoever keeps it busy. "apart" keeps gateway, upstream and client on one core and the disturber on
the other; "shared" leaves both to the kernel.
"""

import argparse
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil
from gateway_measure import Shape, measure, shown, table
from gateway_ways import HERE, ROOT, Way, route, spawn, upstream
from peers_process import free_port

SHAPE = Shape(streams=32, tokens=150, token_s=0.02)
STATES = ("quiet", "searching", "low priority", "hung", "busy loop")
PLACES = {"apart": (0,), "shared": (0, 1)}  # cores of gateway, upstream and client
OTHER = {"apart": (1,), "shared": (0, 1)}  # of what disturbs them
KEYS = (("chunk_p50_ms", "p50, ms", 3), ("chunk_p99_ms", "p99, ms", 2))

Runs = dict[str, dict[str, list[dict[str, float]]]]


def run(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Rounds of all states, each with the cores shared and apart."""
    sys.path.insert(0, str(ROOT / "tests"))
    from stage import staged  # the tests' own way to start a whole service

    runs: Runs = {place: {state: [] for state in STATES} for place in PLACES}
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(staged()).start()
        engine = folder / "upstream.sock"
        engine_pid = upstream(stack, folder, engine, free_port()).pid
        tunerd = psutil.Process(service.status()["pid"])
        route(service.folder / "run" / "gateway.sock", engine)
        gateway = Way(
            name="tunerd gateway",
            url=f"http://127.0.0.1:{service.port}",
            pid=service.named("service.gateway")[0].pid,
        )
        step = [sys.executable, str(HERE / "gateway_search_step.py")]
        disturbers = {
            "searching": spawn(stack, folder, "search", step),
            "low priority": spawn(stack, folder, "low", ["nice", "-n", "10", *step]),
            "busy loop": spawn(stack, folder, "loop", [sys.executable, "-c", "while True: pass"]),
        }
        log = folder / "search.log"
        for each in (log, folder / "low.log"):
            while not each.read_text():  # imports, and the first step
                time.sleep(0.2)
        for pid in disturbers.values():
            os.kill(pid, signal.SIGSTOP)
            stack.callback(os.kill, pid, signal.SIGCONT)  # else it could not be ended in time
        measure(gateway, SHAPE)
        for _ in range(options.rounds):
            both = [(place, state) for place in PLACES for state in STATES]
            for place, state in random.sample(both, len(both)):
                gateway.pin(PLACES[place])
                psutil.Process(engine_pid).cpu_affinity(list(PLACES[place]))
                halted = tunerd.pid if state == "hung" else None
                with _disturbed(disturbers.get(state), OTHER[place], halted):
                    seen = measure(gateway, SHAPE, cores=PLACES[place])
                runs[place][state].append(seen)
                print(f"{place} {state}: {seen}", file=sys.stderr)
        steps = [float(line) for line in log.read_text().split()]
        if service.status() is None or not tunerd.is_running():
            raise SystemExit("tunerd did not live through this.")
    return {"runs": runs, "search_steps_s": steps}


@contextlib.contextmanager
def _disturbed(pid: int | None, cores: tuple[int, ...], halted: int | None) -> Iterator[None]:
    """Let a process run, or halt one, for a while."""
    if pid is not None:
        psutil.Process(pid).cpu_affinity(list(cores))
        os.kill(pid, signal.SIGCONT)
    if halted is not None:
        os.kill(halted, signal.SIGSTOP)
    try:
        yield
    finally:
        if pid is not None:
            os.kill(pid, signal.SIGSTOP)
        if halted is not None:
            os.kill(halted, signal.SIGCONT)


def report(results: dict[str, Any]) -> Iterator[str]:
    """Lines of Markdown: delays, and their difference to the quiet run of the same round."""
    rows = []
    for place, by_state in results["runs"].items():
        for state, runs in by_state.items():
            cells = []
            for key, _, digits in KEYS:
                mine = [run[key] for run in runs]
                moved = [a - b[key] for a, b in zip(mine, by_state["quiet"], strict=True)]
                cells += [shown(mine, digits), "-" if state == "quiet" else shown(moved, digits)]
            rows.append([place, state, *cells])
    titles = [word for _, title, _ in KEYS for word in (title, "moved by")]
    yield from table(["cores", "tunerd", *titles], rows)
    steps = results["search_steps_s"]
    yield f"\n{len(steps)} search steps of {fmean(steps):.2f} s on average, halts included"
