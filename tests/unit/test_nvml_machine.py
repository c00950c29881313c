"""NVML through the real pynvml on a stub of the driver's library: values, errors and inventory."""

import os
import subprocess
import sys
import time
from pathlib import Path

import nvml_machine
import pytest

from tuner.doctor_gpu import holders, nvml
from tuner.gpu_reading import FaultCode, GpuProcess
from tuner.nvml import Nvml, NvmlMissingError, gpus

driver, elsewhere, machine = nvml_machine.driver, nvml_machine.elsewhere, nvml_machine.machine


def test_the_real_loader_finds_the_stub(elsewhere):
    """A process that looks for libnvidia-ml.so.1 as pynvml does sees the scripted card."""
    ask = "from tuner.nvml import gpus; print(*(gpu.uuid for gpu in gpus()))"
    environ = {**os.environ, **elsewhere.environ()}
    told = subprocess.run(
        [sys.executable, "-c", ask], env=environ, capture_output=True, text=True, check=True
    )

    assert "GPU-0" == told.stdout.strip()


def test_the_stub_is_gone_after_its_tests(machine):
    """It carried the library's own name: later tests of this process were given it as a driver."""
    assert 1 == len(Nvml().gpus())
    maps = Path("/proc/self/maps").read_text()

    assert str(machine.folder) in maps
    assert str(machine.folder / "libnvidia-ml.so.1") not in maps


def test_every_sensor_is_read(machine):
    """Power, energy, heat, memory, load, clocks, reasons and processes, in our units."""
    machine.say("0.process 123 2048", "0.process 124 na", "0.busy 123 70")
    (found,) = Nvml().read()

    assert ("GPU-0", 250.5, 61.0, 5.0) == (
        found.uuid,
        found.power_w,
        found.temperature_c,
        found.memory_mib,
    )
    assert (0.5, 1980.0, 2619.0) == (found.utilization, found.sm_clock_mhz, found.memory_clock_mhz)
    assert ("sw_power_cap",) == found.reasons
    assert (None, ()) == (found.fault, found.silent)
    assert (
        GpuProcess(pid=123, memory_mib=2048.0, busy=0.7),
        GpuProcess(pid=124, memory_mib=None, busy=0.0),
    ) == found.processes


def test_a_process_that_works_no_more_is_idle(machine):
    """The driver has samples of those only that computed; the others are at zero."""
    machine.say("0.process 1 10", "0.process 2 10", "0.busy 1 70", "0.busy 2 20")
    library = Nvml()
    library.read()
    machine.say("0.process 1 10", "0.process 2 10", "0.busy 2 90")
    time.sleep(0.005)  # samples carry the driver's milliseconds
    (found,) = library.read()

    assert [(1, 0.0), (2, 0.9)] == [(one.pid, one.busy) for one in found.processes]


@pytest.mark.parametrize("number", [3, 4, 10, 999])
def test_one_sensor_that_is_not_there_is_none(machine, number):
    """N/A, forbidden, late or unknown: one figure is missing, the others are read."""
    machine.say(f"error nvmlDeviceGetTotalEnergyConsumption {number}")
    (found,) = Nvml().read()

    assert (None, 250.5, None) == (found.energy_j, found.power_w, found.fault)
    assert ("energy",) == found.silent


def test_an_old_driver_knows_the_older_name_of_the_reasons(machine):
    """Function not found is answered by the name before driver 535."""
    machine.set(gpu0_reasons="0x40").say("error nvmlDeviceGetCurrentClocksEventReasons 13")

    assert ("hw_thermal_slowdown",) == Nvml().read()[0].reasons


def test_a_lost_card_does_not_hide_the_others(machine):
    """A card that cannot even be opened has no UUID; the second one is read as ever."""
    machine.cards(2).say("0.error nvmlDeviceGetHandleByIndex_v2 15")
    lost, sound = Nvml().read()

    assert FaultCode.GPU_LOST is lost.fault.code
    assert ("GPU-1", 250.5, None) == (sound.uuid, sound.power_w, sound.fault)
    assert ["GPU-1"] == [gpu.uuid for gpu in gpus()]


def test_a_card_that_is_lost_once_it_said_its_name(machine):
    """Lost between its UUID and the rest, it keeps its UUID."""
    machine.say("error nvmlDeviceGetMigMode 15")

    assert [("GPU-0", FaultCode.GPU_LOST)] == [(c.uuid, c.fault.code) for c in Nvml().read()]


