"""Parts of `scripts/bench live`: what our scheduler costs beside vLLM's own."""

import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import scheduler_stage as stage
from engine_stage import ROOT, engine, load

from profiles.knobs import Knobs
from service.engine_site import tuner_layout as layout
from tuner.compare import fixed_interval

K = 3
PAIRS, BLOCK_S = 16, 3.0
BATCHES, REPEATS, STEPS = (1, 8, 64), 60, 300


async def overhead(results: dict[str, Any]) -> None:
    """Plain vLLM and ours with the same constant table, both running, loaded in turn."""
    ours = Knobs(drafter="dflash", draft_length=K, live=True)
    plain = Knobs(drafter="dflash", draft_length=K, draft_schedule=((1, 1 << 20, K),))
    rates: dict[str, list[float]] = {"plain": [], "ours": []}
    async with engine(ours, lengths=(K,)) as mine, engine(plain, live=False) as theirs:
        arms = {"plain": theirs, "ours": mine}
        for number in range(PAIRS):
            order = ("plain", "ours") if number % 2 == 0 else ("ours", "plain")
            for name in order:
                async with load(arms[name], "code", 8) as flowing:
                    result = await flowing.window(BLOCK_S)
                rates[name].append(result.output_tokens / result.seconds)
    gains = [math.log(a / b) for a, b in zip(rates["ours"], rates["plain"], strict=True)]
    around = fixed_interval(gains)
    low, mean, high = (100 * math.expm1(x) for x in (around.low, around.mean, around.high))
    results["overhead"] = {
        "rates": rates,
        "text": f"constant k={K}, concurrency 8, {PAIRS} pairs of blocks of {BLOCK_S:g} s, "
        f"interleaved: plain {statistics.fmean(rates['plain']):.0f} tok/s, ours "
        f"{statistics.fmean(rates['ours']):.0f} tok/s, {mean:+.1f} % [{low:+.1f}, {high:+.1f}]",
    }


async def step_cost(results: dict[str, Any]) -> None:
    """Microseconds that our part of a step takes, on a real scheduler object and its real output.

    The parent's methods are replaced by ones that return a recorded step, so that the difference
    is ours alone; publishing, every 100 ms in an engine, is timed apart and added for 10 ms steps.
    """
    rows, lines = (
        [],
        ["| batch | microseconds per step | publishing | at 10 ms per step |", "|---|---|---|---|"],
    )
    for batch in BATCHES:
        cost, publish = _cost(batch)
        whole = cost + publish / 10
        rows.append({"batch": batch, "cost_us": cost, "publish_us": publish})
        lines.append(f"| {batch} | {cost:.1f} | {publish:.1f} | {whole:.1f} |")
    results["step cost"] = {"rows": rows, "text": "\n".join(lines)}


def _cost(batch: int) -> tuple[float, float]:
    import tuner_scheduler

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        control = layout.encode_head(2).ljust(layout.SLOTS_AT, b"\0")
        (folder / "control").write_bytes(control + layout.encode_slot(layout.Wanted(2, [(128, 8)])))
        real = stage.scheduler(
            ROOT / "service" / "demo" / "pair" / "target-core",
            asynchronous=False,
            longest=8,
            seqs=128,
            live=True,
            folder=folder,
        )
        stage.add(real, batch)
        for _ in range(4):
            output, result = stage.step(real, 2)

        class Parent:
            def schedule(self) -> Any:
                return output

            def update_from_output(self, _: Any, __: Any) -> Any:
                return result

        class Ours(tuner_scheduler.Tuned, Parent):  # type: ignore[misc, name-defined]
            pass

        ours, parent = Ours(), Parent()
        parent.running = real.running  # type: ignore[attr-defined]
        ours.__dict__.update(real.__dict__)
        took = []
        for _ in range(REPEATS):  # interleaved
            base = _time(parent)
            took.append((_time(ours) - base) / 1e3)
        if not ours.tuner_on:
            raise SystemExit("our part of the scheduler failed during the benchmark")
        began = time.perf_counter_ns()
        for _ in range(2000):
            ours.tuner_meter.rows.add(batch)
            ours.tuner_meter.seen = {(3, 8, 8, 3): 4, (3, 8, 8, 1): 4}
            ours.tuner_meter.publish(0)
        return statistics.median(took), (time.perf_counter_ns() - began) / 2000 / 1e3


def _time(each: Any) -> float:
    began = time.perf_counter_ns()
    for _ in range(STEPS):
        each.update_from_output(each.schedule(), None)
    return (time.perf_counter_ns() - began) / STEPS
