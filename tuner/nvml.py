"""GPU sensors through NVML; what a card does not support is None, never 0."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

INVENTORY_S = 10.0  # longest wait for the list of GPUs: a wedged driver answers nobody
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


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One card, for the platform fingerprint."""

    name: str
    uuid: str
    memory_mib: int
    driver: str


@dataclass(frozen=True, kw_only=True)
class GpuReading:
    """The sensors of one card at one moment."""

    uuid: str
    power_w: float | None
    energy_j: float | None  # since the driver was loaded
    temperature_c: float | None
    memory_mib: float | None  # in use
    utilization: float | None  # 0-1
    reasons: tuple[str, ...] | None  # why the clocks are below their maximum


def reason_names(bits: int) -> tuple[str, ...]:
    """Names of the clock event reasons in a bit mask."""
    return tuple(name for bit, name in EVENT_REASONS if bits & bit)


class NvmlMissingError(Exception):
    """There is no NVML to ask; the message is a sentence for people."""


class Nvml:
    """An open NVML library; every call may block as long as the driver likes."""

    def __init__(self, library: Any = None) -> None:
        if library is None:
            try:
                import pynvml  # noqa: PLC0415 - absent or broken it is a missing sensor
            except ImportError as error:
                raise NvmlMissingError("The Python module pynvml is not installed.") from error
            library = pynvml
        self._library = library
        try:
            library.nvmlInit()
            self._handles = self._open_handles()
        except library.NVMLError as error:
            raise NvmlMissingError(f"There is no NVIDIA driver to ask ({error}).") from error

    def _open_handles(self) -> list[tuple[str, Any]]:
        library = self._library
        handles = []
        for index in range(library.nvmlDeviceGetCount()):
            handle = library.nvmlDeviceGetHandleByIndex(index)
            handles.append((_text(library.nvmlDeviceGetUUID(handle)), handle))
        if not handles:
            library.nvmlShutdown()
            raise NvmlMissingError("The NVIDIA driver shows no GPU.")
        return handles

    def gpus(self) -> list[Gpu]:
        """The cards in the driver's order."""
        library = self._library
        driver = _text(library.nvmlSystemGetDriverVersion())
        return [
            Gpu(
                name=_text(library.nvmlDeviceGetName(handle)),
                uuid=uuid,
                memory_mib=library.nvmlDeviceGetMemoryInfo(handle).total // MIB,
                driver=driver,
            )
            for uuid, handle in self._handles
        ]

    def read(self) -> list[GpuReading]:
        """The sensors of every card."""
        return [self._reading(uuid, handle) for uuid, handle in self._handles]

    def close(self) -> None:
        """Let go of the library."""
        self._sensor(self._library.nvmlShutdown)

    def _reading(self, uuid: str, handle: Any) -> GpuReading:
        library = self._library
        power_mw = self._sensor(library.nvmlDeviceGetPowerUsage, handle)
        energy_mj = self._sensor(library.nvmlDeviceGetTotalEnergyConsumption, handle)
        heat_c = self._sensor(
            library.nvmlDeviceGetTemperature, handle, library.NVML_TEMPERATURE_GPU
        )
        memory = self._sensor(library.nvmlDeviceGetMemoryInfo, handle)
        rates = self._sensor(library.nvmlDeviceGetUtilizationRates, handle)
        bits = self._sensor(self._event_reasons, handle)
        return GpuReading(
            uuid=uuid,
            power_w=None if power_mw is None else power_mw / 1000,
            energy_j=None if energy_mj is None else energy_mj / 1000,
            temperature_c=None if heat_c is None else float(heat_c),
            memory_mib=None if memory is None else memory.used / MIB,
            utilization=None if rates is None else rates.gpu / 100,
            reasons=None if bits is None else reason_names(bits),
        )

    def _event_reasons(self, handle: Any) -> int:
        library = self._library
        try:
            return int(library.nvmlDeviceGetCurrentClocksEventReasons(handle))
        except library.NVMLError_FunctionNotFound:  # drivers before 535 know the older name
            return int(library.nvmlDeviceGetCurrentClocksThrottleReasons(handle))

    def _sensor(self, call: Callable[..., Any], *args: Any) -> Any:
        """What a sensor says; None when the card or the driver does not have it."""
        try:
            return call(*args)
        except self._library.NVMLError:
            return None


def within(seconds: float, call: Callable[[], T]) -> T | None:
    """The answer of a call that may hang; None when it takes longer.

    A hanging call keeps its thread, a daemon one: nothing can end it but the driver.
    """
    box: list[T] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            box.append(call())
        except Exception as error:  # noqa: BLE001 - handed to the caller below
            failed.append(error)

    thread = threading.Thread(target=run, name="nvml-inventory", daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    return box[0] if box else None


def gpus() -> list[Gpu]:
    """The cards of this machine; empty without a driver or when it does not answer."""

    def ask() -> list[Gpu]:
        nvml = Nvml()
        try:
            return nvml.gpus()
        finally:
            nvml.close()

    try:
        return within(INVENTORY_S, ask) or []
    except NvmlMissingError:
        return []


def _text(value: str | bytes) -> str:
    """Older bindings answer in bytes."""
    return value.decode() if isinstance(value, bytes) else value
