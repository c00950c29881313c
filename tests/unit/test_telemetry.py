"""Sensors: windows, missing ones, and a driver that hangs."""

import threading
import time

import pynvml
import pytest

from tuner.environment import HostReading, Reading, environment
from tuner.gpu_reading import FaultCode, Gpu, GpuFault, GpuProcess, GpuReading, reason_names
from tuner.nvml import Nvml, NvmlMissingError, gpus, within
from tuner.telemetry import Telemetry

LONG_S = 20.0  # nothing here takes that long


def card(uuid="GPU-1", **changes):
    plan = {
        "power_w": 300.0, "energy_j": None, "temperature_c": 60.0, "memory_mib": 1000.0,
        "utilization": 0.5, "reasons": (),
    }  # fmt: skip
    return GpuReading(uuid=uuid, **(plan | changes))


def reading(at, *cards, busy_s=0.0, total_s=0.0, memory_mib=100.0):
    host = HostReading(busy_s=busy_s, total_s=total_s, memory_mib=memory_mib)
    return Reading(at=at, host=host, gpus=cards)


class Cards:
    """GPUs that answer what they are told to."""

    def __init__(self, *cards):
        self.cards = list(cards)
        self.closed = threading.Event()

    def read(self):
        return self.cards

    def close(self):
        self.closed.set()


def until(condition):
    """Wait for a condition that another thread makes true."""
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_energy_counters_win_over_power_readings():
    """Power readings miss what happens between them; the counter does not."""
    figures = environment(
        [reading(0.0, card(energy_j=1000.0)), reading(20.0, card(energy_j=6000.0))], seconds=24
    )

    assert (250.0, 6000.0) == (figures.power_w, pytest.approx(figures.energy_j))


def test_without_a_counter_power_is_the_mean_of_readings():
    """Older cards have only the power reading."""
    figures = environment([reading(0.0, card()), reading(1.0, card(power_w=100.0))], seconds=20)

    assert (200.0, 4000.0) == (figures.power_w, figures.energy_j)


@pytest.mark.parametrize(
    "counts",
    [(1000.0, 1000.0, 1000.0), (1000.0, 5.0, 2000.0), (None, 1.0, 2.0), (2.0, 1.0, None)],
)
def test_a_counter_that_is_no_counter_is_not_believed(counts):
    """Standing still, restarted in between, or missing at an edge: the readings decide."""
    rows = [reading(12.0 * at, card(energy_j=count)) for at, count in enumerate(counts)]

    assert 300.0 == environment(rows, seconds=24).power_w


@pytest.mark.parametrize(
    ("seconds", "power_w", "energy_j"), [(20, 250.0, 5000.0), (19, 300.0, None)]
)
def test_energy_needs_a_window_that_suits_the_sensor(seconds, power_w, energy_j):
    """The counter is renewed every 100 ms and looks a quarter of the time: 20 s, not less."""
    rows = [reading(0.0, card(energy_j=1000.0)), reading(18.0, card(energy_j=5500.0))]
    figures = environment(rows, seconds=seconds)

    assert (power_w, energy_j) == (figures.power_w, figures.energy_j)


def test_a_counter_belongs_to_its_card():
    """Cards that change places in the driver's list are told by their UUID."""
    one, two = card("GPU-1", energy_j=1000.0), card("GPU-2", energy_j=90_000.0)
    later = card("GPU-1", energy_j=3000.0), card("GPU-2", energy_j=94_000.0)
    rows = [reading(0.0, one, two), reading(20.0, *reversed(later))]

    assert 300.0 == environment(rows, seconds=20).power_w


def test_readings_of_one_moment_have_no_counted_power():
    """Nothing is divided by no time."""
    assert 300.0 == environment([reading(0.0, card(energy_j=1.0))], seconds=20).power_w


OURS = frozenset({10, 11})


def process(pid, memory_mib=100.0, busy=0.0):
    return GpuProcess(pid=pid, memory_mib=memory_mib, busy=busy)


