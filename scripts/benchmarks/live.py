"""`scripts/bench live`: what learning inside the running engine costs and gives, on a real vLLM.

Parts are named as arguments; `dflash-8` and the like choose cases of the part `learn`.
"""

import asyncio
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import live_phases
from engine_stage import (
    CACHE,
    engine,
    exhaustive,
    goodput,
    link_of,
    load,
    machine,
    requests,
)  # fmt: skip
from live_overhead import overhead, step_cost

from profiles.knobs import Knobs
from profiles.schedule import length_at
from service.live_files import LiveKnobs
from service.visits import Visits
from tuner.drafts import NGRAM_PREDICTION_ERROR, PREDICTION_ERROR
from tuner.learner import Learner
from tuner.measure import MeasurePlan, measure

ARMS = (0, 1, 2, 3, 4, 6, 8, 10, 12, 15)
RESTARTED = (
    "off",
    1,
    3,
    6,
    10,
    15,
)  # the same question by restarts; every start costs half a minute
SLICE_S = 0.25
TRUTH_ROUNDS = 24
LEARNS = 5
LONGEST_S = 90.0


@dataclass(kw_only=True)
class Case:
    """One drafter at one concurrency."""

    drafter: str
    concurrency: int


CASES = (
    Case(drafter="dflash", concurrency=8),
    Case(drafter="dflash", concurrency=1),
    Case(drafter="ngram", concurrency=8),
)


async def learn(results: dict[str, Any]) -> None:
    """Seconds of traffic until the choice is right, by the exhaustive table of the same run."""
    named = [case for case in CASES if f"{case.drafter}-{case.concurrency}" in sys.argv]
    wanted = named or CASES
    for name in dict.fromkeys(case.drafter for case in wanted):
        knobs = Knobs(drafter=name, draft_length=15, live=True)
        async with engine(knobs, lengths=ARMS) as running:
            for case in (case for case in wanted if case.drafter == name):
                results[f"learn {name} c{case.concurrency}"] = await _learn(running, case)


async def _learn(running: Any, case: Case) -> dict[str, Any]:
    link = link_of(running)
    async with load(running, "code", case.concurrency):
        half = TRUTH_ROUNDS // 2
        truth = await exhaustive(link, ARMS, half, SLICE_S)
        runs = [await _one(link, case, seed) for seed in range(LEARNS)]
        # the other half afterwards, so that a machine that has changed is seen
        late = await exhaustive(link, ARMS, half, SLICE_S)
    first = {k: goodput(truth, k, case.concurrency).goodput_tok_s or 0.0 for k in ARMS}
    last = {k: goodput(late, k, case.concurrency).goodput_tok_s or 0.0 for k in ARMS}
    rates = {k: goodput([*truth, *late], k, case.concurrency).goodput_tok_s or 0.0 for k in ARMS}
    best = max(rates, key=lambda k: rates[k])
    for run in runs:
        run["regret"] = 1 - rates[run["choice"]] / rates[best]
        good = [t for t, k in run["path"] if rates[k] >= 0.98 * rates[best]]
        bad = [t for t, k in run["path"] if rates[k] < 0.98 * rates[best]]
        after = [t for t in good if t > max(bad, default=-1.0)]
        run["within_2_s"] = after[0] if after else None
    return {"rates": rates, "first": first, "last": last, "best": best, "runs": runs}


async def _one(link: Any, case: Case, seed: int) -> dict[str, Any]:
    """One fresh learner, as the live loop runs it; the path is its choice after every round."""
    error = NGRAM_PREDICTION_ERROR if case.drafter == "ngram" else PREDICTION_ERROR
    learner = Learner(arms=ARMS, seed=seed, prediction_error=error)
    visits, began, path = Visits(link), time.monotonic(), []
    while not learner.settled and time.monotonic() - began < LONGEST_S:
        for arm in learner.order():
            visit = await visits.move(arm, SLICE_S)
            if visit is not None:
                learner = learner.add(visit)
        visit = await visits.end(LiveKnobs.constant(path[-1][1] if path else 15))
        if visit is not None:
            learner = learner.add(visit)
        schedule = learner.schedule(ceiling=128, fallback=15)
        path.append((time.monotonic() - began, length_at(schedule, case.concurrency)))
    await visits.end(LiveKnobs.constant(path[-1][1]))
    return {
        "seconds": time.monotonic() - began,
        "rounds": len(learner.rounds),
        "choice": path[-1][1],
        "path": path,
        "settled": learner.settled,
    }


