"""Power, heat and host load, sampled by a thread of its own: a hanging driver blocks nobody."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

import psutil

from profiles.measurement import Environment
from tuner.nvml import MIB, GpuReading, Nvml, NvmlMissingError

PERIOD_S = 0.5
STALE_S = 5.0  # a reading older than this is no longer what the sensors say
NOT_STARTED = "The sensors have not been read yet."
CPU_FIELDS_IN_OTHERS = ("guest", "guest_nice")  # Linux counts them within user and nice


class GpuSensors(Protocol):
    """What `Nvml` does, for tests with other cards."""

    def read(self) -> list[GpuReading]:
        """The sensors of every card."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


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


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The latest figures, for a status page; a sensor that is missing is None."""

    power_w: float | None = None
    temperature_c: float | None = None  # the hottest card
    gpu_memory_mib: float | None = None
    gpu_utilization: float | None = None  # 0-1
    throttle_reasons: tuple[str, ...] = ()
    host_cpu: float | None = None  # 0-1, since the reading before
    host_memory_mib: float | None = None
    gpus: dict[str, GpuReading] = field(default_factory=dict)  # by UUID
    reason: str | None = None  # why there are no GPU figures


class Telemetry:
    """Samples all sensors from `start` to `close`; the other methods never wait for a sensor."""

    def __init__(
        self,
        *,
        open_gpus: Callable[[], GpuSensors] = Nvml,
        uuids: frozenset[str] | None = None,  # None: every card
        period_s: float = PERIOD_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_gpus = open_gpus
        self._uuids = uuids
        self._period_s = period_s
        self._clock = clock
        self._lock = threading.Lock()  # guards the four fields below, held for appends only
        self._latest: Reading | None = None
        self._before: Reading | None = None
        self._reason: str | None = NOT_STARTED
        self._windows: list[TelemetryWindow] = []
        self._stopped = threading.Event()
        self._wake = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> Self:
        """Begin to sample."""
        thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._threads.append(thread)
        thread.start()
        return self

    def close(self) -> None:
        """Stop; a thread that hangs in the driver is left behind, it is a daemon thread."""
        self._stopped.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(2 * self._period_s + 1)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def snapshot(self) -> Snapshot:
        """The latest figures."""
        with self._lock:
            latest, before, reason = self._latest, self._before, self._reason
        host = _host_now()
        if latest is None:
            return Snapshot(host_memory_mib=host.memory_mib, reason=reason)
        age_s = self._clock() - latest.at
        if age_s > STALE_S:
            reason = f"The GPU driver has not answered for {age_s:.0f} s."
            return Snapshot(host_memory_mib=host.memory_mib, reason=reason)
        cards = latest.gpus
        return Snapshot(
            power_w=_total([card.power_w for card in cards]),
            temperature_c=_highest([card.temperature_c for card in cards]),
            gpu_memory_mib=_total([card.memory_mib for card in cards]),
            gpu_utilization=_mean([card.utilization for card in cards]),
            throttle_reasons=_reasons([latest]),
            host_cpu=_host_cpu(before, latest),
            host_memory_mib=host.memory_mib,
            gpus={card.uuid: card for card in cards},
            reason=reason,
        )

    def window(self) -> "TelemetryWindow":
        """Begin to collect readings until its `finish`."""
        window = TelemetryWindow(self, self._clock())
        with self._lock:
            self._windows.append(window)
        self._wake.set()  # a reading at the edge, not up to a period later
        return window

    def _finish(self, window: "TelemetryWindow") -> None:
        with self._lock:
            if window in self._windows:
                self._windows.remove(window)

    def _run(self) -> None:
        sensors: GpuSensors | None = None
        reason: str | None = None
        try:
            sensors = self._open_gpus()
        except NvmlMissingError as error:
            reason = str(error)
        while not self._stopped.is_set():
            cards = () if sensors is None else tuple(self._own(sensors.read()))
            reading = Reading(at=self._clock(), host=_host_now(), gpus=cards)
            with self._lock:
                self._before, self._latest, self._reason = self._latest, reading, reason
                for window in self._windows:
                    window.readings.append(reading)
            self._wake.wait(self._period_s)
            self._wake.clear()
        if sensors is not None:
            sensors.close()

    def _own(self, cards: list[GpuReading]) -> list[GpuReading]:
        return [card for card in cards if self._uuids is None or card.uuid in self._uuids]


class TelemetryWindow:
    """Readings between two moments."""

    def __init__(self, telemetry: Telemetry, began_at: float) -> None:
        self.readings: list[Reading] = []  # appended by the sampler only
        self._telemetry = telemetry
        self._began_at = began_at

    def finish(self) -> Environment:
        """The figures since the window began."""
        self._telemetry._finish(self)  # noqa: SLF001 - the two are one thing
        ended_at = self._telemetry._clock()  # noqa: SLF001
        return environment(self.readings, seconds=ended_at - self._began_at)


def environment(readings: Sequence[Reading], *, seconds: float) -> Environment:
    """The figures of a window from its readings; energy is extended over its unread edges."""
    if not readings:
        return Environment()
    power_w = _power(readings)
    cards = [card for reading in readings for card in reading.gpus]
    return Environment(
        power_w=power_w,
        energy_j=None if power_w is None else power_w * seconds,
        temperature_c=_highest([card.temperature_c for card in cards]),
        gpu_memory_mib=_highest(
            [_total([card.memory_mib for card in reading.gpus]) for reading in readings]
        ),
        gpu_utilization=_mean([card.utilization for card in cards]),
        throttle_reasons=_reasons(readings),
        host_cpu=_host_cpu(readings[0], readings[-1]),
        host_memory_mib=_highest(
            [None if reading.host is None else reading.host.memory_mib for reading in readings]
        ),
    )


def _power(readings: Sequence[Reading]) -> float | None:
    """Mean power: from the energy counters, else the mean of the power readings."""
    first, last = readings[0], readings[-1]
    elapsed_s = last.at - first.at
    begun = _total([card.energy_j for card in first.gpus])
    ended = _total([card.energy_j for card in last.gpus])
    if begun is not None and ended is not None and elapsed_s > 0 and ended > begun:
        return (ended - begun) / elapsed_s
    return _mean([_total([card.power_w for card in reading.gpus]) for reading in readings])


def _host_now() -> HostReading:
    times = psutil.cpu_times()._asdict()
    total_s = sum(value for name, value in times.items() if name not in CPU_FIELDS_IN_OTHERS)
    idle_s = times.get("idle", 0.0) + times.get("iowait", 0.0)
    memory = psutil.virtual_memory()
    return HostReading(
        busy_s=total_s - idle_s,
        total_s=total_s,
        memory_mib=(memory.total - memory.available) / MIB,
    )


def _host_cpu(before: Reading | None, after: Reading) -> float | None:
    if before is None or before.host is None or after.host is None:
        return None
    elapsed_s = after.host.total_s - before.host.total_s
    if elapsed_s <= 0:
        return None
    return min(1.0, max(0.0, (after.host.busy_s - before.host.busy_s) / elapsed_s))


def _reasons(readings: Sequence[Reading]) -> tuple[str, ...]:
    return tuple(
        sorted(
            {name for reading in readings for card in reading.gpus for name in card.reasons or ()}
        )
    )


def _total(values: Sequence[float | None]) -> float | None:
    """The sum; None when there is nothing or one part is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _highest(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
