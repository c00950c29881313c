"""P: whether the cards have the memory that vLLM asks for before it loads anything."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from profiles.knobs import Knobs
from tuner.command_line import value_of
from tuner.gpu_reading import GpuReading

# vLLM's own, 0.92 in 0.32; the lower one of before, so that no start is refused that it takes
DEFAULT_FRACTION = 0.9
# weights that a process beside the engine holds for it count as its own: nothing can be told then
SHARED_WEIGHTS = "ipc_cache"
# CUDA counts some hundred MiB less than NVML does, and vLLM takes its fraction of those
SLACK = 0.02


@dataclass(frozen=True, kw_only=True)
class Need:
    """What the start of an engine asks for."""

    fraction: float  # of the whole memory of a card, which has to be free
    cards: int

    @classmethod
    def of(cls, args: Sequence[str], knobs: Knobs) -> Self:
        """The need of these knobs beside these arguments of vLLM; what cannot be read is small."""
        fraction = knobs.gpu_memory_utilization
        if fraction is None:
            fraction = _number(args, "--gpu-memory-utilization", default=DEFAULT_FRACTION)
        if any(SHARED_WEIGHTS in arg for arg in args):
            fraction = 0.0
        parallel = _number(args, "--tensor-parallel-size", "-tp", default=1)
        stages = _number(args, "--pipeline-parallel-size", "-pp", default=1)
        return cls(fraction=fraction, cards=max(1, round(parallel * stages)))


def shortage(
    cards: Iterable[GpuReading], need: Need, ours: frozenset[int] = frozenset()
) -> str | None:
    """Why vLLM would refuse to start, as words; None when it may have enough.

    `ours` are the processes of the running engine, whose memory comes back first. vLLM refuses
    unless its fraction is free (`request_memory`, vllm/v1/worker/utils.py). A card that does not
    say who holds what is not in the way.
    """
    seen = list(cards)
    pids = {process.pid for card in seen for process in card.processes or ()}
    if ours and not ours & pids:  # a container: the driver's pids are not those that we know
        return None
    short = [words for card in seen if (words := _short(card, need.fraction, ours)) is not None]
    return "; ".join(short) if short and len(seen) - len(short) < need.cards else None


def _short(card: GpuReading, fraction: float, ours: frozenset[int]) -> str | None:
    if card.memory_total_mib is None or card.fault is not None:
        return None
    held = {
        process.pid: process.memory_mib
        for process in card.processes or ()
        if process.pid not in ours and process.memory_mib
    }
    left_mib = card.memory_total_mib - sum(held.values())
    if left_mib >= (fraction - SLACK) * card.memory_total_mib:
        return None
    holders = ", ".join(f"pid {pid} holds {mib:.0f} MiB" for pid, mib in sorted(held.items()))
    return (
        f"{card.uuid}: {holders}; {left_mib:.0f} of {card.memory_total_mib:.0f} MiB are left, and "
        f"gpu_memory_utilization {fraction:g} needs {fraction * card.memory_total_mib:.0f}"
    )


def _number(args: Sequence[str], *flags: str, default: float) -> float:
    """The value of a flag; the default for one that is no number, as vLLM refuses it anyway."""
    try:
        return float(value_of(args, *flags) or default)
    except ValueError:
        return default
