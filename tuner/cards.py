"""The cards of this machine as they were first seen: one that vanishes is lost, not forgotten."""

from collections.abc import Callable
from typing import Protocol

from tuner.gpu_reading import NO_START, FaultCode, GpuFault, GpuReading
from tuner.nvml import NvmlMissingError

REOPEN_S = 30.0  # a driver that failed is opened anew so often: a reset card comes back by itself


class GpuSensors(Protocol):
    """What `Nvml` does, for tests with other cards."""

    def read(self) -> list[GpuReading]:
        """The sensors of every card."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


class Cards:
    """Opens the driver, reads it, and opens it again after a fault; every call may block."""

    def __init__(
        self,
        open_gpus: Callable[[], GpuSensors],
        uuids: frozenset[str] | None,  # None: every card
        clock: Callable[[], float],
    ) -> None:
        self._open_gpus = open_gpus
        self._uuids = uuids
        self._clock = clock
        self._sensors: GpuSensors | None = None
        self._known: set[str] = set()
        self._open_at: float | None = clock()  # None: never again, there is no GPU
        self.reason: str | None = None  # why there is nothing to read
        self.fault: GpuFault | None = None  # of the driver as a whole

    def read(self) -> tuple[GpuReading, ...]:
        """The sensors of the cards; empty without a driver."""
        if self._sensors is None and self._open_at is not None and self._clock() >= self._open_at:
            self._open()
        if self._sensors is None:
            return ()
        cards = [
            card for card in self._sensors.read() if self._uuids is None or card.uuid in self._uuids
        ]
        self._known |= {c.uuid for c in cards if c.fault is None or c.fault.code not in NO_START}
        gone = sorted(self._known - {card.uuid for card in cards})
        cards += [GpuReading(uuid=u, fault=GpuFault.of(FaultCode.GPU_LOST, u)) for u in gone]
        blind = FaultCode.SENSORS_BLIND
        if any(card.fault is not None and card.fault.code is not blind for card in cards):
            self._reopen_later()
        else:
            self._open_at = None
        return tuple(cards)

    def close(self) -> None:
        """Let go of the driver."""
        if self._sensors is not None:
            self._sensors.close()
            self._sensors = None

    def _open(self) -> None:
        try:
            self._sensors = self._open_gpus()
        except NvmlMissingError as error:
            self.reason, self.fault = str(error), error.fault
            if self.fault is None and self._known:  # the driver was unloaded under us
                self.fault = GpuFault.of(FaultCode.DRIVER_BROKEN, self.reason.rstrip("."))
            self._open_at = None if self.fault is None else self._clock() + REOPEN_S
        else:
            self.reason = self.fault = self._open_at = None

    def _reopen_later(self) -> None:
        now = self._clock()
        if self._open_at is None:
            self._open_at = now + REOPEN_S
        elif now >= self._open_at:
            self.close()
