"""Memory on the cards: never in the way of a start that vLLM would take."""

import math

from hypothesis import given
from hypothesis import strategies as st

from tuner.card_room import Need, shortage
from tuner.gpu_reading import GpuProcess, GpuReading


@given(
    total=st.floats(4_000, 300_000),
    reserved=st.floats(0.0, 0.01),
    held=st.lists(st.floats(0, 100_000), max_size=4),
    fraction=st.floats(0.05, 1.0),
)
def test_what_vllm_takes_is_never_refused(total, reserved, held, fraction):
    """Its own condition, with up to 1 % of the memory that CUDA does not count."""
    cuda_mib = total * (1 - reserved)
    free_mib = cuda_mib - sum(held)
    processes = tuple(GpuProcess(pid=n, memory_mib=mib, busy=None) for n, mib in enumerate(held))
    reading = GpuReading(uuid="GPU-0", memory_total_mib=total, processes=processes)
    refused = shortage([reading], Need(fraction=fraction, cards=1)) is not None

    assert not (refused and free_mib >= math.ceil(cuda_mib * fraction))
