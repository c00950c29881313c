"""Readings of a real card."""

import shutil
import subprocess
import time

import pytest

from tuner.environment import ENERGY_WINDOW_S
from tuner.gpu_reading import silence
from tuner.nvml import Nvml, NvmlMissingError, gpus
from tuner.telemetry import Telemetry

pytestmark = pytest.mark.gpu


@pytest.fixture
def nvml():
    """An open NVML, or a skip that says why there is none."""
    try:
        library = Nvml()
    except NvmlMissingError as error:
        pytest.skip(str(error))
    yield library
    library.close()


def test_a_card_describes_itself(nvml):
    """Name, UUID and driver are there, and the memory is what nvidia-smi says."""
    found = gpus()

    assert nvml.gpus() == found
    assert all(one.name and one.driver and one.uuid.startswith("GPU-") for one in found)
    if shutil.which("nvidia-smi") is not None:
        query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        told = subprocess.run(query, check=True, capture_output=True, text=True).stdout.split()
        assert [int(line) for line in told] == pytest.approx(
            [one.memory_mib for one in found], rel=0.02
        )


def test_readings_are_plausible(nvml):
    """A working card draws power, is neither frozen nor burning, and fills part of its memory."""
    totals = {one.uuid: one.memory_mib for one in nvml.gpus()}
    for reading in nvml.read():
        assert reading.power_w is None or 0 < reading.power_w < 2000
        assert reading.temperature_c is None or 0 < reading.temperature_c < 120
        assert reading.utilization is None or 0 <= reading.utilization <= 1
        assert reading.memory_mib is not None
        assert 0 <= reading.memory_mib <= totals[reading.uuid]


def test_clocks_and_throttle_reasons_are_told(nvml):
    """Clocks lie between idle and boost, and the card says why they are below their maximum."""
    for reading in nvml.read():
        assert reading.sm_clock_mhz is None or 50 < reading.sm_clock_mhz < 5000
        assert reading.memory_clock_mhz is None or 50 < reading.memory_clock_mhz < 20000
        if reading.fault is None:
            assert reading.reasons is not None


def test_the_cards_are_sound_and_split_ones_say_so(nvml):
    """A card without MIG has no fault; what it does not report is named."""
    for reading in nvml.read():
        mode = _mig(reading.uuid)
        assert (reading.fault is not None and reading.fault.code == "mig") == (mode == "Enabled")
    print(silence(nvml.read()))


def _mig(uuid):
    """What nvidia-smi says of MIG; n/a without it."""
    if shutil.which("nvidia-smi") is None:
        return "n/a"
    query = ["nvidia-smi", "-i", uuid, "--query-gpu=mig.mode.current", "--format=csv,noheader"]
    return subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip()


def test_processes_are_those_of_nvidia_smi(nvml):
    """The same pids with the same memory, as far as the driver tells a container."""
    if shutil.which("nvidia-smi") is None:
        pytest.skip("There is no nvidia-smi to compare with.")
    query = ["nvidia-smi", "--query-compute-apps=gpu_uuid,pid", "--format=csv,noheader"]
    told = subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines()
    listed = {tuple(line.split(", ")) for line in told if line.strip()}
    found = {
        (reading.uuid, str(process.pid))
        for reading in nvml.read()
        for process in reading.processes or ()
    }

    assert listed == found


def test_a_window_long_enough_for_the_sensor_has_energy(nvml):
    """Over 21 s the counter's mean power is near the mean of the power readings."""
    if any(one.energy_j is None or one.power_w is None for one in nvml.read()):
        pytest.skip("This card has no energy counter or no power reading.")
    with Telemetry() as telemetry:
        short, long = telemetry.window(), telemetry.window()
        time.sleep(2)
        hint = short.finish()
        time.sleep(ENERGY_WINDOW_S - 1)
        readings = list(long.readings)
        figures = long.finish()
    read_w = [sum(card.power_w for card in one.gpus) for one in readings]
    mean_w = sum(read_w) / len(read_w)
    print(f"counter {figures.power_w:.1f} W, readings {mean_w:.1f} W over {len(read_w)}")

    assert (None, None) == (hint.energy_j, figures.gpu_fault)
    assert mean_w == pytest.approx(figures.power_w, rel=0.15)
    assert figures.energy_j == pytest.approx(figures.power_w * (ENERGY_WINDOW_S + 1), rel=0.02)
