"""`scripts/bench gateway --sustained`: how many chunks a second one core relays.

The proxy has the first core to itself, upstream and client have the second. The direct way shows
from which rate on these two are late by themselves.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from gateway_measure import Shape, measure, shown, table
from gateway_ways import ways

OWN, OTHERS = (0,), (1,)
STREAMS = 64
RATES = (25, 50, 75, 100, 125, 150, 200, 250)  # chunks a second of each stream
LASTING_S = 4.0
SETTLE_S = 1.0  # 64 requests at once take longer than an interval; their delays are not meant here
LATE_MS = 5.0  # p99 between tokens above which a rate is not sustained
KEPT = 0.9  # of the asked rate; connecting is part of the time

Runs = dict[str, dict[str, list[dict[str, float]]]]


def run(folder: Path, options: argparse.Namespace) -> Runs:
    """Every way at every rate."""
    results: Runs = {}
    with contextlib.ExitStack() as stack:
        found = ways(stack, folder, base=options.base)
        for way in found:
            way.pin(OTHERS if way.name == "direct" else OWN)
            measure(way, Shape(streams=4, tokens=20, token_s=0.01), cores=OTHERS)
        for rate in options.rates or RATES:
            tokens = int(rate * LASTING_S)
            shape = Shape(streams=STREAMS, tokens=tokens, token_s=1 / rate, settle_s=SETTLE_S)
            runs: dict[str, list[dict[str, float]]] = {way.name: [] for way in found}
            for _ in range(options.rounds):
                for way in found:
                    runs[way.name].append(measure(way, shape, cores=OTHERS))
                    print(f"{shape.name} {way.name}: {runs[way.name][-1]}", file=sys.stderr)
            results[str(rate)] = runs
    return results


def sustained(runs: Sequence[dict[str, float]], asked: float) -> bool:
    """Whether a rate was kept up in most rounds: nearly all of it, and the tail in time."""
    kept = [run["chunk_p99_ms"] <= LATE_MS and run["chunks_s"] >= KEPT * asked for run in runs]
    return sum(kept) * 2 > len(kept)


def report(results: Runs) -> Iterator[str]:
    """Lines of Markdown."""
    titles = ["chunks/s asked", "way", "got", "CPU of the core, %", "p50, ms", "p99, ms", "kept up"]
    titles += ["if CPU alone were the limit, chunks/s"]
    rows = []
    for rate, by_way in results.items():
        asked = STREAMS * int(rate)
        for way, runs in by_way.items():
            cells = [
                shown([run[key] * scale for run in runs], digits)
                for key, scale, digits in (
                    ("chunks_s", 1, 0),
                    ("cpu_share", 100, 0),
                    ("chunk_p50_ms", 1, 2),
                    ("chunk_p99_ms", 1, 1),
                )
            ]
            kept = "yes" if sustained(runs, asked) else "no"
            whole = shown([run["chunks_s"] / run["cpu_share"] for run in runs], 0)
            rows.append([str(asked), way, *cells, kept, whole])
    yield from table(titles, rows)


def best(results: Runs, way: str) -> int | None:
    """The largest rate below the first that a way did not keep up, in chunks a second."""
    found = None
    for rate, by_way in results.items():
        if not sustained(by_way[way], STREAMS * int(rate)):
            break
        found = STREAMS * int(rate)
    return found