def foreign(*rows):
    """What others took and used, from lists of processes per reading."""
    readings = [reading(float(at), card(processes=tuple(row))) for at, row in enumerate(rows)]
    figures = environment(readings, seconds=1, ours=OURS)
    return figures.foreign_gpu_mib, figures.foreign_gpu_busy


def test_what_others_take_and_use_of_our_card_is_foreign():
    """Memory counts beyond what was held at the beginning, and work as the mean share."""
    idle = [process(10, busy=0.9), process(7, 500.0)]
    busy = [process(11, busy=0.6), process(7, 500.0, 0.2), process(8, 300.0, 0.1)]

    assert (0.0, 0.0) == foreign(idle, idle)
    assert (300.0, pytest.approx(0.15)) == foreign(idle, busy)
    assert (0.0, pytest.approx(0.15)) == foreign(busy, idle)


def test_a_card_where_the_engine_is_not_seen_has_nothing_foreign():
    """In a container pids may be of another namespace; another card is somebody else's affair."""
    other = card("GPU-2", processes=(process(7, 900.0, 1.0),))
    mine = card("GPU-1", processes=(process(10),))
    rows = [reading(0.0, mine, other), reading(1.0, mine, other)]
    figures = environment(rows, seconds=1, ours=OURS)

    assert (None, None) == foreign([process(7, 900.0, 1.0)])
    assert (None, None) == foreign([])
    assert (0.0, 0.0) == (figures.foreign_gpu_mib, figures.foreign_gpu_busy)


def test_what_the_driver_does_not_say_of_others_is_none():
    """Memory n/a and no utilisation per process, as with MIG or in WSL."""
    assert (None, None) == foreign([process(10), process(7, None, None)])


def test_a_fault_in_between_is_kept_with_the_window():
    """A card that was lost and came back has not been measured all the time."""
    lost = GpuReading(uuid="GPU-1", fault=GpuFault.of(FaultCode.GPU_LOST, "GPU-1"))
    figures = environment(
        [reading(0.0, card()), reading(1.0, lost), reading(2.0, card())], seconds=2
    )

    assert "GPU-1 is lost" in figures.gpu_fault


def test_one_reading_without_reasons_is_no_fault():
    """A single call may time out; a card that never says is another matter."""
    blind = GpuReading(uuid="GPU-1", fault=GpuFault.of(FaultCode.SENSORS_BLIND, "GPU-1"))

    assert environment([reading(0.0, card()), reading(1.0, blind)], seconds=1).gpu_fault is None
    assert environment([reading(0.0, blind), reading(1.0, blind)], seconds=1).gpu_fault is not None


def test_cards_add_up_and_the_hottest_counts():
    """Power and memory are sums over cards, temperature is a maximum over time too."""
    hot = card("GPU-2", temperature_c=81.0, reasons=("hw_thermal_slowdown",))
    figures = environment(
        [reading(0.0, card(), hot), reading(1.0, card(), card("GPU-2"))], seconds=1
    )

    assert (600.0, 2000.0, 81.0) == (figures.power_w, figures.gpu_memory_mib, figures.temperature_c)
    assert ("hw_thermal_slowdown",) == figures.throttle_reasons


def test_a_missing_sensor_is_none_never_zero():
    """A card that does not support a sensor leaves the figure unknown, also in a sum."""
    blind = card(
        "GPU-2", power_w=None, temperature_c=None, memory_mib=None, utilization=None, reasons=None
    )
    alone = environment([reading(0.0, blind)], seconds=1)
    mixed = environment([reading(0.0, card(), blind)], seconds=1)

    assert (None, None, None, None, None) == (
        alone.power_w,
        alone.energy_j,
        alone.temperature_c,
        alone.gpu_memory_mib,
        alone.gpu_utilization,
    )
    assert (None, 60.0) == (mixed.power_w, mixed.temperature_c)


