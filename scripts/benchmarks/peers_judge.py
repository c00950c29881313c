"""The judge: every winner and vLLM's default, in fresh engines, interleaved, by one client."""

import asyncio
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peers_candidates import Budget, title
from peers_process import watched
from peers_result import write

from profiles.knobs import Knobs
from tuner.compare import fixed_interval

Seen = Mapping[str, Any]  # fields of a `peers_stage.Start`

DEFAULT = "off"
BLOCKS, BLOCK_S = 3, 6.0
TRIES = 2


def arms(found: Sequence[Mapping[str, Any]]) -> dict[str, Knobs]:
    """Every distinct winner, what a tool would not put in force, and vLLM's default."""
    named = [each.get(key) for each in found for key in ("winner", "refused")]
    chosen = [Knobs.model_validate(one) for one in named if one is not None]
    # the KV cache is the same for all of them and set elsewhere
    plain = [knobs.model_copy(update={"cpu_kv_gib": None}) for knobs in chosen]
    return {title(knobs): knobs for knobs in (Knobs(), *plain)}


def order(names: Sequence[str], rounds: int) -> list[list[str]]:
    """Who is measured when: every arm once per round, each round begins with another one."""
    turns = [number % len(names) for number in range(rounds)]
    return [[*names[turn:], *names[:turn]] for turn in turns]


def verdicts(rows: Sequence[Mapping[str, Seen | None]]) -> dict[str, dict[str, Any]]:
    """Rates of every arm with intervals, and gains against the default, paired by round.

    An arm without a rate in some round cannot start, or not always.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        seen = [one for row in rows if (one := row.get(name)) is not None]
        known = [math.log(one["tok_s"]) for one in seen]
        pairs = [(row.get(name), row.get(DEFAULT)) for row in rows]
        gains = [math.log(one["tok_s"] / other["tok_s"]) for one, other in pairs if one and other]
        found[name] = {
            "starts": len(seen),
            "failed": len(rows) - len(seen),
            "tok_s": _exp(known),
            "gain": _exp(gains) if name != DEFAULT else None,
            "ttft_p95_s": _median([one["ttft_p95_s"] for one in seen]),
            "tpot_mean_s": _median([one["tpot_mean_s"] for one in seen]),
        }
    return found


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _start(knobs: Knobs, budget: Budget) -> tuple[Seen | None, str | None]:
    """One arm in one round: a start whose measurement is unfit is repeated once, with a remark."""
    from peers_stage import FailedStartError, measured

    remark: str | None = None
    for _ in range(TRIES):
        work = measured(knobs, block_s=BLOCK_S, blocks=BLOCKS, lengths=budget.lengths)
        try:
            seen = asyncio.run(work)
        except FailedStartError as error:
            return None, f"did not start: {error}"
        if seen.invalid is None:
            break
        remark = f"was measured twice in a round: {seen.invalid}"
    return asdict(seen), remark


def _exp(logs: Sequence[float]) -> list[float] | None:
    """Geometric mean and its 95 % interval, for a number of rounds fixed beforehand."""
    if len(logs) < 2:
        return None
    found = fixed_interval(logs)
    return [math.exp(value) for value in (found.mean, found.low, found.high)]


def judge(budget: Budget, found: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """Measure all winners; the rounds, which are also in the folder, and what follows from them."""
    chosen = arms(found)
    rows: list[dict[str, Seen | None]] = []
    reasons: dict[str, str] = {}
    with watched({}) as watch:
        os.environ.update(watch.env)
        for names in order(list(chosen), budget.rounds):
            rows.append({})
            for name in names:
                rows[-1][name], reason = _start(chosen[name], budget)
                if reason is not None:
                    reasons[name] = reason
            write(folder / "rounds.json", {"rounds": rows, "reasons": reasons})
    return {
        "rounds": rows,
        "reasons": reasons,
        "arms": verdicts(rows),
        "wall_s": watch.wall_s,
        "left_behind": watch.left_behind,
        "knobs": {name: knobs.given() for name, knobs in chosen.items()},
    }
