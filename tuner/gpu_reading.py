"""P: what a GPU says of itself, and the faults after which nothing measured on it is trusted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

MIB = 2**20

# bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h); idle and none are no news
EVENT_REASONS: tuple[tuple[int, str], ...] = (
    (0x002, "applications_clocks"),
    (0x004, "sw_power_cap"),
    (0x008, "hw_slowdown"),
    (0x010, "sync_boost"),
    (0x020, "sw_thermal_slowdown"),
    (0x040, "hw_thermal_slowdown"),
    (0x080, "hw_power_brake"),
    (0x100, "display_clocks"),
)


class FaultCode(StrEnum):
    """Why tuning pauses while serving goes on."""

    GPU_LOST = "gpu_lost"  # it fell off the bus, or is gone since the driver was opened
    GPU_NEEDS_RESET = "gpu_needs_reset"
    DRIVER_MISMATCH = "driver_mismatch"  # kernel module and library of different versions
    DRIVER_BROKEN = "driver_broken"  # there is a driver, but it cannot be used
    DRIVER_HANGS = "driver_hangs"  # a call does not come back
    MIG = "mig"  # the card is split: its sensors say nothing about one instance
    SENSORS_BLIND = "sensors_blind"  # it does not say whether it is throttled


# with these a running engine may go on, but a new one would hardly start: it is not restarted
NO_START = frozenset(FaultCode) - {FaultCode.MIG, FaultCode.SENSORS_BLIND}

SENTENCES: Mapping[FaultCode, str] = {
    FaultCode.GPU_LOST: (
        "{name} is lost: the driver cannot reach it any more. "
        "Look for Xid in the kernel log, then reset it or reboot."
    ),
    FaultCode.GPU_NEEDS_RESET: (
        "{name} has to be reset before it can be used: `nvidia-smi --gpu-reset`, or reboot."
    ),
    FaultCode.DRIVER_MISMATCH: (
        "The NVIDIA driver and its library are of different versions. "
        "Reboot, or reload the NVIDIA kernel modules, after a driver update."
    ),
    FaultCode.DRIVER_BROKEN: (
        "The NVIDIA driver cannot be used ({name}). `nvidia-smi` and the kernel log say more."
    ),
    FaultCode.DRIVER_HANGS: "The GPU driver has not answered for {name} s.",
    FaultCode.MIG: (
        "{name} is split by MIG, where power, heat and load of one instance are not known. "
        "Turn MIG off to tune: `nvidia-smi -mig 0`."
    ),
    FaultCode.SENSORS_BLIND: (
        "{name} does not say whether it is throttled, so no measurement can be called valid."
    ),
}


@dataclass(frozen=True, kw_only=True)
class GpuFault:
    """A fault with its sentence for people."""

    code: FaultCode
    sentence: str

    @classmethod
    def of(cls, code: FaultCode, name: object = "") -> "GpuFault":
        """The fault of a card, or with the driver's own words or seconds as its name."""
        return cls(code=code, sentence=SENTENCES[code].format(name=name))


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One card, for the platform fingerprint."""

    name: str
    uuid: str
    memory_mib: int | None  # None: the driver does not say, as with MIG
    driver: str


@dataclass(frozen=True, kw_only=True)
class GpuProcess:
    """One process that computes on a card; the pid is that of the host's namespace."""

    pid: int
    memory_mib: float | None  # None: the driver does not say
    busy: float | None  # 0-1, share of its time that the card computed for it; None: not said


@dataclass(frozen=True, kw_only=True)
class GpuReading:
    """The sensors of one card at one moment."""

    uuid: str
    power_w: float | None = None
    energy_j: float | None = None  # since the driver was loaded
    temperature_c: float | None = None
    memory_mib: float | None = None  # in use
    memory_total_mib: float | None = None
    utilization: float | None = None  # 0-1
    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    reasons: tuple[str, ...] | None = None  # why the clocks are below their maximum
    processes: tuple[GpuProcess, ...] | None = None  # None: the driver does not list them
    fault: GpuFault | None = None

    @property
    def silent(self) -> tuple[str, ...]:
        """The names of the sensors that the card does not have."""
        sensors = {
            "power": self.power_w,
            "energy": self.energy_j,
            "temperature": self.temperature_c,
            "memory": self.memory_mib,
            "utilization": self.utilization,
            "clocks": self.sm_clock_mhz,
            "clock event reasons": self.reasons,
            "processes": self.processes,
        }
        return tuple(name for name, value in sensors.items() if value is None)


def reason_names(bits: int) -> tuple[str, ...]:
    """Names of the clock event reasons in a bit mask."""
    return tuple(name for bit, name in EVENT_REASONS if bits & bit)


def fault_of(readings: Sequence[Sequence[GpuReading]]) -> GpuFault | None:
    """The fault that readings of the same cards show, oldest first; None when they are sound.

    A lost card counts at once. Missing throttle reasons count only when no reading had them:
    a single call may time out.
    """
    for cards in reversed(readings):
        for card in cards:
            if card.fault is not None and card.fault.code is not FaultCode.SENSORS_BLIND:
                return card.fault
    seeing = {c.uuid for cards in readings for c in cards if c.fault is None}
    blind = [c for cards in readings for c in cards if c.uuid not in seeing]
    return blind[-1].fault if blind else None


def silence(cards: Sequence[GpuReading]) -> str | None:
    """One line about the sensors that some card does not have; None when all answer."""
    lines = [f"{card.uuid}: {', '.join(card.silent)}" for card in cards if card.silent]
    return f"Not reported by the driver: {'; '.join(lines)}." if lines else None
