"""`scripts/bench gateway`: what a proxy costs per streamed chunk, ours beside others.

One scripted upstream, one client, both the same for all; direct, tunerd's gateway, nginx where it
is installed and LiteLLM where `--litellm PYTHON` names an environment that has it. In each round
every way is taken once, in an order drawn anew.
"""

import argparse
import contextlib
import json
import math
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway_ways import Way, ways

from tuner.compare import fixed_interval
from tuner.latency import percentile

HERE = Path(__file__).parent
OUT = Path(".cache/bench/gateway.json")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How many streams, each with so many chunks, one every `token_s`."""

    streams: int
    tokens: int
    token_s: float

    @property
    def name(self) -> str:
        """As it is shown."""
        return f"{self.streams} x {1 / self.token_s:.0f}/s"


SHAPES = (
    Shape(streams=8, tokens=500, token_s=0.01),
    Shape(streams=64, tokens=250, token_s=0.02),
    Shape(streams=256, tokens=150, token_s=0.05),
)


def milliseconds(delays_s: list[float], share: float) -> float:
    """A quantile of delays; NaN without any."""
    found = percentile(delays_s, share)
    return math.nan if found is None else found * 1e3


def measure(way: Way, shape: Shape) -> dict[str, float]:
    """Run the client once through a way; times in µs and ms, memory in MiB."""
    before_s = way.cpu_s()
    done = subprocess.run(
        [
            sys.executable,
            str(HERE / "gateway_load.py"),
            *("--url", way.url, "--streams", str(shape.streams)),
            *("--tokens", str(shape.tokens), "--token-s", str(shape.token_s)),
            *(word for line in way.headers for word in ("--header", line)),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    seen = json.loads(done.stdout)
    chunks = shape.streams * shape.tokens
    if seen["failed"] or not seen["delays"]:
        raise SystemExit(f"{way.name}: {seen['failed']} of {shape.streams} streams lost chunks.")
    return {
        "cpu_us": (way.cpu_s() - before_s) / chunks * 1e6,
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


COLUMNS = (
    ("cpu_us", "CPU per chunk, µs", 1),
    ("first_p50_ms", "first chunk p50, ms", 2),
    ("first_p99_ms", "p99", 1),
    ("chunk_p50_ms", "chunk p50, ms", 2),
    ("chunk_p99_ms", "p99", 1),
    ("rss_mib", "memory, MiB", 0),
)


def report(results: dict[str, dict[str, list[dict[str, float]]]]) -> Iterator[str]:
    """Lines of Markdown: a table per shape."""
    for shape, by_way in results.items():
        yield f"\n{shape}\n"
        yield "| way | " + " | ".join(title for _, title, _ in COLUMNS) + " |"
        yield "|---" * (len(COLUMNS) + 1) + "|"
        for way, runs in by_way.items():
            cells = (shown([run[key] for run in runs], digits) for key, _, digits in COLUMNS)
            yield f"| {way} | " + " | ".join(cells) + " |"


def main() -> None:
    """Measure every way under every shape and print the tables."""
    parser = argparse.ArgumentParser(prog="scripts/bench gateway", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--litellm", type=Path, help="a Python that has litellm[proxy]")
    options = parser.parse_args()
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = ways(stack, folder, options.litellm)
        for way in found:  # nobody pays for imports and first connections
            measure(way, Shape(streams=4, tokens=20, token_s=0.01))
        for shape in SHAPES:
            runs: dict[str, list[dict[str, float]]] = {way.name: [] for way in found}
            for _ in range(options.rounds):
                for way in random.sample(found, len(found)):
                    runs[way.name].append(measure(way, shape))
                    print(f"{shape.name} {way.name}: {runs[way.name][-1]}", file=sys.stderr)
            results[shape.name] = runs
    OUT.write_text(json.dumps({"python": platform.python_version(), "results": results}, indent=1))
    print("\n".join(report(results)))


if __name__ == "__main__":
    main()
