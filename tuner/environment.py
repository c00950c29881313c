"""P: the figures of a window from its sensor readings."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from profiles.measurement import Environment
from tuner.gpu_reading import GpuReading, fault_of

# The driver renews the energy counter about every 100 ms, and A100 and H100 look at their power a
# quarter of the time only (arXiv 2312.02741): an energy figure needs this many seconds.
ENERGY_WINDOW_S = 20.0


@dataclass(frozen=True, kw_only=True)
class HostReading:
    """Processor seconds since boot, and memory in use."""

    busy_s: float
    total_s: float
    memory_mib: float


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Everything that was read at one moment."""

    at: float  # monotonic clock, seconds
    host: HostReading | None
    gpus: tuple[GpuReading, ...]


def environment(
    readings: Sequence[Reading],
    *,
    seconds: float,
    ours: frozenset[int] = frozenset(),
    energy_window_s: float = ENERGY_WINDOW_S,
) -> Environment:
    """The figures of a window; energy is extended over its unread edges.

    `ours` are the processes of the engine; what else computes on its cards is foreign.
    A window shorter than `energy_window_s` has no energy, and its power is a mean of readings.
    """
    if not readings:
        return Environment()
    long = seconds >= energy_window_s
    power_w = (_counted_power(readings) if long else None) or _read_power(readings)
    cards = [card for reading in readings for card in reading.gpus]
    fault = fault_of([reading.gpus for reading in readings])
    return Environment(
        power_w=power_w,
        energy_j=power_w * seconds if long and power_w is not None else None,
        temperature_c=highest([card.temperature_c for card in cards]),
        gpu_memory_mib=highest(
            [total([card.memory_mib for card in reading.gpus]) for reading in readings]
        ),
        gpu_utilization=mean([card.utilization for card in cards]),
        sm_clock_mhz=mean([card.sm_clock_mhz for card in cards]),
        memory_clock_mhz=mean([card.memory_clock_mhz for card in cards]),
        throttle_reasons=reasons(readings),
        gpu_fault=None if fault is None else fault.sentence,
        foreign_gpu_mib=_foreign_growth(readings, ours),
        foreign_gpu_busy=_foreign_busy(readings, ours),
        host_cpu=host_cpu(readings[0], readings[-1]),
        host_memory_mib=highest(
            [None if reading.host is None else reading.host.memory_mib for reading in readings]
        ),
    )


def reasons(readings: Sequence[Reading]) -> tuple[str, ...]:
    """Every clock event reason that was seen, by name."""
    names = {name for reading in readings for card in reading.gpus for name in (card.reasons or ())}
    return tuple(sorted(names))


def host_cpu(before: Reading | None, after: Reading) -> float | None:
    """The share of all processor time between two readings that was not idle."""
    if before is None or before.host is None or after.host is None:
        return None
    elapsed_s = after.host.total_s - before.host.total_s
    if elapsed_s <= 0:
        return None
    return min(1.0, max(0.0, (after.host.busy_s - before.host.busy_s) / elapsed_s))


def total(values: Sequence[float | None]) -> float | None:
    """The sum; None when there is nothing or one part is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def highest(values: Sequence[float | None]) -> float | None:
    """The largest of the known values."""
    return max((value for value in values if value is not None), default=None)


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the known values."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _read_power(readings: Sequence[Reading]) -> float | None:
    return mean([total([card.power_w for card in reading.gpus]) for reading in readings])


def _counted_power(readings: Sequence[Reading]) -> float | None:
    """Mean power from the energy counters; None when one is missing, stands still or restarted."""
    elapsed_s = readings[-1].at - readings[0].at
    if elapsed_s <= 0:
        return None
    watts = [
        _card_power([_of(reading, card.uuid) for reading in readings], elapsed_s)
        for card in readings[0].gpus
    ]
    return total(watts)


def _card_power(series: Sequence[GpuReading | None], elapsed_s: float) -> float | None:
    counts = [None if card is None else card.energy_j for card in series]
    known = [count for count in counts if count is not None]
    ends_known = counts[0] is not None and counts[-1] is not None
    fell = any(new < old for old, new in pairwise(known))
    if not ends_known or fell or known[-1] <= known[0]:
        return None
    return (known[-1] - known[0]) / elapsed_s


def _of(reading: Reading, uuid: str) -> GpuReading | None:
    return next((card for card in reading.gpus if card.uuid == uuid), None)


def _shared(readings: Sequence[Reading], ours: frozenset[int]) -> list[list[GpuReading]]:
    """Readings of the cards on which the engine was seen.

    In a container the driver may name pids of another namespace, or none at all: then nothing is
    recognised as ours, and nothing can be called foreign either.
    """
    used = {
        card.uuid
        for reading in readings
        for card in reading.gpus
        if any(process.pid in ours for process in card.processes or ())
    }
    return [[card for card in reading.gpus if card.uuid in used] for reading in readings]


def _foreign_growth(readings: Sequence[Reading], ours: frozenset[int]) -> float | None:
    """MiB that processes other than ours took beyond what they held at the beginning, at most."""
    held = [
        total(
            [
                process.memory_mib
                for card in cards
                for process in card.processes or ()
                if process.pid not in ours
            ]
            + [0.0]
        )
        for cards in _shared(readings, ours)
        if cards
    ]
    most = highest(held)
    return None if most is None or held[0] is None else most - held[0]


def _foreign_busy(readings: Sequence[Reading], ours: frozenset[int]) -> float | None:
    """The share of its time that the card computed for others than us; the worst card's mean."""
    by_card: dict[str, list[float | None]] = {}
    for cards in _shared(readings, ours):
        for card in cards:
            others = [p.busy for p in card.processes or () if p.pid not in ours]
            by_card.setdefault(card.uuid, []).append(total([*others, 0.0]))
    return highest([mean(values) for values in by_card.values()])
