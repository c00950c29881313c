"""P: what one failure says about other configurations: monotone cones, with the trial as evidence.

A configuration is harder than another when it has at least as many admitted requests, at least
the token budget and at least the draft length, on the same drafter (off is draft length 0 of every
drafter). Memory runs out with more of the engine's memory, KV blocks run out with less of it.
Coordinates are start-up ceilings; an unset knob compares only with an unset one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from profiles.knobs import Knobs
from profiles.measurement import FailureKind
from tuner.observation import Observation

MEMORY = frozenset({FailureKind.OOM_LOAD, FailureKind.OOM_SERVE})
POINT = frozenset({FailureKind.BAD_FLAG, FailureKind.CANARY})
RETRIED = frozenset({FailureKind.TIMEOUT, FailureKind.CRASH})  # once may have been the host
DEFINITE = MEMORY | POINT | {FailureKind.NO_KV_MEMORY}


@dataclass(frozen=True, kw_only=True)
class Cones:
    """Failures that exclude points, and the successes that limit them."""

    failures: tuple[Observation, ...]  # by trial, so that the order of arrival does not matter
    successes: frozenset[Knobs]  # of this class
    started: frozenset[Knobs]  # of any class: wins against a failure to start

    @classmethod
    def of(cls, observations: Sequence[Observation], elsewhere: Sequence[Observation] = ()) -> Self:
        """The cones of one class; `elsewhere` are the rows of other classes on this platform.

        Running out of memory while serving depends on the load, so that of another class counts
        only when it was seen in two starts.
        """
        serving = {row.start for row in elsewhere if row.failure is FailureKind.OOM_SERVE}
        rows = [*observations]
        rows += [
            row for row in elsewhere if row.failure is not FailureKind.OOM_SERVE or len(serving) > 1
        ]
        failures = sorted(
            (row for row in rows if row.blamed),
            key=lambda row: (row.trial, row.start, row.knobs.canonical(), str(row.failure)),
        )
        return cls(
            failures=tuple(failures),
            successes=frozenset(row.knobs for row in observations if row.measured),
            started=frozenset(row.knobs for row in (*observations, *elsewhere) if row.measured),
        )

    def excludes(self, knobs: Knobs) -> str | None:
        """Why these knobs are not tried; None when nothing speaks against them."""
        if knobs in self.successes:
            return None
        for row in self.failures:
            if row.failure in DEFINITE and self._covers(row, knobs):
                return _sentence(row, knobs)
        repeated = [row for row in self.failures if row.failure in RETRIED and row.knobs == knobs]
        if len({row.start for row in repeated}) > 1:
            return f"not tried: trials {_numbers(repeated)} failed with the same"
        return None

    def _covers(self, row: Observation, knobs: Knobs) -> bool:
        if row.failure in POINT:
            return row.knobs == knobs
        up = row.failure in MEMORY
        winners = self.successes if row.failure is FailureKind.OOM_SERVE else self.started
        # a success inside the cone wins: what is no harder than it is open again
        return harder(knobs, row.knobs, memory_up=up) and not any(
            harder(success, knobs, memory_up=up) for success in winners
        )


def harder(left: Knobs, right: Knobs, *, memory_up: bool) -> bool:
    """Whether `left` is at least as hard as `right`; with `memory_up` more memory is harder."""
    if left.performance_mode != right.performance_mode:
        return False
    if left.drafter != right.drafter and right.speculating:
        return False
    if left.draft_tokens < right.draft_tokens:
        return False
    load = (
        (left.max_num_seqs, right.max_num_seqs),
        (left.max_num_batched_tokens, right.max_num_batched_tokens),
    )
    memory = (
        (left.gpu_memory_utilization, right.gpu_memory_utilization),
        (left.cpu_kv_gib, right.cpu_kv_gib),
    )
    return all(_at_least(a, b) for a, b in load) and all(
        _at_least(a, b) if memory_up else _at_least(b, a) for a, b in memory
    )


def _at_least(left: float | None, right: float | None) -> bool:
    if left is None or right is None:
        return left is right
    return left >= right


def _sentence(row: Observation, knobs: Knobs) -> str:
    same = row.knobs == knobs
    match row.failure:
        case FailureKind.NO_KV_MEMORY:
            with_what = "the same" if same else "an easier configuration"
            return f"not tried: trial {row.trial} found no memory for KV blocks with {with_what}"
        case FailureKind.BAD_FLAG:
            return f"not tried: vLLM refused the same in trial {row.trial}"
        case FailureKind.CANARY:
            return f"not tried: the canary completion failed with the same in trial {row.trial}"
        case _:
            with_what = "the same" if same else "less"
            return f"not tried: trial {row.trial} ran out of memory with {with_what}"


def _numbers(rows: Sequence[Observation]) -> str:
    return " and ".join(str(number) for number in sorted({row.trial for row in rows}))
