"""`scripts/bench gateway`: what a proxy costs per streamed chunk, ours beside others.

One scripted upstream, one client, both the same for all; direct, tunerd's gateway, nginx where it
is installed and LiteLLM where `--litellm PYTHON` names an environment that has it. In each round
every way is taken once, in an order drawn anew. One further part at a time: `--sustained`,
`--real`, `--beside-tunerd`, `--memory`.
"""

import argparse
import contextlib
import json
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from gateway_measure import Shape, measure, shown, table
from gateway_ways import ways

OUT = Path(".cache/bench")
PARTS = {  # imported when asked for: that of the real vLLM makes the demo model
    "sustained": "gateway_sustained",
    "real": "gateway_real",
    "beside-tunerd": "gateway_beside",
    "memory": "gateway_memory",
}
SHAPES = (
    Shape(streams=1, tokens=5, token_s=0.002),
    Shape(streams=8, tokens=300, token_s=0.01),
    Shape(streams=64, tokens=150, token_s=0.02),
    Shape(streams=256, tokens=60, token_s=0.05),
)
ALONE_S = 3.0  # requests of one stream follow each other for so long
LITELLM_STREAMS = 64  # with more it asks for so much more than a core that a round takes a minute
COLUMNS = (
    ("cpu_us", "CPU per chunk, µs", 1),
    ("first_p50_ms", "first chunk p50, ms", 2),
    ("first_p99_ms", "p99", 1),
    ("chunk_p50_ms", "chunk p50, ms", 2),
    ("chunk_p99_ms", "p99", 1),
    ("rss_mib", "memory, MiB", 0),
)

Results = dict[str, dict[str, list[dict[str, float]]]]


def run(folder: Path, options: argparse.Namespace) -> Results:
    """Measure every way under every shape."""
    results: Results = {}
    with contextlib.ExitStack() as stack:
        found = ways(stack, folder, options.litellm, options.base)
        for way in found:  # nobody pays for imports and first connections
            measure(way, Shape(streams=4, tokens=20, token_s=0.01))
        for shape in SHAPES:
            runs: dict[str, list[dict[str, float]]] = {way.name: [] for way in found}
            for _ in range(options.rounds):
                for way in random.sample(found, len(found)):
                    if way.name == "LiteLLM" and shape.streams > LITELLM_STREAMS:
                        continue
                    lasting_s = ALONE_S if shape.streams == 1 else 0.0
                    runs[way.name].append(measure(way, shape, lasting_s=lasting_s))
                    print(f"{shape.name} {way.name}: {runs[way.name][-1]}", file=sys.stderr)
            results[shape.name] = {name: seen for name, seen in runs.items() if seen}
    return results


def report(results: Results) -> Iterator[str]:
    """Lines of Markdown: a table per shape."""
    titles = ["way", *(title for _, title, _ in COLUMNS)]
    for shape, by_way in results.items():
        yield f"\n{shape}\n"
        yield from table(
            titles,
            (
                [way, *(shown([run[key] for run in runs], digits) for key, _, digits in COLUMNS)]
                for way, runs in by_way.items()
            ),
        )


def versions() -> dict[str, str]:
    """What the figures hold for."""
    found = {name: metadata.version(name) for name in ("aiohttp", "uvloop")}
    found["python"] = platform.python_version()
    if shutil.which("nginx"):
        said = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr
        found["nginx"] = said.strip().rpartition("/")[2]
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    found["processor"] = text.partition("model name")[2].partition(":")[2].split("\n")[0].strip()
    found["cores"] = str(text.count("processor\t"))
    return found


def main() -> None:
    """Measure one part, print its tables and keep its runs."""
    parser = argparse.ArgumentParser(prog="scripts/bench gateway", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--litellm", type=Path, help="a Python that has litellm[proxy]")
    parser.add_argument("--base", type=Path, help="another checkout, whose gateway is measured too")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long --memory watches")
    parser.add_argument("--rates", type=int, nargs="+", help="of --sustained, chunks/s per stream")
    which = parser.add_mutually_exclusive_group()
    for name in PARTS:
        flag = f"--{name}"
        which.add_argument(flag, dest="part", action="store_const", const=name)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started ends with us
    part: Any = import_module(PARTS.get(options.part, __name__))
    with tempfile.TemporaryDirectory() as name:
        results = part.run(Path(name), options)
    made = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "command": " ".join(["scripts/bench gateway", *sys.argv[1:]]),
        "versions": versions(),
        "results": results,
    }
    suffix = f"-{options.part}" if options.part else ""
    (OUT / f"gateway{suffix}.json").write_text(json.dumps(made, indent=1))
    print("\n".join(part.report(results)))


if __name__ == "__main__":
    main()
