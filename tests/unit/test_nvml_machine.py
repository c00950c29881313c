"""NVML through the real pynvml on a stub of the driver's library: every value and every fault."""

import os
import subprocess
import sys
import threading
import time

import nvml_machine
import pytest

from tuner import cards as cards_module
from tuner import telemetry as telemetry_module
from tuner.doctor_gpu import holders, nvml
from tuner.environment import environment
from tuner.gpu_reading import FaultCode, GpuProcess
from tuner.nvml import Nvml, NvmlMissingError, gpus
from tuner.telemetry import Telemetry

driver, elsewhere, machine = nvml_machine.driver, nvml_machine.elsewhere, nvml_machine.machine
LONG_S = 20.0  # nothing here takes that long
PERIOD_S = 0.01


def until(condition):
    """Wait for a condition that another thread makes true."""
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def code(found):
    return None if found is None else found.code


@pytest.fixture
def sampled(machine):
    """A telemetry that samples the machine all the time."""
    with Telemetry(period_s=PERIOD_S) as telemetry:
        until(lambda: telemetry.snapshot().gpus)
        yield telemetry


def test_the_real_loader_finds_the_stub(elsewhere):
    """A process that looks for libnvidia-ml.so.1 as pynvml does sees the scripted card."""
    ask = "from tuner.nvml import gpus; print(*(gpu.uuid for gpu in gpus()))"
    environ = {**os.environ, **elsewhere.environ()}
    told = subprocess.run(
        [sys.executable, "-c", ask], env=environ, capture_output=True, text=True, check=True
    )

    assert "GPU-0" == told.stdout.strip()


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


def test_cards_are_told_by_uuid_whatever_their_number(machine):
    """The order of cards may change with the next boot; their UUIDs do not."""
    machine.cards(2).set(gpu0_uuid="GPU-b", gpu1_uuid="GPU-a", gpu0_temp=50, gpu1_temp=70)
    with Telemetry(period_s=PERIOD_S, uuids=frozenset({"GPU-a"})) as telemetry:
        until(lambda: telemetry.snapshot().gpus)
        shown = telemetry.snapshot()

    assert (["GPU-a"], 70.0) == (list(shown.gpus), shown.temperature_c)


@pytest.mark.parametrize("number", [3, 4, 10, 999])
def test_one_sensor_that_is_not_there_is_none(machine, number):
    """N/A, forbidden, late or unknown: one figure is missing, the others are read."""
    machine.say(f"error nvmlDeviceGetTotalEnergyConsumption {number}")
    (found,) = Nvml().read()

    assert (None, 250.5, None) == (found.energy_j, found.power_w, found.fault)
    assert ("energy",) == found.silent


def test_missing_sensors_are_named_in_one_line(machine):
    """Tuning goes on without power, and says so."""
    machine.set(gpu0_power=None, gpu0_energy=None)
    with Telemetry(period_s=PERIOD_S) as telemetry:
        until(lambda: telemetry.snapshot().gpus)
        shown = telemetry.snapshot()

    assert "Not reported by the driver: GPU-0: power, energy." == shown.reason
    assert (None, None) == (shown.power_w, shown.fault)


def test_a_card_that_hides_its_throttling_pauses_tuning(sampled, machine):
    """Without clock event reasons nothing can be called valid; the other figures are shown."""
    machine.set(gpu0_reasons=None)
    until(lambda: code(sampled.fault()) is FaultCode.SENSORS_BLIND)
    shown = sampled.snapshot()

    assert 250.5 == shown.power_w
    assert "GPU-0 does not say whether it is throttled" in shown.fault.sentence


def test_an_old_driver_knows_the_older_name_of_the_reasons(machine):
    """Function not found is answered by the name before driver 535."""
    machine.set(gpu0_reasons="0x40").say("error nvmlDeviceGetCurrentClocksEventReasons 13")

    assert ("hw_thermal_slowdown",) == Nvml().read()[0].reasons


def test_a_lost_card_is_said_and_not_mistaken_for_missing_sensors(sampled, machine):
    """A card off the bus pauses tuning at once, and its return ends the pause."""
    machine.say("0.error * 15")
    until(lambda: code(sampled.fault()) is FaultCode.GPU_LOST)
    shown = sampled.snapshot()
    machine.say()
    until(lambda: sampled.fault() is None)

    assert (None, shown.fault.sentence) == (shown.power_w, shown.reason)
    assert "GPU-0 is lost" in shown.reason
    assert 250.5 == sampled.snapshot().power_w


def test_a_card_that_vanished_is_lost(sampled, machine, monkeypatch):
    """After the driver is opened again it counts one card less: that one is missed by its UUID."""
    monkeypatch.setattr(cards_module, "REOPEN_S", 0.05)
    machine.say("0.error * 15")
    until(lambda: "GPU number 0" in sampled.snapshot().gpus)  # opened again, still lost
    machine.set(gpu0_uuid="GPU-other").say()
    until(lambda: "GPU-other" in sampled.snapshot().gpus)

    assert "GPU-0 is lost" in sampled.fault().sentence


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


def test_a_mismatch_pauses_tuning_until_the_driver_is_whole(machine, monkeypatch):
    """The driver is opened again now and then."""
    monkeypatch.setattr(cards_module, "REOPEN_S", 0.05)
    machine.say("error nvmlInitWithFlags 18")
    with Telemetry(period_s=PERIOD_S) as telemetry:
        until(lambda: code(telemetry.fault()) is FaultCode.DRIVER_MISMATCH)
        shown = telemetry.snapshot()
        machine.say()
        until(lambda: telemetry.snapshot().power_w == 250.5)

        assert telemetry.fault() is None
    assert shown.fault.sentence == shown.reason


