"""Landscapes computed from published acceptance traces and a published fit of step times.

Tokens per step are the truth by walking the traces at every draft length; seconds per step are the
public fit for Llama-3.1-8B on an H100 (SpecDecode-Bench/simulator, 2fdccbd). They hold what sweeps
rarely do: long ladders, ngram, speculation that loses at load, and acceptance histograms.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search_landscapes import Landscape

BATCHES = (1, 16, 64, 256)
CONTEXT = 1000  # tokens per request
LENGTHS = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    10,
    13,
    15,
)  # those that a space has, and those with histograms


def step_s(drafter: str, k: int, batch: int) -> float:
    """Seconds per step of the public fit."""
    cached = batch * CONTEXT
    verify = 3.92645679e-8 * cached + 2.10103129e-5 * batch * (k + 1) + 5.88590713e-3
    draft = k * (2.37768493e-9 * cached + 8.41429603e-7 * batch + 2.13526175e-3)
    if drafter == "ngram":
        draft = 0.005875 * verify if k else 0.0
    return verify + draft + 1.20683946e-3


def computed(folder: Path) -> tuple[Landscape, ...]:
    """One per trace and batch size; none without traces in the directory's `acceptance`."""
    found = []
    for path in sorted((folder / "acceptance").glob("*.json")):
        traces = json.loads(path.read_text(encoding="utf-8")).get("traces", {})
        for name, trace in sorted(traces.items()):
            found += [_landscape(name, trace, batch) for batch in BATCHES]
    return tuple(found)


def _landscape(name: str, trace: Mapping[str, Any], batch: int) -> Landscape:
    drafter = name.rsplit("/", maxsplit=1)[-1]
    walked = {k: float(trace["AL_walked"][str(k)]) for k in LENGTHS}
    return Landscape(
        name=f"{name} batch={batch}",
        family=name,
        rates={k: batch * tokens / step_s(drafter, k, batch) for k, tokens in walked.items()},
        tokens={k: tokens for k, tokens in walked.items() if k},
        histograms={int(k): tuple(counts) for k, counts in trace["histogram"].items()},
        method=drafter,
    )