def test_the_card_of_somebody_else_is_left_out(machine):
    """A card that we may not talk to is no fault while there is another."""
    machine.cards(2).say("0.error nvmlDeviceGetHandleByIndex_v2 4")
    assert ["GPU-1"] == [card.uuid for card in Nvml().read()]
    machine.say("error nvmlDeviceGetHandleByIndex_v2 4")
    with pytest.raises(NvmlMissingError) as caught:
        Nvml()

    assert FaultCode.DRIVER_BROKEN is caught.value.fault.code


def test_a_card_without_a_name_is_no_part_of_the_platform(machine):
    """A card that is lost while it is described is left out, and letting go may fail too."""
    machine.say("0.error nvmlDeviceGetName 15", "error nvmlShutdown 1")

    assert [] == gpus()


def test_a_card_that_wants_a_reset_says_so(machine):
    """Another code than lost, another thing to do."""
    machine.say("0.error nvmlDeviceGetPowerUsage 16")

    assert FaultCode.GPU_NEEDS_RESET is Nvml().read()[0].fault.code


def test_driver_and_library_of_different_versions(machine):
    """The usual state after an update: one clear line, here and from the doctor, no cards."""
    machine.say("error nvmlInitWithFlags 18")
    with pytest.raises(NvmlMissingError, match="different versions") as caught:
        Nvml()
    found = nvml()

    assert FaultCode.DRIVER_MISMATCH is caught.value.fault.code
    assert ("fail", caught.value.fault.sentence) == (found.state, found.sentence)
    assert [] == gpus()


@pytest.mark.parametrize("number", [4, 17, 999])
def test_a_driver_that_cannot_be_used_pauses_tuning(machine, number):
    """Forbidden, blocked or unknown: there is a GPU, so this is no machine without one."""
    machine.say(f"error nvmlInitWithFlags {number}")
    with pytest.raises(NvmlMissingError) as caught:
        Nvml()

    assert FaultCode.DRIVER_BROKEN is caught.value.fault.code
    assert "nvidia-smi" in caught.value.fault.sentence


def test_bindings_that_are_not_installed(monkeypatch):
    """Without the module there is nothing to ask, and no fault."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NvmlMissingError, match="pynvml is not installed") as caught:
        Nvml()

    assert caught.value.fault is None


def test_a_driver_without_cards(machine):
    """A driver that shows no GPU is no fault."""
    machine.set(count=0)
    with pytest.raises(NvmlMissingError, match="no GPU") as caught:
        Nvml()

    assert caught.value.fault is None


def test_a_card_that_is_split_pauses_tuning(machine):
    """With MIG a card's sensors say nothing about one instance; the sentence says what to do."""
    machine.set(gpu0_mig=1, gpu0_util=None, gpu0_total=None)
    (found,) = Nvml().read()
    (described,) = gpus()
    told = nvml()

    assert FaultCode.MIG is found.fault.code
    assert "nvidia-smi -mig 0" in found.fault.sentence
    assert (None, None) == (described.memory_mib, found.memory_mib)
    assert ("warn", found.fault.sentence) == (told.state, told.sentence)


def test_an_inventory_that_hangs_is_given_up(machine, monkeypatch):
    """The daemon's fingerprint of the machine does not wait for a wedged driver."""
    monkeypatch.setattr("tuner.nvml.INVENTORY_S", 0.1)
    machine.say("hang nvmlDeviceGetName 60")
    began = time.monotonic()

    assert [] == gpus()
    assert time.monotonic() - began < 2


def test_the_doctor_names_who_holds_memory(machine):
    """A foreign process is a warning, with its memory or n/a."""
    machine.say("0.process 999999 2048", "0.process 999998 na")
    found = holders(None)

    assert "warn" == found.state
    assert "pid 999999 (of another user or container, 2048 MiB)" in found.sentence
    assert "n/a MiB" in found.sentence


def test_the_doctor_of_a_driver_that_lists_no_processes(machine):
    """Not supported is said, and is no failure."""
    machine.say("error nvmlDeviceGetComputeRunningProcesses_v3 3")

    assert ("ok", "n/a: The driver lists no processes.") == (
        holders(None).state,
        holders(None).sentence,
    )
