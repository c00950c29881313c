"""GPU sensors through NVML; what a card does not support is None, never 0."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tuner.gpu_reading import (
    MIB,
    FaultCode,
    Gpu,
    GpuFault,
    GpuProcess,
    GpuReading,
    reason_names,
)

T = TypeVar("T")

INVENTORY_S = 10.0  # longest wait for the list of GPUs: a wedged driver answers nobody

# NVML's return codes (nvml.h) after which a card or the whole library is of no use
UNINITIALIZED, GPU_IS_LOST, RESET_REQUIRED, MISMATCH = 1, 15, 16, 18
NO_PERMISSION = 4
CARD_FAULTS: Mapping[int, FaultCode] = {
    UNINITIALIZED: FaultCode.DRIVER_BROKEN,
    GPU_IS_LOST: FaultCode.GPU_LOST,
    RESET_REQUIRED: FaultCode.GPU_NEEDS_RESET,
    MISMATCH: FaultCode.DRIVER_MISMATCH,
}
ABSENT = frozenset({9, 12})  # driver not loaded, library not found: a machine without a GPU


class NvmlMissingError(Exception):
    """There is no NVML to ask; the message is a sentence for people."""

    def __init__(self, sentence: str, fault: GpuFault | None = None) -> None:
        super().__init__(sentence)
        self.fault = fault  # None: the machine simply has no NVIDIA GPU


@dataclass(kw_only=True)
class _Card:
    """One card and what is remembered of it between two readings."""

    uuid: str
    handle: Any = None  # None: it cannot be opened
    fault: GpuFault | None = None  # that does not go away while the library is open
    sampled_at: int = 0  # the driver's time of the last process utilisation, microseconds
    shares: dict[int, float] = field(default_factory=dict)  # busy share by pid, last seen


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
        except library.NVMLError as error:
            raise _missing(error) from error
        try:
            self._cards = self._open_all(library.nvmlDeviceGetCount())
        except library.NVMLError as error:
            self.close()
            raise _missing(error) from error

    def _open_all(self, count: int) -> list[_Card]:
        """The cards that we may talk to; those of others in a shared machine are left out."""
        forbidden: Any = None
        cards = []
        for index in range(count):
            try:
                cards.append(self._open(index))
            except self._library.NVMLError as error:
                if error.value != NO_PERMISSION:
                    raise
                forbidden = error
        if forbidden is not None and not cards:
            raise forbidden
        if not cards:
            self.close()
            raise NvmlMissingError("The NVIDIA driver shows no GPU.")
        return cards

    def _open(self, index: int) -> _Card:
        """A card by its number, from then on by its UUID; a lost one does not hide the others."""
        library = self._library
        uuid = f"GPU number {index}"  # until it says its UUID
        try:
            handle = library.nvmlDeviceGetHandleByIndex(index)
            uuid = _text(library.nvmlDeviceGetUUID(handle))
            modes = self._sensor(library.nvmlDeviceGetMigMode, handle)
        except library.NVMLError as error:
            if error.value not in {GPU_IS_LOST, RESET_REQUIRED}:
                raise
            return _Card(uuid=uuid, fault=_card_fault(error, uuid))
        split = modes is not None and modes[0] == library.NVML_DEVICE_MIG_ENABLE
        return _Card(
            uuid=uuid, handle=handle, fault=GpuFault.of(FaultCode.MIG, uuid) if split else None
        )

    def gpus(self) -> list[Gpu]:
        """The cards in the driver's order; those that cannot be reached are left out."""
        found = []
        for card in self._cards:
            try:
                found.append(self._gpu(card))
            except self._library.NVMLError:
                continue
        return [gpu for gpu in found if gpu is not None]

    def _gpu(self, card: _Card) -> Gpu | None:
        library = self._library
        if card.handle is None:
            return None
        memory = self._sensor(library.nvmlDeviceGetMemoryInfo, card.handle)
        return Gpu(
            name=_text(library.nvmlDeviceGetName(card.handle)),
            uuid=card.uuid,
            memory_mib=None if memory is None else memory.total // MIB,
            driver=_text(library.nvmlSystemGetDriverVersion()),
        )

    def read(self) -> list[GpuReading]:
        """The sensors of every card."""
        return [self._reading(card) for card in self._cards]

    def close(self) -> None:
        """Let go of the library."""
        try:
            self._library.nvmlShutdown()
        except self._library.NVMLError:
            return  # it had let go of itself

    def _reading(self, card: _Card) -> GpuReading:
        if card.handle is None:
            return GpuReading(uuid=card.uuid, fault=card.fault)
        library, handle = self._library, card.handle
        try:
            power_mw = self._sensor(library.nvmlDeviceGetPowerUsage, handle)
            energy_mj = self._sensor(library.nvmlDeviceGetTotalEnergyConsumption, handle)
            heat_c = self._sensor(
                library.nvmlDeviceGetTemperature, handle, library.NVML_TEMPERATURE_GPU
            )
            memory = self._sensor(library.nvmlDeviceGetMemoryInfo, handle)
            rates = self._sensor(library.nvmlDeviceGetUtilizationRates, handle)
            bits = self._sensor(self._event_reasons, handle)
            sm_mhz = self._sensor(library.nvmlDeviceGetClockInfo, handle, library.NVML_CLOCK_SM)
            memory_mhz = self._sensor(
                library.nvmlDeviceGetClockInfo, handle, library.NVML_CLOCK_MEM
            )
            processes = self._processes(card)
        except library.NVMLError as error:  # those that `_sensor` lets through
            return GpuReading(uuid=card.uuid, fault=_card_fault(error, card.uuid))
        blind = GpuFault.of(FaultCode.SENSORS_BLIND, card.uuid) if bits is None else None
        return GpuReading(
            uuid=card.uuid,
            power_w=None if power_mw is None else power_mw / 1000,
            energy_j=None if energy_mj is None else energy_mj / 1000,
            temperature_c=None if heat_c is None else float(heat_c),
            memory_mib=None if memory is None else memory.used / MIB,
            memory_total_mib=None if memory is None else memory.total / MIB,
            utilization=None if rates is None else rates.gpu / 100,
            sm_clock_mhz=None if sm_mhz is None else float(sm_mhz),
            memory_clock_mhz=None if memory_mhz is None else float(memory_mhz),
            reasons=None if bits is None else reason_names(bits),
            processes=processes,
            fault=card.fault or blind,
        )

    def _processes(self, card: _Card) -> tuple[GpuProcess, ...] | None:
        """Who computes on the card; None when the driver does not list them."""
        library = self._library
        listed = self._sensor(library.nvmlDeviceGetComputeRunningProcesses, card.handle)
        if listed is None:
            return None
        pids = {process.pid for process in listed}
        # without new samples (NOT_FOUND) the last ones hold; the driver keeps about a second
        samples = self._sensor(
            library.nvmlDeviceGetProcessUtilization, card.handle, card.sampled_at
        )
        if samples:
            samples.sort(key=lambda sample: sample.timeStamp)
            card.sampled_at = samples[-1].timeStamp
            card.shares = dict.fromkeys(pids, 0.0)  # who computed nothing has no sample
            card.shares |= {sample.pid: sample.smUtil / 100 for sample in samples}
        return tuple(
            GpuProcess(
                pid=process.pid,
                memory_mib=(None if process.usedGpuMemory is None else process.usedGpuMemory / MIB),
                busy=card.shares.get(process.pid),
            )
            for process in sorted(listed, key=lambda one: one.pid)
        )

    def _event_reasons(self, handle: Any) -> int:
        library = self._library
        try:
            return int(library.nvmlDeviceGetCurrentClocksEventReasons(handle))
        except library.NVMLError_FunctionNotFound:  # drivers before 535 know the older name
            return int(library.nvmlDeviceGetCurrentClocksThrottleReasons(handle))

    def _sensor(self, call: Callable[..., Any], *args: Any) -> Any:
        """What a sensor says; None when the card or the driver does not have it.

        An error that is the end of the card, and not of one sensor, passes through.
        """
        try:
            return call(*args)
        except self._library.NVMLError as error:
            if error.value in CARD_FAULTS:
                raise
            return None


def _card_fault(error: Any, name: str) -> GpuFault:
    code = CARD_FAULTS[error.value]
    return GpuFault.of(code, error if code is FaultCode.DRIVER_BROKEN else name)


def _missing(error: Any) -> NvmlMissingError:
    """Why the library cannot be opened: there is none, or it is out of order."""
    if error.value in ABSENT:
        return NvmlMissingError(f"There is no NVIDIA driver to ask ({error}).")
    code = FaultCode.DRIVER_BROKEN
    if error.value == MISMATCH:
        code = FaultCode.DRIVER_MISMATCH
    fault = GpuFault.of(code, error)
    return NvmlMissingError(fault.sentence, fault)


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