def test_host_load_is_busy_over_all_time():
    """The share is between the first and the last reading, memory is the highest."""
    figures = environment(
        [
            reading(0.0, busy_s=10.0, total_s=100.0, memory_mib=300.0),
            reading(1.0, busy_s=13.0, total_s=104.0, memory_mib=200.0),
        ],
        seconds=1,
    )

    assert (0.75, 300.0) == (figures.host_cpu, figures.host_memory_mib)


def test_a_window_without_readings_knows_nothing():
    """A driver that hung the whole time gives None everywhere."""
    assert environment([], seconds=1).power_w is None


def test_the_sampler_fills_windows_and_the_snapshot():
    """A window collects what the thread reads until it is finished."""
    cards = Cards(card())
    with Telemetry(open_gpus=lambda: cards, period_s=0.01) as telemetry:
        window = telemetry.window()
        until(lambda: len(window.readings) > 2)
        figures = window.finish()
        count = len(window.readings)
        shown = telemetry.snapshot()
        until(lambda: telemetry.snapshot().host_cpu is not None)

    assert (300.0, 60.0, 300.0) == (figures.power_w, figures.temperature_c, shown.power_w)
    assert {"GPU-1": card()} == shown.gpus
    assert count == len(window.readings)
    assert cards.closed.is_set()


def test_only_the_chosen_cards_count():
    """Another application's card on the same machine is not ours."""
    cards = Cards(card(), card("GPU-2"))
    with Telemetry(open_gpus=lambda: cards, uuids=frozenset({"GPU-2"}), period_s=0.01) as telemetry:
        until(lambda: telemetry.snapshot().power_w is not None)
        shown = telemetry.snapshot()

    assert (300.0, ["GPU-2"]) == (shown.power_w, list(shown.gpus))


def test_no_driver_is_said_and_the_host_is_still_read():
    """Without NVML the GPU figures are None with one sentence, the host's are there."""

    def missing():
        raise NvmlMissingError("There is no NVIDIA driver to ask.")

    with Telemetry(open_gpus=missing, period_s=0.01) as telemetry:
        until(lambda: telemetry.snapshot().host_cpu is not None)
        shown = telemetry.snapshot()

    assert (None, "There is no NVIDIA driver to ask.") == (shown.power_w, shown.reason)
    assert shown.host_memory_mib is not None
    assert shown.host_memory_mib > 0


def test_a_starved_thread_is_no_fault_of_a_machine_without_a_gpu():
    """On a CPU machine under load nothing is said of a driver, and tuning goes on."""
    now = [0.0]

    def missing():
        raise NvmlMissingError("There is no NVIDIA driver to ask.")

    telemetry = Telemetry(open_gpus=missing, period_s=0.01, clock=lambda: now[0])
    with telemetry:
        until(lambda: telemetry.snapshot().host_cpu is not None)
    now[0] = 60.0
    shown = telemetry.snapshot()

    assert ("There is no NVIDIA driver to ask.", None) == (shown.reason, shown.fault)


def test_a_hanging_driver_blocks_nobody():
    """While a sensor call hangs, windows and snapshots answer at once and know nothing."""
    release = threading.Event()

    class Hanging(Cards):
        def read(self):
            release.wait(LONG_S)
            return []

    with Telemetry(open_gpus=Hanging, period_s=0.01) as telemetry:
        began = time.monotonic()
        figures = telemetry.window().finish()
        shown = telemetry.snapshot()
        took_s = time.monotonic() - began
        release.set()

    assert took_s < LONG_S / 2
    assert (None, None) == (figures.power_w, shown.power_w)
    assert shown.reason


def test_an_old_reading_is_not_shown():
    """A driver that stopped answering must not look like steady power."""
    now = [0.0]
    cards = Cards(card())
    telemetry = Telemetry(open_gpus=lambda: cards, period_s=0.01, clock=lambda: now[0])
    with telemetry:
        until(lambda: telemetry.snapshot().power_w is not None)
    now[0] = 60.0

    shown = telemetry.snapshot()

    assert (None, "The GPU driver has not answered for 60 s.") == (shown.power_w, shown.reason)


