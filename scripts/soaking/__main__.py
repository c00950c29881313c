"""`scripts/soak [MINUTES]`: random faults under continuous traffic, with invariants checked.

Starts `tuner run` in a folder of its own, with a fake vLLM or, with --real, a real one. Exit
status 0 only if every invariant held. The same seed gives the same faults in the same order.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import resource
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

from soaking import watch
from soaking.checker import check
from soaking.faults import BY_NAME, FAULTS, Fault
from soaking.history import History
from soaking.house import House, house
from soaking.nemesis import Nemesis, observe, searched
from soaking.report import record, tables
from soaking.schedule import schedule
from soaking.traffic import Traffic

# of one request: the hold, three sends to engines that say nothing, and a busy machine
BOUND_S = {False: 200.0, True: 500.0}
STOP_S = 120.0
SETTLE_S = 3.0  # after the last request, before all is looked at for the last time


def main() -> int:
    """Soak, print the tables, and say by the exit status whether everything held."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("minutes", type=float, nargs="?", default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="another one each time without it")
    parser.add_argument("--real", action="store_true", help="a real vLLM (CPU build)")
    parser.add_argument("--faults", default="", help="only these, separated by commas")
    parser.add_argument("--list", action="store_true", help="print the schedule and end")
    parser.add_argument("--json", type=Path, help="write the record here")
    parser.add_argument("--log", type=Path, help="keep the service's log here")
    options = parser.parse_args()
    # whoever ends us ends the service with us
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    try:
        wanted = _wanted(options.faults)
    except KeyError as error:
        parser.error(f"there is no fault {error}; there are: {', '.join(BY_NAME)}")
    print(f"seed {seed}", file=sys.stderr)
    length_s = options.minutes * 60
    if options.list:
        for step in schedule(seed, length_s, wanted):
            print(f"{step.at_s:8.1f} s  {step.kind} {step.fault} {step.lasts_s:.1f}")
        return 0
    history = History(real=options.real, bound_s=BOUND_S[options.real], length_s=length_s)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave nothing behind then either
    began = time.strftime("%Y-%m-%d")
    with house(real=options.real) as (found, lacks):
        history.skipped = {f.name: lacks[f.needs] for f in FAULTS if f.needs in lacks}
        usable = [fault for fault in wanted if fault.name not in history.skipped]
        asyncio.run(_soak(found, history, usable, seed=seed))
        if options.log is not None:
            options.log.write_bytes(found.log.read_bytes())
    history.facts = {
        "seed": seed,
        "minutes": options.minutes,
        "engine": "vLLM" if options.real else "fake",
        "date": began,
        "machine": f"{os.cpu_count()} CPUs, {platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **history.facts,
    }
    verdicts = check(history)
    print("\n".join(tables(history, verdicts)))
    if options.json is not None:
        options.json.write_text(json.dumps(record(history, verdicts), indent=1) + "\n")
    return 0 if all(verdict.held for verdict in verdicts) else 1


def _wanted(names: str) -> list[Fault]:
    if not names:
        return list(FAULTS)
    return [BY_NAME[name.strip()] for name in names.split(",")]


async def _soak(place: House, history: History, faults: list[Fault], *, seed: int) -> None:
    """Start, disturb, stop, and look at what is left."""
    marker = f"soak{secrets.token_hex(8)}"  # in every prompt
    await asyncio.to_thread(place.start)
    url = f"http://127.0.0.1:{place.port}"
    async with Traffic(history, url=url, marker=marker, seed=seed) as traffic:
        nemesis = Nemesis(place, traffic, history)
        tasks = [
            asyncio.create_task(observe(place, traffic, history)),
            asyncio.create_task(_kept_up(place, traffic, history)),
        ]
        traffic.go()
        try:
            await _beside(nemesis.run(schedule(seed, history.length_s, faults)), tasks)
            await _beside(asyncio.sleep(max(0.0, history.length_s - traffic.now)), tasks)
            await traffic.pause()
            await asyncio.sleep(SETTLE_S)
            await _beside(nemesis.look(), tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            history.length_s = traffic.now
    await asyncio.to_thread(_end, place, history)
    searched(place, marker, history)
    own = resource.getrusage(resource.RUSAGE_SELF)
    everything = resource.getrusage(resource.RUSAGE_CHILDREN)
    history.facts = {
        "CPU of the soak": f"{own.ru_utime + own.ru_stime:.0f} s",
        "CPU of the service": f"{everything.ru_utime + everything.ru_stime:.0f} s",
        **watch.counts(place.store),
        "engine starts": len(list(place.state.glob("log/*"))),
        "log": f"{place.log.stat().st_size // 1024} KiB",
    }


async def _beside(work: "asyncio.Future[None] | object", tasks: list["asyncio.Task[None]"]) -> None:
    """Do the work; a watcher that ends is a defect of ours and ends everything."""
    main_task = asyncio.ensure_future(work)  # type: ignore[arg-type]
    done, _ = await asyncio.wait([main_task, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        if task is not main_task:
            main_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await main_task
        task.result()


async def _kept_up(place: House, traffic: Traffic, history: History) -> None:
    """Note when the service ends by itself, and start it again as a service manager would."""
    while True:
        await asyncio.sleep(0.5)
        assert place.process is not None
        status = place.process.poll()
        if status is not None:
            last = place.log.read_text(errors="replace").splitlines()[-1:]
            history.ended.append(f"{traffic.now:.1f} s: status {status}: {last}")
            await asyncio.to_thread(place.spawn)


def _end(place: House, history: History) -> None:
    """SIGTERM to all, and see what is left."""
    assert place.process is not None
    place.process.send_signal(signal.SIGTERM)
    try:
        status = place.process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        history.left_over.append(f"it did not stop within {STOP_S:g} s")
    else:
        if status:
            history.ended.append(f"the stop ended with status {status}")
    history.left_over += [f"{p.pid}: {' '.join(p.cmdline())}" for p in place.processes()]


if __name__ == "__main__":
    sys.exit(main())
