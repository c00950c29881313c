"""`scripts/bench peers [--quick] [--fresh] [PART...]`: other tuners on the same question.

Parts are ours, sweep, optuna, vllm-tuner and judge. A part that has a result is not run again
unless it is named or --fresh is given, so an interrupted run goes on.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers_report
from peers_candidates import FULL, QUICK, Budget
from peers_judge import judge
from peers_optuna import optuna_tpe
from peers_ours import tunerd
from peers_result import Found, now, write
from peers_stage import CACHE, machine
from peers_sweep import sweep
from peers_vllm_tuner import vllm_tuner

Tool = Callable[[Budget, Path], Found]
TOOLS: dict[str, Tool] = {
    "ours": tunerd,
    "sweep": sweep,
    "optuna": optuna_tpe,
    "vllm-tuner": vllm_tuner,
}
JUDGE = "judge"


class Comparison:
    """The parts of one comparison and where their results are."""

    def __init__(self, *, quick: bool) -> None:
        self._budget = QUICK if quick else FULL
        self._name = "peers-quick" if quick else "peers"
        self.results = CACHE / "bench"

    def path(self, part: str) -> Path:
        """The file of a part."""
        return self.results / f"{self._name}-{part}.json"

    def load(self, part: str) -> dict[str, Any] | None:
        """The result of a part, None when it has none."""
        path = self.path(part)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def run(self, part: str) -> None:
        """Run a part and keep what it found."""
        print(f"{now()} {part}", file=sys.stderr, flush=True)
        folder = self.results / f"{self._name}-{part}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if part == JUDGE:
            data = {"began_at": now(), **judge(self._budget, self.found(), folder)}
        else:
            data = TOOLS[part](self._budget, folder).data()
        write(self.path(part), {**data, "machine": machine()})

    def found(self) -> list[dict[str, Any]]:
        """The results of the tools that have one."""
        return [data for part in TOOLS if (data := self.load(part)) is not None]

    def report(self) -> str:
        """All tables."""
        rows = [{k: v for k, v in each.items() if k != "machine"} for each in self.found()]
        found, judged = [Found.of(row) for row in rows], self.load(JUDGE)
        parts = [
            machine(),
            peers_report.overview(found, judged),
            peers_report.trials(found),
            peers_report.notes(found),
        ]
        if judged is not None:
            parts.append(peers_report.rounds(judged))
        return "\n\n".join(parts)


def main() -> None:
    """Run what is wanted and missing, then print all that is known."""
    parser = argparse.ArgumentParser(prog="scripts/bench peers", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *TOOLS, JUDGE], metavar="PART")
    parser.add_argument("--quick", action="store_true", help="two trials each, to see it work")
    parser.add_argument("--fresh", action="store_true", help="forget all results first")
    options = parser.parse_args()
    comparison = Comparison(quick=options.quick)
    every = (*TOOLS, JUDGE)
    if options.fresh:
        for part in every:
            comparison.path(part).unlink(missing_ok=True)
    for part in every:
        wanted = part in options.parts
        if wanted or (not options.parts and comparison.load(part) is None):
            comparison.run(part)
    print(comparison.report())


if __name__ == "__main__":
    main()
