"""Parts of `scripts/bench live`: traffic that changes its phase, and batches of mixed classes."""

import asyncio
import contextlib
import math
import random
import statistics
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import aiohttp
from engine_stage import engine, exhaustive, link_of, load, requests

from profiles.knobs import Knobs
from profiles.schedule import length_at
from service.engine_site.tuner_layout import stamped
from service.live_files import LiveKnobs
from service.live_loop import LiveLoop
from tuner.cells import NOTHING, Cell
from tuner.compare import fixed_interval
from tuner.config import LiveConfig
from tuner.telemetry import Telemetry

ARMS = (0, 1, 2, 3, 4, 6, 8, 10, 12, 15)
# prose is sampled at temperature 1: greedy prose is accepted nearly as far as code by this drafter
PHASES = (("code", 1), ("code", 8), ("sampled", 8), ("code", 8), ("code", 2))
PHASE_S = 75.0
TRUTH = {1: (8, 1.2), 2: (8, 1.0), 8: (14, 0.3)}  # rounds and seconds of a slice, by concurrency
DRAWS, SEED = 1000, 7  # of the bootstrap over the rounds of the tables


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
                    began, path = time.monotonic(), []
                    while time.monotonic() - began < PHASE_S:
                        await asyncio.sleep(1.0)
                        path.append(_length(loop, concurrency))
                mixture = loop.mixture
                seen.append(
                    {
                        "phase": f"{kind} c{concurrency}",
                        "k": _length(loop, concurrency),
                        "path": path,  # the length in force between visits, every second
                        "moved": None if mixture is None else mixture.moved,
                        "reopened": 0 if mixture is None else mixture.reopened,
                        "explored": 0.0 if mixture is None else mixture.allowance.explored_share,
                        "forgone": 0.0 if mixture is None else mixture.allowance.forgone_share,
                    }
                )
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        tables: dict[str, list[dict[int, Cell]]] = {}
        for kind, concurrency in dict.fromkeys(PHASES):
            rounds, slice_s = TRUTH[concurrency]
            async with load(running, kind, concurrency):
                tables[f"{kind} c{concurrency}"] = [
                    {
                        visit.arm: visit.cells.get((concurrency, visit.arm), NOTHING)
                        for visit in await exhaustive(link, ARMS, 1, slice_s, number)
                    }
                    for number in range(rounds)
                ]
    truth = {phase: rates(table) for phase, table in tables.items()}
    text = _phase_text(seen, tables)
    results["phases"] = {"seen": seen, "truth": truth, "tables": tables, "text": text}


def _length(loop: LiveLoop, concurrency: int) -> int:
    """The draft length that is in force between visits."""
    mixture = loop.mixture
    schedule = None if mixture is None else mixture.schedule
    return 15 if schedule is None else length_at(schedule, concurrency)


def rates(table: Sequence[Mapping[int, Cell]]) -> dict[int, float]:
    """Tokens per second of every length over some rounds."""
    whole = {k: sum((each[k] for each in table if k in each), NOTHING) for k in ARMS}
    return {k: cell.goodput_tok_s or 0.0 for k, cell in whole.items()}


def _shares(
    seen: Sequence[Mapping[str, Any]], truth: Mapping[str, Mapping[int, float]]
) -> tuple[list[float], int, float]:
    """The learned lengths' share of each phase's best, the best single length and its share."""
    fixed, shares = dict.fromkeys(ARMS, 0.0), []
    for each in seen:
        found = truth[each["phase"]]
        top = max(found.values())
        shares.append(found[nearest(each["k"])] / top)
        for k in ARMS:
            fixed[k] += math.log(max(found[k], 1e-9) / top) / len(seen)
    single = max(fixed, key=lambda k: fixed[k])
    return shares, single, math.exp(fixed[single])


def _phase_text(
    seen: Sequence[Mapping[str, Any]], tables: Mapping[str, Sequence[Mapping[int, Cell]]]
) -> str:
    """Shares of the best, by the exhaustive tables of the same engine."""
    truth = {phase: rates(table) for phase, table in tables.items()}
    shares, single, static = _shares(seen, truth)
    lines = [
        "| phase | best k | k learned | share of the best | best k's tok/s | opened again |",
        "|---|---|---|---|---|---|",
    ]
    for each, share in zip(seen, shares, strict=True):
        found = truth[each["phase"]]
        best = max(found, key=lambda k: found[k])
        lines.append(
            f"| {each['phase']} | {best} | {each['k']} | {100 * share:.0f} % | {found[best]:.0f} | "
            f"{each['reopened']} |"
        )
    rng, ours, gaps = random.Random(SEED), [], []
    for _ in range(DRAWS):
        drawn = {phase: rates(rng.choices(table, k=len(table))) for phase, table in tables.items()}
        some, _, fixed = _shares(seen, drawn)
        ours.append(math.exp(sum(map(math.log, some)) / len(some)))
        gaps.append(ours[-1] / fixed)
    learned = math.exp(sum(map(math.log, shares)) / len(shares))
    lines.append(
        f"\nlearned: {100 * learned:.1f} % [{_quantiles(ours)}] of the per-phase best (geometric "
        f"mean of {len(seen)} phases of {PHASE_S:g} s); best single draft length ({single}): "
        f"{100 * static:.1f} %; learned against it: {100 * learned / static:.1f} % "
        f"[{_quantiles(gaps)}]; visits cost {100 * seen[-1]['forgone']:.1f} % of tokens in "
        f"{100 * seen[-1]['explored']:.1f} % of steps"
    )
    return "\n".join(lines)


def _quantiles(values: Sequence[float]) -> str:
    cut = statistics.quantiles(values, n=40)  # 2.5 % and 97.5 %
    return f"{100 * cut[0]:.1f}, {100 * cut[-1]:.1f}"


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
