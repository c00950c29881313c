"""One run of the client of `bench gateway` through one way, and how rounds are shown."""

import json
import math
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway_ways import Way

from tuner.compare import fixed_interval
from tuner.latency import percentile

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How many streams, each with so many chunks, one every `token_s`."""

    streams: int
    tokens: int
    token_s: float
    settle_s: float = 0.0  # chunks of the first seconds count, their delays do not

    @property
    def name(self) -> str:
        """As it is shown."""
        return f"{self.streams} x {1 / self.token_s:.0f}/s"


def milliseconds(delays_s: list[float], share: float) -> float:
    """A quantile of delays; NaN without any."""
    found = percentile(delays_s, share)
    return math.nan if found is None else found * 1e3


def client(
    way: Way, shape: Shape, *, lasting_s: float = 0.0, cores: Sequence[int] = ()
) -> "subprocess.Popen[str]":
    """Start the client, on these cores when some are named."""
    pinned = ("taskset", "-c", ",".join(map(str, cores))) if cores else ()
    return subprocess.Popen(
        [
            *pinned,
            sys.executable,
            str(HERE / "gateway_load.py"),
            *("--url", way.url, "--streams", str(shape.streams)),
            *("--tokens", str(shape.tokens), "--token-s", str(shape.token_s)),
            *("--lasting-s", str(lasting_s), "--settle-s", str(shape.settle_s)),
            *(word for line in way.headers for word in ("--header", line)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )


def answer(way: Way, process: "subprocess.Popen[str]") -> dict[str, Any]:
    """What a client saw, once it has ended.

    Raises:
        SystemExit: it failed, or chunks were lost.
    """
    try:
        said, _ = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode:
        raise SystemExit(f"{way.name}: the client ended with status {process.returncode}.")
    seen: dict[str, Any] = json.loads(said)
    if seen["failed"] or not seen["firsts"]:
        raise SystemExit(f"{way.name}: {seen['failed']} streams lost chunks.")
    return seen


def measure(
    way: Way, shape: Shape, *, lasting_s: float = 0.0, cores: Sequence[int] = ()
) -> dict[str, float]:
    """Run the client once through a way; times in µs and ms, memory in MiB."""
    before_s = way.cpu_s()
    seen = answer(way, client(way, shape, lasting_s=lasting_s, cores=cores))
    chunks = seen["chunks"]
    spent_s = way.cpu_s() - before_s
    return {
        "cpu_us": spent_s / chunks * 1e6,
        "cpu_share": spent_s / seen["wall_s"],
        "chunks_s": chunks / seen["wall_s"],
        "first_p50_ms": milliseconds(seen["firsts"], 0.5),
        "first_p99_ms": milliseconds(seen["firsts"], 0.99),
        "chunk_p50_ms": milliseconds(seen["delays"], 0.5),
        "chunk_p99_ms": milliseconds(seen["delays"], 0.99),
        "rss_mib": way.rss_mib(),
        "wall_s": seen["wall_s"],
    }


def shown(values: list[float], digits: int) -> str:
    """Mean and 95 % interval of rounds (Student's t)."""
    found = fixed_interval(values)
    reach = f" ± {found.high - found.mean:.{digits}f}" if len(values) > 1 else ""
    return f"{found.mean:.{digits}f}{reach}"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| " + " | ".join(titles) + " |"
    yield "|---" * len(titles) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"