async def restart(results: dict[str, Any]) -> None:
    """The same question with one engine start per candidate and the tuner's own measurement."""
    plan = MeasurePlan(requests=requests("code"), concurrency=8, warmup_s=4, block_s=8, blocks=3)
    began, rows = time.monotonic(), []
    for k in RESTARTED:
        knobs = Knobs() if k == "off" else Knobs(drafter="dflash", draft_length=int(k))
        start = time.monotonic()
        async with engine(knobs, live=False) as running:
            ready = time.monotonic() - start
            socket = running.record.socket
            found = await measure(plan, socket=Path(socket), telemetry=None)
            seconds = sum(block.seconds for block in found.blocks)
            tokens = sum(block.output_tokens for block in found.blocks)
            rows.append({"arm": k, "ready_s": ready, "tok_s": tokens / seconds})
    results["restart dflash c8"] = {"rows": rows, "seconds": time.monotonic() - began}


def report(results: dict[str, Any]) -> None:
    """The tables."""
    print(f"\n{machine()}; deepened demo pair, greedy code unless said otherwise\n")
    learned = {name: each for name, each in results.items() if name.startswith("learn")}
    if learned:
        print("| case | " + " | ".join(f"k={k}" for k in ARMS) + " | best |")
        print("|---|" + "---|" * (len(ARMS) + 1))
        for name, each in learned.items():
            cells = " | ".join(f"{each['rates'][k]:.0f}" for k in ARMS)
            print(f"| {name[6:]} tok/s | {cells} | {each['best']} |")
        print("\n| case | n | within 2 % of the best after | settled after | regret | choices |")
        print("|---|---|---|---|---|---|")
        for name, each in learned.items():
            runs = each["runs"]
            times = [run["within_2_s"] for run in runs if run["within_2_s"] is not None]
            shown = f"{statistics.median(times):.1f} s (max {max(times):.1f})" if times else "never"
            settled = [run["seconds"] for run in runs]
            regrets = [100 * run["regret"] for run in runs]
            print(
                f"| {name[6:]} | {len(runs)} | {shown}, {len(times)} of {len(runs)} | "
                f"{statistics.median(settled):.1f} s (max {max(settled):.1f}) | "
                f"{statistics.median(regrets):.1f} % (max {max(regrets):.1f}) | "
                f"{sorted(run['choice'] for run in runs)} |"
            )
    if "restart dflash c8" in results:
        each = results["restart dflash c8"]
        rows = ", ".join(f"{row['arm']}: {row['tok_s']:.0f}" for row in each["rows"])
        print(f"\nrestarts: {len(each['rows'])} starts, {each['seconds']:.0f} s ({rows} tok/s)")
    for name in ("phases", "overhead", "step cost", "limits"):
        if name in results:
            print(f"\n{name}\n\n{results[name]['text']}")


PARTS = {
    "learn": learn,
    "restart": restart,
    "phases": live_phases.phases,
    "limits": live_phases.limits,
    "overhead": overhead,
    "cost": step_cost,
}


async def main() -> None:
    """Run the parts that were named, in this order."""
    results: dict[str, Any] = {}
    wanted = [word for word in sys.argv[1:] if "-" not in word] or list(PARTS)
    for name, part in PARTS.items():
        if name in wanted:
            print(f"{time.strftime('%H:%M:%S')} {name}", file=sys.stderr, flush=True)
            await part(results)
            target = CACHE / "bench" / f"live-{time.strftime('%Y%m%d-%H%M%S')}.json"
            target.write_text(json.dumps({"machine": machine(), "results": results}, default=str))
    report(results)


if __name__ == "__main__":
    asyncio.run(main())