def test_clock_event_bits_have_names():
    """Idle is no news; heat and caps are."""
    assert ("sw_power_cap", "hw_thermal_slowdown") == reason_names(0x44)
    assert () == reason_names(0x1)


def test_the_bits_are_those_of_the_driver():
    """The names belong to the same bits in the library's own constants."""
    pairs = {
        pynvml.nvmlClocksEventReasonApplicationsClocksSetting: "applications_clocks",
        pynvml.nvmlClocksEventReasonSwPowerCap: "sw_power_cap",
        pynvml.nvmlClocksThrottleReasonHwSlowdown: "hw_slowdown",
        pynvml.nvmlClocksEventReasonSyncBoost: "sync_boost",
        pynvml.nvmlClocksEventReasonSwThermalSlowdown: "sw_thermal_slowdown",
        pynvml.nvmlClocksThrottleReasonHwThermalSlowdown: "hw_thermal_slowdown",
        pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown: "hw_power_brake",
        pynvml.nvmlClocksEventReasonDisplayClockSetting: "display_clocks",
    }

    assert [(name,) for name in pairs.values()] == [reason_names(bit) for bit in pairs]


class Memory:
    total = 32 * 2**30
    used = 5 * 2**20


class Library:
    """A pynvml with one card that lacks some sensors."""

    NVMLError = pynvml.NVMLError
    NVMLError_FunctionNotFound = pynvml.NVMLError_FunctionNotFound
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, count=1):
        self.count = count
        self.shut = 0

    def nvmlInit(self):  # noqa: N802 - the names are the library's
        pass

    def nvmlShutdown(self):  # noqa: N802
        self.shut += 1

    def nvmlDeviceGetCount(self):  # noqa: N802
        return self.count

    def __getattr__(self, name):
        answers = {
            "nvmlDeviceGetHandleByIndex": "handle",
            "nvmlDeviceGetUUID": b"GPU-7",
            "nvmlDeviceGetName": "NVIDIA X",
            "nvmlSystemGetDriverVersion": b"580.1",
            "nvmlDeviceGetMemoryInfo": Memory(),
            "nvmlDeviceGetPowerUsage": 250_500,
            "nvmlDeviceGetTemperature": 55,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0x4,
        }

        def call(*_):
            if name in answers:
                return answers[name]
            if name == "nvmlDeviceGetCurrentClocksEventReasons":
                raise pynvml.NVMLError_FunctionNotFound
            raise pynvml.NVMLError_NotSupported

        return call


def test_unsupported_sensors_are_none():
    """What the card refuses is None; an old driver is asked by the old name."""
    expected = GpuReading(
        uuid="GPU-7",
        power_w=250.5,
        energy_j=None,
        temperature_c=55.0,
        memory_mib=5.0,
        memory_total_mib=32768.0,
        utilization=None,
        reasons=("sw_power_cap",),
    )

    assert [expected] == Nvml(Library()).read()


def test_cards_are_described_for_the_fingerprint():
    """Bytes of older bindings become text."""
    expected = Gpu(name="NVIDIA X", uuid="GPU-7", memory_mib=32768, driver="580.1")

    assert [expected] == Nvml(Library()).gpus()


def test_a_driver_without_cards_is_missing():
    """A driver that shows no card has no sensors to read, and is let go."""
    library = Library(count=0)

    with pytest.raises(NvmlMissingError, match="no GPU"):
        Nvml(library)

    assert 1 == library.shut


def test_no_library_is_no_cards(monkeypatch):
    """A machine without the driver has an empty list, not an error."""

    def absent():
        raise pynvml.NVMLError_LibraryNotFound

    monkeypatch.setattr(pynvml, "nvmlInit", absent)

    assert [] == gpus()


def test_a_call_that_hangs_is_given_up():
    """The inventory must not keep the daemon from starting."""
    release = threading.Event()

    answer = within(0.05, lambda: release.wait(LONG_S))
    release.set()

    assert answer is None
