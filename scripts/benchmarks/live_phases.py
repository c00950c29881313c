"""Parts of `scripts/bench live`: traffic that changes its phase, and batches of mixed classes."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from engine_stage import engine, exhaustive, goodput, link_of, load, requests

from profiles.knobs import Knobs
from profiles.schedule import length_at
from service.engine_site.tuner_layout import stamped
from service.live_files import LiveKnobs
from service.live_loop import LiveLoop
from tuner.compare import fixed_interval
from tuner.config import LiveConfig
from tuner.telemetry import Telemetry

ARMS = (0, 1, 2, 3, 4, 6, 8, 10, 12, 15)
PHASES = (
    ("code", 8), ("prose", 8), ("code", 8), ("code", 1), ("code", 8), ("code", 2),
)  # fmt: skip
PHASE_S = 36.0
LAST_S = 12.0  # of a phase: what was learned is in force by then
TRUTH_ROUNDS = 10


class OneEngine:
    """What the live loop needs of a slot."""

    def __init__(self, running: Any) -> None:
        self.engine = running


async def phases(results: dict[str, Any]) -> None:
    """The live loop on phases of text and load, against every constant draft length."""
    knobs = Knobs(drafter="dflash", draft_length=15, live=True)

    async def nothing(*_: Any) -> None:
        return None

    async with engine(knobs, lengths=ARMS) as running:
        link = link_of(running)
        loop = LiveLoop(
            LiveConfig(interval_s=0.5),
            OneEngine(running),  # type: ignore[arg-type]
            Telemetry(),
            lengths=ARMS,
            may_learn=lambda: None,
            learned=nothing,
        )
        task = asyncio.create_task(loop.run())
        seen = []
        try:
            for kind, concurrency in PHASES:
                async with load(running, kind, concurrency):
                    began = link.read()
                    await asyncio.sleep(PHASE_S - LAST_S)
                    middle = link.read()
                    await asyncio.sleep(LAST_S)
                    after = link.read()
                mixture = loop.mixture
                schedule = None if mixture is None else mixture.schedule
                whole, last = after.total - began.total, after.total - middle.total
                seen.append(
                    {
                        "phase": f"{kind} c{concurrency}",
                        "k": 15 if schedule is None else length_at(schedule, concurrency),
                        "tok_s": whole.goodput_tok_s,
                        "last_tok_s": last.goodput_tok_s,
                        "reopened": 0 if mixture is None else mixture.reopened,
                        "explored": 0.0 if mixture is None else mixture.allowance.explored_share,
                        "forgone": 0.0 if mixture is None else mixture.allowance.forgone_share,
                    }
                )
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        truth: dict[str, dict[int, float]] = {}
        for kind, concurrency in dict.fromkeys(PHASES):
            # few requests give few steps: their slices have to be longer
            slice_s = 0.25 if concurrency > 2 else 0.8
            async with load(running, kind, concurrency):
                found = await exhaustive(link, ARMS, TRUTH_ROUNDS, slice_s)
            truth[f"{kind} c{concurrency}"] = {
                k: goodput(found, k, concurrency).goodput_tok_s or 0.0 for k in ARMS
            }
    results["phases"] = {"seen": seen, "truth": truth, "text": _phase_text(seen, truth)}


def _phase_text(seen: list[dict[str, Any]], truth: dict[str, dict[int, float]]) -> str:
    """Shares of the best, by the exhaustive table of the same engine."""
    lines = [
        "| phase | best k | k learned | share of the phase's best | best k's tok/s |",
        "|---|---|---|---|---|",
    ]
    shares, fixed = [], dict.fromkeys(ARMS, 0.0)
    for each in seen:
        rates = truth[each["phase"]]
        best = max(rates, key=lambda k: rates[k])
        share = rates[nearest(each["k"])] / rates[best]
        shares.append(share)
        for k in ARMS:
            fixed[k] += math.log(rates[k] / rates[best])
        lines.append(
            f"| {each['phase']} | {best} | {each['k']} | {100 * share:.0f} % | {rates[best]:.0f} |"
        )
    single = max(fixed, key=lambda k: fixed[k])
    ours = math.exp(sum(map(math.log, shares)) / len(shares))
    static = math.exp(fixed[single] / len(seen))
    lines.append(
        f"\nlearned: {100 * ours:.1f} % of the per-phase best (geometric mean of {len(seen)} "
        f"phases of {PHASE_S:g} s); best single draft length ({single}): {100 * static:.1f} %; "
        f"exploring cost {100 * seen[-1]['forgone']:.1f} % of tokens "
        f"in {100 * seen[-1]['explored']:.1f} % of steps"
    )
    return "\n".join(lines)


def nearest(k: int) -> int:
    """The arm of the table next to a learned length."""
    return min(ARMS, key=lambda arm: abs(arm - k))


# --- mixed batches --------------------------------------------------------------------------------

GREEDY, SAMPLED = 1, 5  # CODES of greedy.balanced and sampled.balanced
WISHES = {
    "k=3": LiveKnobs.constant(3),
    "k=3, sampled trimmed to 1": LiveKnobs(lengths=((1, 1 << 20, 3),), limits={SAMPLED: 1}),
    "k=3, sampled trimmed to 0": LiveKnobs(lengths=((1, 1 << 20, 3),), limits={SAMPLED: 0}),
    "k=1": LiveKnobs.constant(1),
    "k=0": LiveKnobs.constant(0),
}
MIX_ROUNDS, MIX_SLICE_S, MIX_SETTLE_S = 10, 1.6, 0.4


@contextlib.asynccontextmanager
async def mixed(socket: str) -> AsyncIterator[None]:
    """Four clients of greedy code and four of sampled prose, stamped as the gateway does."""
    connector = aiohttp.UnixConnector(path=socket, limit=0)
    async with aiohttp.ClientSession("http://engine", connector=connector) as session:

        async def client(number: int) -> None:
            kind, code = (("code", GREEDY), ("sampled", SAMPLED))[number % 2]
            bodies = [dict(each.body) for each in requests(kind)]
            turn = number
            while True:
                body = {**bodies[turn % len(bodies)], "ignore_eos": True}
                headers = {"X-Request-Id": stamped(f"bench-{number}-{turn}", code)}
                turn += 8
                async with session.post("/v1/completions", json=body, headers=headers) as answer:
                    await answer.read()

        tasks = [asyncio.create_task(client(number)) for number in range(8)]
        try:
            await asyncio.sleep(3.0)
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def limits(results: dict[str, Any]) -> None:
    """Whether shorter drafts for one class of a mixed batch pay, with the drafter's k as it is."""
    found: dict[str, list[float]] = {name: [] for name in WISHES}
    knobs = Knobs(drafter="dflash", draft_length=15, live=True)
    async with engine(knobs, lengths=ARMS) as running, mixed(running.record.socket):
        link, names = link_of(running), list(WISHES)
        for number in range(MIX_ROUNDS):
            turn = number % len(names)
            for name in (*names[turn:], *names[:turn]):
                await link.confirmed(link.put(WISHES[name]))
                await asyncio.sleep(MIX_SETTLE_S)
                before, began = link.read(), time.monotonic()
                await asyncio.sleep(MIX_SLICE_S)
                after, ended = link.read(), time.monotonic()
                tokens = after.total.tokens - before.total.tokens
                found[name].append(tokens / (ended - began))
    lines = ["| wish | tok/s | against k=3, 95 % | n |", "|---|---|---|---|"]
    for name, rates in found.items():
        gains = [math.log(a / b) for a, b in zip(rates, found["k=3"], strict=True)]
        around = fixed_interval(gains)
        interval = f"{_percent(around.mean)} [{_percent(around.low)}, {_percent(around.high)}]"
        lines.append(f"| {name} | {sum(rates) / len(rates):.0f} | {interval} | {len(rates)} |")
    results["limits"] = {"rates": found, "text": "\n".join(lines)}


def _percent(log: float) -> str:
    return f"{100 * math.expm1(log):+.1f} %"
