"""`scripts/bench gateway --memory`: what a stream takes, and whether memory grows over minutes."""

import argparse
import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, linear_regression
from typing import Any

from gateway_measure import Shape, answer, client, table
from gateway_ways import Way, tunerd, upstream
from peers_process import free_port

from service.gateway.ledger import RING
from tuner.compare import student_quantile

STEPS = (0, 64, 128, 192, 256)  # streams
STEADY = Shape(streams=256, tokens=100, token_s=0.2)  # each stream is followed by another
RAMP_S = STEADY.tokens * STEADY.token_s + 5.0  # the streams begin spread over one length
BLOCK_S = 30.0  # neighbouring seconds tell the same; means of half a minute are told apart
CHURN, CHURN_S = Shape(streams=256, tokens=10, token_s=0.2), 60.0
SETTLED = 5 * RING  # requests; memory grew by 0.4 MiB in the first 14 000, by 0.02 in 16 000 more


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A straight line through measurements, with the 95 % interval of its slope."""

    slope: float
    reach: float


def fit(points: Sequence[tuple[float, float]]) -> Fit:
    """Least squares; at least three points."""
    x, y = zip(*points, strict=True)
    slope, intercept = linear_regression(x, y)
    freedom = len(points) - 2
    rest = sum((b - intercept - slope * a) ** 2 for a, b in points)
    spread = sum((a - fmean(x)) ** 2 for a in x)
    error = math.sqrt(rest / freedom / spread)
    return Fit(slope=slope, reach=student_quantile(0.975, freedom) * error)


def blocks(samples: Sequence[tuple[float, float]], length_s: float) -> list[tuple[float, float]]:
    """Means of whole blocks of samples."""
    found: dict[int, list[tuple[float, float]]] = {}
    for sample in samples:
        found.setdefault(int(sample[0] // length_s), []).append(sample)
    whole = [found[number] for number in sorted(found)][:-1]
    return [(fmean(t for t, _ in block), fmean(mib for _, mib in block)) for block in whole]


def run(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Memory at several numbers of streams, then second by second under a steady load."""
    with contextlib.ExitStack() as stack:
        engine = folder / "upstream.sock"
        upstream(stack, folder, engine, free_port())
        gateway = tunerd(stack, folder, engine)
        answer(gateway, client(gateway, Shape(streams=1, tokens=2, token_s=0.01)))
        steps = [(streams, _open(gateway, streams)) for streams in STEPS]
        settled = _settle(gateway)
        loading = client(gateway, STEADY, lasting_s=options.minutes * 60 + RAMP_S)
        began = time.monotonic()
        samples = []
        while loading.poll() is None and (now := time.monotonic() - began) < (
            options.minutes * 60 + RAMP_S
        ):
            samples.append((now - RAMP_S, gateway.rss_mib()))
            time.sleep(1.0)
        requests = len(answer(gateway, loading)["firsts"])
    return {
        "steps": steps,
        "settled_after": settled,
        "requests": requests,
        "samples": [(round(t, 1), round(mib, 3)) for t, mib in samples],
    }


def report(results: dict[str, Any]) -> Iterator[str]:
    """Lines of Markdown."""
    each = fit(results["steps"])
    yield f"\nA stream takes {each.slope * 1024:.1f} ± {each.reach * 1024:.1f} KiB"
    yield from table(
        ["streams", "memory, MiB"], ([str(n), f"{mib:.1f}"] for n, mib in results["steps"])
    )
    steady = [sample for sample in results["samples"] if sample[0] >= 0]
    grown = fit(blocks(steady, BLOCK_S))
    sizes = [mib for _, mib in steady]
    yield (
        f"\n{STEADY.name} for {steady[-1][0] / 60:.1f} min, {results['requests']} requests: "
        f"{min(sizes):.2f} to {max(sizes):.2f} MiB, "
        f"slope {grown.slope * 3600:.2f} ± {grown.reach * 3600:.2f} MiB/h"
    )


def _open(gateway: Way, streams: int) -> float:
    """The gateway's memory while so many streams are open, in MiB."""
    if not streams:
        return gateway.rss_mib()
    shape = Shape(streams=streams, tokens=40, token_s=0.1)
    loading = client(gateway, shape)
    time.sleep(3.0)
    seen = gateway.rss_mib()
    answer(gateway, loading)
    return seen


def _settle(gateway: Way) -> int:
    """Short streams, until the ring of records is full and the allocator has its pages."""
    done = 0
    while done < SETTLED:
        done += len(answer(gateway, client(gateway, CHURN, lasting_s=CHURN_S))["firsts"])
    return done