@pytest.mark.parametrize("number", [4, 17, 999])
def test_a_driver_that_cannot_be_used_pauses_tuning(machine, number):
    """Forbidden, blocked or unknown: there is a GPU, so this is no machine without one."""
    machine.say(f"error nvmlInitWithFlags {number}")
    with pytest.raises(NvmlMissingError) as caught:
        Nvml()

    assert FaultCode.DRIVER_BROKEN is caught.value.fault.code
    assert "nvidia-smi" in caught.value.fault.sentence


@pytest.mark.parametrize("number", [9, 12])
def test_a_machine_without_a_driver_has_no_fault(machine, number):
    """Not loaded or not there: tuning goes on, as on a machine with CPUs only."""
    machine.say(f"error nvmlInitWithFlags {number}")
    with Telemetry(period_s=PERIOD_S) as telemetry:
        until(lambda: telemetry.snapshot().host_cpu is not None)
        shown = telemetry.snapshot()

    assert (None, True) == (shown.fault, "no NVIDIA driver" in shown.reason)


def test_a_driver_that_is_unloaded_meanwhile_is_a_fault(sampled, machine, monkeypatch):
    """There were cards: a driver that is gone now is no machine without a GPU."""
    monkeypatch.setattr(cards_module, "REOPEN_S", 0.05)
    machine.say("0.error * 15", "error nvmlInitWithFlags 9")

    until(lambda: code(sampled.fault()) is FaultCode.DRIVER_BROKEN)


def test_a_library_that_lost_its_state_is_opened_again(sampled, machine, monkeypatch):
    """Uninitialized is the end of the library, not of one sensor."""
    monkeypatch.setattr(cards_module, "REOPEN_S", 0.05)
    machine.say("error nvmlDeviceGetPowerUsage 1")
    until(lambda: code(sampled.fault()) is FaultCode.DRIVER_BROKEN)
    machine.say()

    until(lambda: sampled.fault() is None)


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


def test_a_call_that_hangs_for_a_minute_blocks_nobody(sampled, machine, monkeypatch):
    """Snapshots and windows answer at once, say since when, and know nothing; then it goes on."""
    monkeypatch.setattr(telemetry_module, "STALE_S", 0.3)
    window = sampled.window()
    machine.say("hang nvmlDeviceGetTemperature 60")
    until(lambda: code(sampled.fault()) is FaultCode.DRIVER_HANGS)
    began = time.monotonic()
    shown, figures = sampled.snapshot(), window.finish()
    took_s = time.monotonic() - began
    machine.say()
    until(lambda: sampled.fault() is None)

    assert took_s < 0.2
    assert "has not answered for" in shown.reason
    assert (None, {}) == (shown.power_w, shown.gpus)
    assert "has not answered for" in figures.gpu_fault


def test_a_driver_that_hangs_from_the_start_pauses_tuning(machine, monkeypatch):
    """Even the opening may hang: the daemon starts, and closing does not wait for it."""
    monkeypatch.setattr(telemetry_module, "STALE_S", 0.1)
    machine.say("hang nvmlInitWithFlags 60")
    with Telemetry(period_s=PERIOD_S) as telemetry:
        until(lambda: code(telemetry.fault()) is FaultCode.DRIVER_HANGS)
        shown = telemetry.snapshot()
        began = time.monotonic()

    assert time.monotonic() - began < 5
    assert shown.reason == shown.fault.sentence


def test_an_inventory_that_hangs_is_given_up(machine, monkeypatch):
    """The daemon's fingerprint of the machine does not wait for a wedged driver."""
    monkeypatch.setattr("tuner.nvml.INVENTORY_S", 0.1)
    machine.say("hang nvmlDeviceGetName 60")
    began = time.monotonic()

    assert [] == gpus()
    assert time.monotonic() - began < 2


def window_of(telemetry, seconds):
    """The figures of a window, energy judged from half a second on."""
    window = telemetry.window()
    time.sleep(seconds)
    readings = window.readings
    window.finish()
    return environment(readings, seconds=seconds, energy_window_s=0.5)


def test_power_comes_from_the_energy_counter(sampled):
    """The counter rises by 200 W while the power reading says 250 W: the counter is right."""
    figures = window_of(sampled, 1.5)

    assert 200.0 == pytest.approx(figures.power_w, rel=0.15)  # its steps are 100 ms wide
    assert figures.energy_j == pytest.approx(figures.power_w * 1.5)
    assert (1980.0, 2619.0) == (figures.sm_clock_mhz, figures.memory_clock_mhz)


def test_a_window_too_short_for_the_counter_has_no_energy(sampled):
    """Its power is the mean of the readings, a hint and no evidence."""
    figures = window_of(sampled, 0.1)

    assert (250.5, None) == (figures.power_w, figures.energy_j)


@pytest.mark.parametrize("after", [{"gpu0_energy_w": None}, {"gpu0_energy_w": 1}])
def test_a_counter_that_stands_still_or_restarts_is_not_believed(sampled, machine, after):
    """A reloaded driver counts from the beginning; power then comes from the readings."""
    if after["gpu0_energy_w"] is None:
        machine.set(**after)
        time.sleep(0.1)
    restart = threading.Timer(0.3, lambda: machine.set(**after))
    restart.start()
    figures = window_of(sampled, 0.7)
    restart.join()

    assert 250.5 == pytest.approx(figures.power_w)


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
