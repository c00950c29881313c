"""The judge: every winner and vLLM's default, in fresh engines, interleaved, by one client."""

import asyncio
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peers_candidates import Budget
from peers_process import watched

from profiles.knobs import Knobs
from tuner.compare import fixed_interval

DEFAULT = "off"
BLOCKS, BLOCK_S = 3, 6.0


def arms(found: Sequence[Mapping[str, Any]]) -> dict[str, Knobs]:
    """Every distinct winner by its label, and vLLM's default."""
    chosen = [Knobs.model_validate(each["winner"]) for each in found if each["winner"] is not None]
    # the KV cache is the same for all of them and set elsewhere
    plain = [knobs.model_copy(update={"cpu_kv_gib": None}) for knobs in chosen]
    return {knobs.label(): knobs for knobs in (Knobs(), *plain)}


def order(names: Sequence[str], rounds: int) -> list[list[str]]:
    """Who is measured when: every arm once per round, each round begins with another one."""
    turns = [number % len(names) for number in range(rounds)]
    return [[*names[turn:], *names[:turn]] for turn in turns]


def verdicts(rows: Sequence[Mapping[str, float | None]]) -> dict[str, dict[str, Any]]:
    """Rates of every arm with intervals, and gains against the default, paired by round.

    An arm without a rate in some round cannot start, or not always.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        rates = [row.get(name) for row in rows]
        known = [math.log(rate) for rate in rates if rate]
        pairs = [(row.get(name), row.get(DEFAULT)) for row in rows]
        gains = [math.log(one / other) for one, other in pairs if one and other]
        found[name] = {
            "starts": len(known),
            "failed": sum(rate is None for rate in rates),
            "tok_s": _exp(known),
            "gain": _exp(gains) if name != DEFAULT else None,
            "spread": statistics.stdev(known) if len(known) > 1 else None,
        }
    return found


def _exp(logs: Sequence[float]) -> list[float] | None:
    """Geometric mean and its 95 % interval, for a number of rounds fixed beforehand."""
    if len(logs) < 2:
        return None
    found = fixed_interval(logs)
    return [math.exp(value) for value in (found.mean, found.low, found.high)]


def judge(
    budget: Budget,
    found: Sequence[Mapping[str, Any]],
    folder: Path,  # noqa: ARG001  every part has a folder
) -> dict[str, Any]:
    """Measure all winners; the rounds and what follows from them."""
    from peers_stage import FailedStartError, measured

    chosen = arms(found)
    rows: list[dict[str, float | None]] = []
    reasons: dict[str, str] = {}
    with watched({}) as watch:
        os.environ.update(watch.env)
        for names in order(list(chosen), budget.rounds):
            row: dict[str, float | None] = {}
            for name in names:
                try:
                    knobs = chosen[name]
                    work = measured(knobs, block_s=BLOCK_S, blocks=BLOCKS, lengths=budget.lengths)
                    row[name], _ = asyncio.run(work)
                except FailedStartError as error:
                    row[name], reasons[name] = None, str(error)
            rows.append(row)
    return {
        "rounds": rows,
        "reasons": reasons,
        "arms": verdicts(rows),
        "wall_s": watch.wall_s,
        "left_behind": watch.left_behind,
        "knobs": {name: knobs.given() for name, knobs in chosen.items()},
    }
