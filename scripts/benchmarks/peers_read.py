"""Reading what the other projects' tools wrote; needs neither an engine nor a model."""

import csv
import json
import sqlite3
from pathlib import Path
from typing import Any

from peers_candidates import label_of
from peers_result import Trial

from profiles.knobs import Knobs

STUDY = "peers"  # name of vllm-tuner's study


def tuner_trials(folder: Path) -> list[Trial]:
    """The trials of vllm-tuner in order, from the JSON that it writes beside its database."""
    files = (folder / "study_data" / STUDY).glob("trial_*.json")
    found = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    return [_tuner_trial(data) for data in sorted(found, key=lambda data: data["trial_number"])]


def _tuner_trial(data: dict[str, Any]) -> Trial:
    chosen = json.loads(data["config"]["parameters"]["speculative_config"])
    failed = data["status"] != "completed"
    benchmark = data.get("benchmark")
    rate = None if failed or not benchmark else benchmark["output_tokens_per_sec"]
    return Trial(label=label_of(chosen), tok_s=rate, failed=failed)


def exported(path: Path) -> dict[str, Any] | None:
    """The speculative configuration that its `export` wrote; None is off."""
    best = json.loads(path.read_text(encoding="utf-8"))
    chosen = json.loads(best["speculative_config"])
    return None if chosen is None else dict(chosen)


def crashes_told_as_zero(database: Path) -> int:
    """Trials whose value is exactly 0 though their state is COMPLETE."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        row = connection.execute(
            "SELECT count(*) FROM trials JOIN trial_values USING (trial_id) "
            "WHERE state = 'COMPLETE' AND value = 0"
        ).fetchone()
    return int(row[0])


def grid_trials(folder: Path) -> list[Trial]:
    """Rows of the summary of `vllm bench sweep`, then the combinations that failed."""
    trials = []
    with (folder / "summary.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            rate, failed = float(row["output_throughput"]), int(row["failed"])
            label = _label(row["_benchmark_name"])
            trials.append(Trial(label=label, tok_s=rate, failed=failed > 0))
    for path in sorted(folder.rglob("*failure.json")):
        overrides = json.loads(path.read_text(encoding="utf-8"))["serve_overrides"]
        label = label_of(overrides.get("speculative_config"))
        trials.append(Trial(label=label, tok_s=None, failed=True))
    return trials


def _label(name: str) -> str:
    """The label that a benchmark name was made of: `dflash-k3` is `dflash k=3`."""
    return name.replace("-k", " k=")


def our_trials(rows: list[dict[str, Any]]) -> list[Trial]:
    """The trials of tunerd in order, from its control API; a promotion's starts are trials too."""
    found = []
    for row in sorted(rows, key=lambda row: row["id"]):
        measured = row["measurements"][0] if row["measurements"] else {}
        learned = measured.get("learned")
        label = plain(row["knobs"]).label() + ("" if learned is None else f": {learned}")
        rate, failed = measured.get("tok_s"), row["status"] == "failed"
        found.append(
            Trial(label=f"{label} ({measured.get('phase', 'none')})", tok_s=rate, failed=failed)
        )
    return found


def plain(knobs: dict[str, Any]) -> Knobs:
    """Knobs without the KV cache, which is the same for all and of which only tunerd speaks."""
    return Knobs.model_validate({**knobs, "cpu_kv_gib": None})
