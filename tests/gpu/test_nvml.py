"""Readings of a real card."""

import shutil
import subprocess
import time

import pytest

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


def test_the_energy_counter_agrees_with_power(nvml):
    """Over two seconds the counter's mean power is near the power readings."""
    if any(one.energy_j is None or one.power_w is None for one in nvml.read()):
        pytest.skip("This card has no energy counter or no power reading.")
    with Telemetry() as telemetry:
        window = telemetry.window()
        time.sleep(2)
        figures = window.finish()
        shown = telemetry.snapshot()

    assert figures.power_w is not None
    assert shown.power_w is not None
    assert 0.3 * shown.power_w < figures.power_w < 3 * shown.power_w
    assert figures.energy_j == pytest.approx(figures.power_w * 2, rel=0.2)
