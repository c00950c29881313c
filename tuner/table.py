"""P: the table of a sweep: goodput by draft length and concurrency, with intervals and winners."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tuner.buckets import assemble, bucket
from tuner.cells import NOTHING, Cell
from tuner.compare import fixed_interval

TIE = 0.01  # the shorter draft length wins


@dataclass(frozen=True, kw_only=True)
class Entry:
    """All rounds of one draft length at one concurrency."""

    rounds: tuple[Cell, ...] = ()  # pure decode steps of each visit
    power_w: tuple[float, ...] = ()
    temperature_c: tuple[float, ...] = ()

    def add(self, cell: Cell, *, power_w: float | None, temperature_c: float | None) -> "Entry":
        """With one more visit."""
        return Entry(
            rounds=(*self.rounds, cell),
            power_w=self.power_w if power_w is None else (*self.power_w, power_w),
            temperature_c=self.temperature_c
            if temperature_c is None
            else (*self.temperature_c, temperature_c),
        )

    @property
    def whole(self) -> Cell:
        """All rounds in one."""
        return sum(self.rounds, NOTHING)

    def row(self, requests: int) -> dict[str, Any]:
        """The cell as data; `requests` is the number in a batch."""
        whole = self.whole
        logs = [math.log(c.goodput_tok_s) for c in self.rounds if c.goodput_tok_s]
        # Student's t on rounds: their number is fixed before the first one
        around = fixed_interval(logs) if len(logs) > 1 else None
        steps = whole.tokens_per_step
        return {
            "goodput_tok_s": whole.goodput_tok_s,
            "low_tok_s": None if around is None else math.exp(around.low),
            "high_tok_s": None if around is None else math.exp(around.high),
            "rounds": len(self.rounds),
            "steps": whole.steps,
            "tokens": whole.tokens,
            "step_ms": None if whole.step_s is None else 1e3 * whole.step_s,
            "tokens_per_step": None if steps is None else steps / max(requests, 1),
            "power_w": statistics.fmean(self.power_w) if self.power_w else None,
            "temperature_c": max(self.temperature_c, default=None),
        }


Entries = Mapping[tuple[int, int], Entry]  # (concurrency, draft length)


@dataclass(frozen=True, kw_only=True)
class Table:
    """What was measured so far."""

    entries: Entries = field(default_factory=dict)
    off: Mapping[int, Entry] = field(default_factory=dict)  # by concurrency

    def cells(self) -> list[dict[str, Any]]:
        """One row per concurrency and draft length."""
        return [
            {"concurrency": concurrency, "draft_length": k, **entry.row(concurrency)}
            for (concurrency, k), entry in sorted(self.entries.items())
        ]

    def off_cells(self) -> list[dict[str, Any]]:
        """One row per concurrency, with speculation truly off."""
        return [
            {"concurrency": concurrency, **entry.row(concurrency)}
            for concurrency, entry in sorted(self.off.items())
        ]

    def winners(self) -> list[dict[str, Any]]:
        """The best of each concurrency; `draft_length` None means off."""
        found: list[dict[str, Any]] = []
        for concurrency in sorted({concurrency for concurrency, _ in self.entries}):
            rates = self._rates(concurrency)
            if not rates:
                continue
            k = _best(rates)
            off = self.off.get(concurrency, Entry()).whole.goodput_tok_s
            zero = rates.get(0)
            loses = off is not None and off * (1 + TIE) >= rates[k]
            rate = off if loses and off is not None else rates[k]
            found.append(
                {
                    "concurrency": concurrency,
                    "draft_length": None if loses else k,
                    "goodput_tok_s": rate,
                    "gain_over_off": None if not off else rate / off - 1,
                    "gain_over_zero": None if not zero else rate / zero - 1,
                }
            )
        return found

    def schedule(self, ceiling: int) -> tuple[tuple[int, int, int], ...] | None:
        """The k(b) ranges that the table recommends for an engine that speculates."""
        best: dict[int, int] = {}
        for concurrency in sorted({concurrency for concurrency, _ in self.entries}):
            rates = self._rates(concurrency)
            if rates:
                best[bucket(concurrency)] = _best(rates)
        return assemble(best, ceiling=max(ceiling, 1), fallback=0) if best else None

    def _rates(self, concurrency: int) -> dict[int, float]:
        return {
            k: rate
            for (c, k), entry in self.entries.items()
            if c == concurrency and (rate := entry.whole.goodput_tok_s)
        }


def _best(rates: Mapping[int, float]) -> int:
    top = max(rates.values())
    return min(k for k, rate in rates.items() if rate >= top * (1 - TIE))
