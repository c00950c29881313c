"""`scripts/bench gateway --real`: the throughput of a real vLLM with and without the gateway.

A CPU build with the demo model, eight clients that ask again as soon as they are answered. In each
round every way takes the same work once, in an order drawn anew.
"""

import argparse
import asyncio
import contextlib
import random
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import aiohttp
import uvloop
from engine_stage import engine, requests
from gateway_measure import shown, table
from gateway_ways import Way, nginx, tunerd

from profiles.knobs import Knobs
from tuner.replay import ReplayRequest

CLIENTS = 8
ANSWERS = 1  # that each client takes in a run: all are equally long, so all end together

Runs = dict[str, list[dict[str, float]]]


def run(folder: Path, options: argparse.Namespace) -> Runs:
    """Rounds of all ways."""
    return uvloop.run(_rounds(folder, options.rounds))


async def _rounds(folder: Path, rounds: int) -> Runs:
    work = requests("code")
    with contextlib.ExitStack() as stack:
        async with engine(Knobs(cpu_kv_gib=1), live=False) as running:
            place = Path(running.record.socket)
            found = [
                Way(name="direct", url=f"unix:{place}", pid=running.record.pid),
                tunerd(stack, folder, place),
            ]
            if shutil.which("nginx"):
                found.append(nginx(stack, folder, place))
            for way in found:
                await throughput(way, work)
            results: Runs = {way.name: [] for way in found}
            for _ in range(rounds):
                for way in random.sample(found, len(found)):
                    before_s = way.cpu_s()
                    tok_s, chunks = await throughput(way, work)
                    spent_s = way.cpu_s() - before_s
                    seen = {"tok_s": tok_s, "cpu_us": spent_s / chunks * 1e6}
                    results[way.name].append(seen)
                    print(f"{way.name}: {seen}", file=sys.stderr)
    return results


async def throughput(way: Way, work: list[ReplayRequest]) -> tuple[float, int]:
    """Chunks a second, one per token, and how many they were."""
    place = way.url.partition("unix:")[2]
    connector = aiohttp.UnixConnector(place, limit=0) if place else aiohttp.TCPConnector(limit=0)
    base = "http://engine" if place else way.url
    async with aiohttp.ClientSession(base, connector=connector) as session:

        async def one(number: int) -> int:
            mine = [work[(number + CLIENTS * turn) % len(work)] for turn in range(ANSWERS)]
            return sum([await _chunks(session, request) for request in mine])

        began = time.monotonic()
        chunks = sum(await asyncio.gather(*(one(number) for number in range(CLIENTS))))
        return chunks / (time.monotonic() - began), chunks


async def _chunks(session: aiohttp.ClientSession, request: ReplayRequest) -> int:
    """The tokens of one answer.

    Raises:
        SystemExit: it was not answered whole.
    """
    body = {**request.body, "stream": True, "ignore_eos": True}
    async with session.post(f"/v1/{request.endpoint}", json=body) as answer:
        lines = [line async for line in answer.content if line.startswith(b"data: ")]
    if answer.status != 200 or lines[-1].strip() != b"data: [DONE]":
        raise SystemExit(f"An answer was not whole: status {answer.status}, {lines[-1:]!r}")
    return len(lines) - 1


def report(results: Runs) -> Iterator[str]:
    """Lines of Markdown."""
    direct = [run["tok_s"] for run in results["direct"]]
    rows = []
    for way, runs in results.items():
        rate = [run["tok_s"] for run in runs]
        share = [100 * mine / other for mine, other in zip(rate, direct, strict=True)]
        cost = f"{fmean(run['cpu_us'] for run in runs):.0f}" if way != "direct" else "-"
        rows.append([way, shown(rate, 0), "-" if way == "direct" else shown(share, 1), cost])
    yield from table(["way", "tok/s", "of direct, %", "CPU per chunk, µs"], rows)
