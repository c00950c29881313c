"""`scripts/bench search [DIRECTORY]`: published sweeps replayed for our search and for others.

No engine is started: a measurement looks the published rate up and adds noise.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import search_report as report
from search_computed import computed
from search_engine import BLOCK_NOISE, SLOW_SHARE, START_NOISE, Noise
from search_landscapes import Atlas, Landscape, load
from search_methods import ABLATIONS, METHODS
from search_promotion import after_promotion, false_promotions, false_tunings
from search_score import Run, compact, p90, runs

from tuner.config import TuningConfig

ROOT = Path(__file__).resolve().parents[2]
OURS = ("`tuner tune` as shipped", "ladder alone")
COMPARED = (*OURS, "exhaustive, once each", "constant k = 4")  # on computed landscapes and switches
# start pairs and confidence of a promotion: as shipped, and what would make it stricter
RULES = ((3, 0.95), (4, 0.95), (5, 0.95), (3, 0.98), (4, 0.98))
FALSE_PROMOTIONS, FALSE_TUNINGS = 3000, 1000  # at 30 seeds; fewer with fewer

Results = Mapping[str, Sequence[Run]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything, print the tables, write the rows."""
    parser = argparse.ArgumentParser(prog="scripts/bench search", description=__doc__)
    default = ROOT.parent / "shared" / "landscapes"
    parser.add_argument("directory", nargs="?", type=Path, default=default)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--noise", type=float, default=START_NOISE, help="of ln tok/s per start")
    parser.add_argument("--out", type=Path, help="raw rows, beside the file in .cache/bench")
    parser.add_argument(
        "--families", choices=("all", "even", "odd"), default="all", help="every second, sorted"
    )
    args = parser.parse_args(arguments)
    began = time.monotonic()
    atlas = load(args.directory)
    chosen = _half(atlas, args.families)
    noise = Noise(start=args.noise)
    print(_heading(args, atlas, chosen))
    published = {m.name: runs(m, chosen, args.seeds, noise) for m in METHODS}
    _progress("methods", began)
    some = [m for m in METHODS if m.name in COMPARED]
    fewer = max(2, args.seeds // 3)  # for what the goals are not about
    switches = {m.name: runs(m, atlas.switches, fewer, noise) for m in some}
    extra = computed(args.directory)
    derived = {m.name: runs(m, extra, fewer, noise) for m in some} if extra else {}
    _progress("switches and computed landscapes", began)
    parts = {"published": chosen, **({"computed": extra} if extra else {})}
    ablated = {
        kind: {m.name: runs(m, found, fewer, noise) for m in ABLATIONS}
        for kind, found in parts.items()
    }
    _progress("ablations", began)
    pairs = TuningConfig().pairs
    afterwards = {name: after_promotion(found, pairs) for name, found in published.items()}
    scale = args.seeds / 30
    number = max(50, int(FALSE_PROMOTIONS * scale))
    equal = {
        f"{n} pairs, confidence {c:g}": false_promotions(number, n, confidence=c) for n, c in RULES
    }
    tuned = next(m for m in METHODS if m.name == OURS[0])
    searches = max(10, int(FALSE_TUNINGS * scale))
    whole = false_tunings(tuned, searches, pairs)
    _progress("promotions", began)
    _tables(published, switches, derived, ablated, afterwards)
    _aa(equal, whole, number, searches)
    if args.families == "all":
        _halves(atlas, published)
    seconds = time.monotonic() - began
    print(f"\n{seconds:.0f} s on one core of {os.cpu_count()}.")
    data = {
        "date": time.strftime("%Y-%m-%d"),
        "seeds": args.seeds,
        "noise": {"start": args.noise, "block": BLOCK_NOISE, "slow_share": SLOW_SHARE},
        "seconds": round(seconds, 1),
        "rates": {each.name: dict(each.rates) for each in chosen},
        "runs": compact(published),
        "computed": compact(derived),
        "false_promotions": {**equal, "search and promotion": whole},
    }
    _write(data, args.out)
    return 0


def _half(atlas: Atlas, which: str) -> tuple[Landscape, ...]:
    """Search settings were looked at on the even families only; the odd ones were held out."""
    if which == "all":
        return atlas.landscapes
    kept = atlas.families[0 if which == "even" else 1 :: 2]
    return tuple(one for one in atlas.landscapes if one.family in kept)


def _heading(args: argparse.Namespace, atlas: Atlas, chosen: Sequence[Landscape]) -> str:
    families = len({one.family for one in chosen})
    text = (
        f"{len(chosen)} landscapes of {families} families, {args.seeds} seeds; "
        f"{len(atlas.switches)} with two lengths only, for k = 0. "
        f"Noise of a start {100 * args.noise:g} %, of a block {100 * BLOCK_NOISE:g} %, "
        f"{100 * SLOW_SHARE:g} % of starts 10 % slow."
    )
    skipped = [f"- skipped {sentence}" for sentence in atlas.skipped]
    return "\n".join([f"# Search benchmark, {time.strftime('%Y-%m-%d')}", "", text, "", *skipped])


def _tables(
    published: Results,
    switches: Results,
    derived: Results,
    ablated: Mapping[str, Results],
    afterwards: Mapping[str, Sequence[float]],
) -> None:
    print("\n## True regret at the end\n\n" + report.headline(published, OURS))
    print("\n## By starts\n\n" + report.by_starts(published))
    print("\n## At the end and after promotion\n\n" + report.at_the_end(published, afterwards))
    ours = {name: published[name] for name in COMPARED}
    parts = {"published": ours, "two lengths": switches, "computed": derived}
    print("\n## Speculation off\n\n" + report.off({k: v for k, v in parts.items() if v}))
    if derived:
        print("\n## Computed landscapes\n\n" + report.by_starts(derived))
    print("\n## Ablations\n\n" + report.ablations(ablated))
    print("\n## Families\n\n" + report.families(published[OURS[0]]))


def _aa(equal: Mapping[str, float], whole: float, number: int, searches: int) -> None:
    rows = [
        [f"promotion alone, {rule}", str(number), report.percent(share, 2)]
        for rule, share in equal.items()
    ]
    rows.append(["search and promotion as shipped", str(searches), report.percent(whole, 2)])
    head = ["all arms equal", "runs", "false promotions %"]
    print("\n## A/A\n\n" + report.table(head, rows))


def _halves(atlas: Atlas, published: Results) -> None:
    rows = []
    for label, which in (("looked at", "even"), ("held out", "odd")):
        names = {one.name for one in _half(atlas, which)}
        cells = []
        for name in COMPARED:
            part = [run for run in published[name] if run.landscape.name in names]
            cells.append(report.percent(p90(part)) if part else "-")
        rows.append([label, str(len(names)), *cells])
    print("\n## Halves: p90 regret %\n")
    print(report.table(["families", "landscapes", *COMPARED], rows))


def _progress(what: str, began: float) -> None:
    print(f"{time.monotonic() - began:.0f} s: {what} done", file=sys.stderr, flush=True)


def _write(data: dict[str, Any], out: Path | None) -> None:
    folder = ROOT / ".cache" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data, separators=(",", ":"))
    for path in (folder / f"search-{time.strftime('%Y%m%d-%H%M%S')}.json", out):
        if path is not None:
            path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
