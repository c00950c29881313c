"""Memory on the cards, as vLLM asks for it before it loads anything."""

import pytest

from profiles.knobs import Knobs
from tuner.card_room import Need, shortage
from tuner.gpu_reading import FaultCode, GpuFault, GpuProcess, GpuReading

HALF = Need(fraction=0.5, cards=1)


def card(*held, uuid="GPU-0", total=80_000.0, fault=None):
    """A card whose processes, numbered from 1, hold so many MiB."""
    processes = tuple(
        GpuProcess(pid=pid, memory_mib=mib, busy=None) for pid, mib in enumerate(held, 1)
    )
    return GpuReading(uuid=uuid, memory_total_mib=total, processes=processes, fault=fault)


@pytest.mark.parametrize(
    ("args", "knobs", "expected"),
    [
        ((), Knobs(), (0.9, 1)),
        (("--gpu-memory-utilization", "0.5"), Knobs(), (0.5, 1)),
        (("--gpu-memory-utilization=0.5",), Knobs(gpu_memory_utilization=0.7), (0.7, 1)),
        (("--gpu-memory-utilization=0.5", "--gpu-memory-utilization=0.6"), Knobs(), (0.6, 1)),
        (("-tp", "2", "--pipeline-parallel-size=2"), Knobs(), (0.9, 4)),
        (("--tensor-parallel-size", "many"), Knobs(), (0.9, 1)),
        (("-tp",), Knobs(), (0.9, 1)),
        (("--load-format", "ipc_cache"), Knobs(gpu_memory_utilization=0.7), (0.0, 1)),
    ],
)
def test_what_a_start_asks_for(args, knobs, expected):
    """The knob, the last value on the command line, or vLLM's default; tp times pp cards."""
    need = Need.of(args, knobs)

    assert expected == (need.fraction, need.cards)


def test_the_holder_is_named_with_what_is_left():
    """F14: who holds how much, how much is left, and what the start needs."""
    said = shortage([card(60_000.0, 100.0)], HALF)

    assert (
        "GPU-0: pid 1 holds 60000 MiB, pid 2 holds 100 MiB; 19900 of 80000 MiB are left, and "
        "gpu_memory_utilization 0.5 needs 40000" == said
    )


def test_our_own_engine_is_not_in_the_way():
    """Its memory comes back before the next one starts; a stranger's does not."""
    assert shortage([card(60_000.0)], HALF, frozenset({1})) is None
    assert shortage([card(30_000.0, 50_000.0)], HALF, frozenset({1})) is not None


def test_pids_of_another_namespace_say_nothing():
    """In a container the driver's list may hold our own engine under a pid that is not ours."""
    assert shortage([card(60_000.0)], HALF, frozenset({77})) is None


@pytest.mark.parametrize(
    "silent",
    [
        card(60_000.0, total=None),
        card(None),
        card(60_000.0, fault=GpuFault.of(FaultCode.MIG, "GPU-0")),
        GpuReading(uuid="GPU-0", memory_total_mib=80_000.0, memory_mib=79_000.0),
    ],
)
def test_a_card_that_does_not_say_is_not_in_the_way(silent):
    """Without a total, a list of processes or their sizes vLLM itself has to find out."""
    assert shortage([silent], HALF) is None


def test_as_many_cards_as_are_needed():
    """An engine of two cards lacks room when one of two is held; an engine of one does not."""
    cards = [card(60_000.0), card(uuid="GPU-1")]

    assert shortage(cards, HALF) is None
    assert shortage(cards, Need(fraction=0.5, cards=2)) is not None
    assert shortage([], HALF) is None
