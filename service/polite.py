"""Heavy computing that gives way to everything else on the machine."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

# a tenth of the share of what runs at 0: a search step of 1.6 s ends in 16 s on a saturated machine
NICE = 10

P = ParamSpec("P")
T = TypeVar("T")


async def politely(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a function in a thread of its own, of low priority.

    Gateway and engine share the cores with us: at our usual priority a search step moved the p99
    between two tokens by 3 to 4 ms on two busy cores (docs/gateway-benchmark.md).
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="polite", initializer=give_way)
    try:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(thread, lambda: function(*args, **kwargs))
    finally:
        thread.shutdown(wait=False)  # the priority cannot be taken back, so the thread ends


def give_way() -> None:
    """Lower the priority of the calling thread, and of what it starts, for good."""
    # the unit of tunerd alone may not; there the gateway's weight does it
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
