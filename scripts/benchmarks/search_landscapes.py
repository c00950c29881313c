"""Published sweeps as landscapes: throughput by draft length, per file, concurrency and phase."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FEWEST = 3  # lengths of a landscape; with two there is only off or on
SETTINGS = ("concurrency", "phase", "power_cap_w", "tp", "context_tokens")


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """What one platform and workload does at every published draft length."""

    name: str
    family: str  # files of one rig and model: the unit of the sample
    rates: Mapping[int, float]  # tok/s by draft length
    failing: frozenset[int] = frozenset()  # lengths whose start fails
    tokens: Mapping[int, float] = field(default_factory=dict)  # tokens per step by draft length
    # accepted tokens per draft by the length of the run, where published
    histograms: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    method: str = ""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Everything that a search may start, shortest first."""
        return tuple(sorted({*self.rates, *self.failing}))

    @property
    def best(self) -> int:
        """The length with the highest rate; the shortest of equals."""
        return min(self.rates, key=lambda k: (-self.rates[k], k))

    def regret(self, length: int | None) -> float:
        """Share of the best rate that is lost; all of it without a choice."""
        return 1 - self.rates.get(-1 if length is None else length, 0.0) / max(self.rates.values())


@dataclass(frozen=True, kw_only=True)
class Atlas:
    """The landscapes of a directory and what was left out, with reasons."""

    landscapes: tuple[Landscape, ...]
    switches: tuple[Landscape, ...]  # two lengths only: off or on
    skipped: tuple[str, ...]

    @property
    def families(self) -> tuple[str, ...]:
        """Names of the families, sorted."""
        return tuple(sorted({each.family for each in self.landscapes}))


def load(folder: Path) -> Atlas:
    """All landscapes of a directory's JSON files.

    Raises:
        SystemExit: the directory has none.
    """
    kept: list[Landscape] = []
    skipped: list[str] = []
    for path in sorted(folder.glob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            found = list(_landscapes(path.stem, data, skipped))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            skipped.append(f"{path.stem}: not a landscape file ({type(error).__name__}: {error})")
            continue
        for each in found:
            twin = next((one for one in kept if _same(one, each)), None)
            if twin is None:
                kept.append(each)
            else:
                skipped.append(f"{each.name}: the same numbers as {twin.name}")
    if not kept:
        raise SystemExit(f"Cannot find a landscape in {folder}: give a directory of JSON files.")
    return Atlas(
        landscapes=tuple(one for one in kept if len(one.lengths) >= FEWEST),
        switches=tuple(one for one in kept if len(one.lengths) < FEWEST),
        skipped=tuple(skipped),
    )


def _landscapes(stem: str, data: Mapping[str, Any], skipped: list[str]) -> Iterable[Landscape]:
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for point in data["points"]:
        policy = point.get("k_policy", "fixed")
        if point.get("num_speculative_tokens") is None or policy not in {"fixed", "early_exit"}:
            _note(skipped, f"{stem}: points of policy {policy!r} have no draft length of their own")
            continue
        if _rate(point) is None and "failed" not in point:
            _note(skipped, f"{stem}: a point without a rate")
            continue
        groups.setdefault(_setting(point), []).append(point)
    family = "|".join(str(data.get(name, "")) for name in ("source_url", "model"))
    for setting, points in groups.items():
        off = [point for point in points if point["num_speculative_tokens"] == 0]
        methods = sorted({_method(point) for point in points if point not in off}) or [""]
        for method in methods:
            mine = [*off, *(p for p in points if p not in off and _method(p) == method)]
            name = " ".join([stem, *setting, *([method] if len(methods) > 1 else [])])
            rates, failing, tokens = _values(mine)
            if len(rates) < 2:
                skipped.append(f"{name}: {len(rates)} draft length with a rate")
                continue
            yield Landscape(
                name=name,
                family=family,
                rates=rates,
                failing=frozenset(failing - rates.keys()),
                tokens=tokens,
                method=str(data.get("method", "")),
            )


def _values(
    points: Iterable[Mapping[str, Any]],
) -> tuple[dict[int, float], set[int], dict[int, float]]:
    runs: dict[int, list[float]] = {}
    failing, tokens = set(), {}
    for point in points:
        k = int(point["num_speculative_tokens"])
        rate = _rate(point)
        if rate is None:
            failing.add(k)
            continue
        runs.setdefault(k, []).append(rate)
        if point.get("output_tok_s_repeat"):
            runs[k].append(float(point["output_tok_s_repeat"]))
        if k and point.get("acceptance_len"):
            tokens[k] = float(point["acceptance_len"])
        elif k and point.get("acceptance_rate"):
            tokens[k] = 1 + k * float(point["acceptance_rate"])
    return {k: math.fsum(found) / len(found) for k, found in runs.items()}, failing, tokens


def _rate(point: Mapping[str, Any]) -> float | None:
    for key in ("output_tok_s", "output_tok_s_from_speedup"):
        value = point.get(key)
        if value is not None and value > 0:
            return float(value)
    return None


def _setting(point: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"{key}={point[key]}" for key in SETTINGS if point.get(key) is not None)


def _method(point: Mapping[str, Any]) -> str:
    return str(point.get("method", ""))


def _note(skipped: list[str], sentence: str) -> None:
    if sentence not in skipped:
        skipped.append(sentence)


def _same(one: Landscape, other: Landscape) -> bool:
    """Whether two curves of a family are one: equal wherever speculation is on."""
    if one.family != other.family:
        return False
    mine, yours = ({k: v for k, v in each.rates.items() if k} for each in (one, other))
    return len(mine) > 1 and mine == yours
