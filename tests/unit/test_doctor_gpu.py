"""The doctor's checks of the GPU."""

import os
import sys
import types

from tuner import doctor_gpu
from tuner.nvml import NvmlMissingError


class FakeProcess:
    """An entry of NVML's list of processes."""

    def __init__(self, pid, used):
        self.pid = pid
        self.usedGpuMemory = used


def fake_nvml(processes):
    """A pynvml with one card."""

    class NVMLError(Exception):
        pass

    return types.SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUUID=lambda handle: "GPU-1",
        nvmlDeviceGetName=lambda handle: "Test GPU",
        nvmlSystemGetDriverVersion=lambda: "600.1",
        nvmlDeviceGetMemoryInfo=lambda handle: types.SimpleNamespace(total=32 << 30, used=0),
        nvmlDeviceGetComputeRunningProcesses=lambda handle: processes,
    )


def test_gpu_memory_of_others(monkeypatch):
    """Memory of the engine and its children is ours; that of others is a warning with the pid."""
    mine, other = os.getpid(), os.getppid()
    library = fake_nvml([FakeProcess(mine, 5 << 20), FakeProcess(other, None)])
    monkeypatch.setitem(sys.modules, "pynvml", library)
    found = doctor_gpu.holders(mine)

    assert "warn" == found.state
    assert f"pid {other} (" in found.sentence
    assert "n/a MiB" in found.sentence
    assert f"pid {mine} (" not in found.sentence
    assert "ok" == doctor_gpu.holders(other).state


def test_gpu_is_named(monkeypatch):
    """A card that answers is named with its driver."""
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([]))

    assert "It sees Test GPU (32768 MiB, driver 600.1)." == doctor_gpu.nvml().sentence


def test_no_gpu(monkeypatch):
    """A machine without a GPU is no failure."""

    def missing():
        raise NvmlMissingError("There is no NVIDIA driver to ask.")

    monkeypatch.setattr(doctor_gpu, "Nvml", missing)

    assert ["ok", "ok"] == [doctor_gpu.nvml().state, doctor_gpu.holders(None).state]
    assert "n/a" in doctor_gpu.nvml().sentence


def test_driver_and_library_of_different_versions(monkeypatch):
    """The usual state after a driver update has its own sentence."""
    library = fake_nvml([])

    def init():
        raise library.NVMLError("Driver/library version mismatch")

    library.nvmlInit = init
    monkeypatch.setitem(sys.modules, "pynvml", library)
    found = doctor_gpu.nvml()

    assert "fail" == found.state
    assert "Reboot" in found.hint


def test_hanging_driver(monkeypatch):
    """A driver that does not answer is a finding, not a hang."""
    monkeypatch.setattr(doctor_gpu, "within", lambda seconds, call: None)

    assert ["fail", "warn"] == [doctor_gpu.nvml().state, doctor_gpu.holders(None).state]
