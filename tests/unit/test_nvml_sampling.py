"""Sampling a driver that fails, on the stub of its library: faults, pauses and energy."""

import threading
import time

import nvml_machine
import pytest

from tuner import cards as cards_module
from tuner import telemetry as telemetry_module
from tuner.environment import environment
from tuner.gpu_reading import FaultCode
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


def test_cards_are_told_by_uuid_whatever_their_number(machine):
    """The order of cards may change with the next boot; their UUIDs do not."""
    machine.cards(2).set(gpu0_uuid="GPU-b", gpu1_uuid="GPU-a", gpu0_temp=50, gpu1_temp=70)
    with Telemetry(period_s=PERIOD_S, uuids=frozenset({"GPU-a"})) as telemetry:
        until(lambda: telemetry.snapshot().gpus)
        shown = telemetry.snapshot()

    assert (["GPU-a"], 70.0) == (list(shown.gpus), shown.temperature_c)


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

    assert took_s < 10  # of 60 s
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
