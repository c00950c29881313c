"""Power, heat and host load, sampled by a thread of its own: a hanging driver blocks nobody."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import psutil

from profiles.measurement import Environment
from tuner.cards import Cards, GpuSensors
from tuner.environment import HostReading, Reading, environment, highest, host_cpu, mean, total
from tuner.environment import reasons as reasons_of
from tuner.gpu_reading import MIB, FaultCode, GpuFault, GpuReading, fault_of, silence
from tuner.nvml import Nvml
from tuner.processes import host_cpu_s

PERIOD_S = 0.5
STALE_S = 5.0  # a reading older than this is no longer what the sensors say
NOT_STARTED = "The sensors have not been read yet."


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The latest figures, for a status page; a sensor that is missing is None."""

    power_w: float | None = None
    temperature_c: float | None = None  # the hottest card
    gpu_memory_mib: float | None = None
    gpu_utilization: float | None = None  # 0-1
    sm_clock_mhz: float | None = None  # mean over cards
    memory_clock_mhz: float | None = None
    throttle_reasons: tuple[str, ...] = ()
    host_cpu: float | None = None  # 0-1, since the reading before
    host_memory_mib: float | None = None
    gpus: dict[str, GpuReading] = field(default_factory=dict)  # by UUID
    reason: str | None = None  # why there are no GPU figures, or which of them are missing
    fault: GpuFault | None = None  # why nothing can be measured: tuning pauses


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
        self._cards = Cards(open_gpus, uuids, clock)  # the thread's own
        self._period_s = period_s
        self._clock = clock
        self._lock = threading.Lock()  # guards the fields below, held for moments only
        self._latest: Reading | None = None
        self._before: Reading | None = None
        self._reason: str | None = NOT_STARTED
        self._fault: GpuFault | None = None  # of the driver as a whole
        self._asked_at: float | None = None  # since when the driver owes an answer
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
        host, fault = _host_now(), self.fault()
        if latest is None:
            reason = reason if fault is None else fault.sentence
            return Snapshot(host_memory_mib=host.memory_mib, reason=reason, fault=fault)
        age_s = self._clock() - latest.at
        if age_s > STALE_S:
            if latest.gpus:
                reason = GpuFault.of(FaultCode.DRIVER_HANGS, f"{age_s:.0f}").sentence
            reason = reason if fault is None else fault.sentence
            return Snapshot(host_memory_mib=host.memory_mib, reason=reason, fault=fault)
        cards = latest.gpus
        return Snapshot(
            power_w=total([card.power_w for card in cards]),
            temperature_c=highest([card.temperature_c for card in cards]),
            gpu_memory_mib=total([card.memory_mib for card in cards]),
            gpu_utilization=mean([card.utilization for card in cards]),
            sm_clock_mhz=mean([card.sm_clock_mhz for card in cards]),
            memory_clock_mhz=mean([card.memory_clock_mhz for card in cards]),
            throttle_reasons=reasons_of([latest]),
            host_cpu=host_cpu(before, latest),
            host_memory_mib=host.memory_mib,
            gpus={card.uuid: card for card in cards},
            reason=reason if fault is None else fault.sentence,
            fault=fault,
        )

    def fault(self) -> GpuFault | None:
        """Why nothing can be measured now; None also on a machine without an NVIDIA GPU."""
        with self._lock:
            latest, before, fault = self._latest, self._before, self._fault
            asked_at = self._asked_at
        waited_s = 0.0 if asked_at is None else self._clock() - asked_at
        if waited_s > STALE_S:
            return GpuFault.of(FaultCode.DRIVER_HANGS, f"{waited_s:.0f}")
        return fault or fault_of([each.gpus for each in (before, latest) if each is not None])

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
        while not self._stopped.is_set():
            with self._lock:
                self._asked_at = self._clock()
            cards = self._cards.read()
            reason = self._cards.reason or silence(cards)
            reading = Reading(at=self._clock(), host=_host_now(), gpus=cards)
            with self._lock:
                self._asked_at = None
                self._before, self._latest = self._latest, reading
                self._reason, self._fault = reason, self._cards.fault
                for window in self._windows:
                    window.readings.append(reading)
            self._wake.wait(self._period_s)
            self._wake.clear()
        self._cards.close()


class TelemetryWindow:
    """Readings between two moments."""

    def __init__(self, telemetry: Telemetry, began_at: float) -> None:
        self.readings: list[Reading] = []  # appended by the sampler only
        self._telemetry = telemetry
        self._began_at = began_at

    def finish(self, ours: frozenset[int] = frozenset()) -> Environment:
        """The figures since the window began; `ours` are the pids of the engine."""
        self._telemetry._finish(self)  # noqa: SLF001 - the two are one thing
        ended_at = self._telemetry._clock()  # noqa: SLF001
        found = environment(self.readings, seconds=ended_at - self._began_at, ours=ours)
        fault = self._telemetry.fault()  # a driver that hangs leaves no reading that says so
        if fault is None or found.gpu_fault is not None:
            return found
        return found.model_copy(update={"gpu_fault": fault.sentence})


def _host_now() -> HostReading:
    busy_s, total_s = host_cpu_s()
    memory = psutil.virtual_memory()
    return HostReading(
        busy_s=busy_s, total_s=total_s, memory_mib=(memory.total - memory.available) / MIB
    )
