"""The doctor's checks of the GPU."""

import os
import types

import pytest

from tuner import doctor_gpu
from tuner.gpu_reading import FaultCode, Gpu, GpuFault, GpuProcess, GpuReading
from tuner.nvml import NvmlMissingError


def card(*processes, **changes):
    """A card that answers everything."""
    sensors = {
        "power_w": 1.0, "energy_j": 1.0, "temperature_c": 1.0, "memory_mib": 1.0,
        "utilization": 0.0, "sm_clock_mhz": 1.0, "reasons": (), "processes": processes,
    }  # fmt: skip
    return GpuReading(uuid="GPU-1", **(sensors | changes))


def held(pid, memory_mib):
    return GpuProcess(pid=pid, memory_mib=memory_mib, busy=None)


@pytest.fixture
def driver(monkeypatch):
    """An NVML whose cards a test sets."""
    found = types.SimpleNamespace(
        gpus=lambda: [Gpu(name="Test GPU", uuid="GPU-1", memory_mib=32768, driver="600.1")],
        read=lambda: found.cards,
        close=lambda: None,
        cards=[card()],
    )
    monkeypatch.setattr(doctor_gpu, "Nvml", lambda: found)
    return found


def test_gpu_memory_of_others(driver):
    """Memory of the engine and its children is ours; that of others is a warning with the pid."""
    mine, other = os.getpid(), os.getppid()
    driver.cards = [card(held(mine, 5.0), held(other, None)), card(held(mine, 2.0))]
    found = doctor_gpu.holders(mine)

    assert "warn" == found.state
    assert f"pid {other} (" in found.sentence
    assert "n/a MiB" in found.sentence
    assert f"pid {mine} (" not in found.sentence
    assert "ok" == doctor_gpu.holders(other).state


def test_gpu_memory_of_one_process_on_two_cards_adds_up(driver):
    """A process is named once, with all that it holds."""
    driver.cards = [card(held(1, 5.0)), card(held(1, 2.0))]

    assert "7 MiB" in doctor_gpu.holders(None).sentence


def test_gpu_is_named(driver):
    """A card that answers is named with its driver, and what it does not report."""
    assert "It sees Test GPU (32768 MiB, driver 600.1)." == doctor_gpu.nvml().sentence
    driver.cards = [card(energy_j=None)]
    assert doctor_gpu.nvml().sentence.endswith("Not reported by the driver: GPU-1: energy.")


def test_no_gpu(monkeypatch):
    """A machine without a GPU is no failure."""

    def missing():
        raise NvmlMissingError("There is no NVIDIA driver to ask.")

    monkeypatch.setattr(doctor_gpu, "Nvml", missing)

    assert ["ok", "ok"] == [doctor_gpu.nvml().state, doctor_gpu.holders(None).state]
    assert "n/a" in doctor_gpu.nvml().sentence


def test_driver_and_library_of_different_versions(monkeypatch):
    """The usual state after a driver update has its own sentence."""
    fault = GpuFault.of(FaultCode.DRIVER_MISMATCH)

    def broken():
        raise NvmlMissingError(fault.sentence, fault)

    monkeypatch.setattr(doctor_gpu, "Nvml", broken)
    found = doctor_gpu.nvml()

    assert "fail" == found.state
    assert "Reboot" in found.sentence
    assert "served" in found.hint


def test_a_card_that_cannot_be_measured(driver):
    """A lost or split card is a warning: requests are served, tuning waits."""
    driver.cards = [card(fault=GpuFault.of(FaultCode.MIG, "GPU-1"))]

    assert "warn" == doctor_gpu.nvml().state
    assert "MIG" in doctor_gpu.nvml().sentence


def test_hanging_driver(monkeypatch):
    """A driver that does not answer is a finding, not a hang."""
    monkeypatch.setattr(doctor_gpu, "within", lambda seconds, call: None)

    assert ["fail", "warn"] == [doctor_gpu.nvml().state, doctor_gpu.holders(None).state]
