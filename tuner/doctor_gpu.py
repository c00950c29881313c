"""Checks of the GPU: the driver's library, and who else holds its memory."""

import psutil

from tuner.check import Check, fail, ok, warn
from tuner.gpu_reading import Gpu, GpuFault, fault_of, silence
from tuner.nvml import INVENTORY_S, Nvml, NvmlMissingError, within

PAUSED = "Requests are served meanwhile; tuning waits until the GPU can be measured."


def nvml() -> Check:
    """Whether power and temperature can be read."""
    try:
        found = within(INVENTORY_S, _look)
    except NvmlMissingError as error:
        if error.fault is None:
            return ok("NVML", f"n/a: {error}")
        return fail("NVML", error.fault.sentence, PAUSED)
    if found is None:
        return fail("NVML", f"The driver did not answer within {INVENTORY_S:g} s.", "Reboot.")
    names, fault, missing = found
    if fault is not None:
        return warn("NVML", fault.sentence, PAUSED)
    seen = f"It sees {', '.join(names)}."
    return ok("NVML", seen if missing is None else f"{seen} {missing}")


def holders(engine_pid: int | None) -> Check:
    """Whether a process that is not our engine holds GPU memory."""
    name = "memory of the GPU"
    try:
        found = within(INVENTORY_S, _holders)
    except NvmlMissingError as error:
        return ok(name, f"n/a: {error}")
    if found is None:
        return warn(name, f"The driver did not answer within {INVENTORY_S:g} s.")
    foreign = {pid: used for pid, used in found.items() if not _is_of(pid, engine_pid)}
    if not foreign:
        return ok(name, "No other process holds any.")
    listed = ", ".join(
        f"pid {pid} ({_name(pid)}, {'n/a' if used is None else round(used)} MiB)"
        for pid, used in sorted(foreign.items())
    )
    hint = "End it, or leave it room with a lower engine.default.gpu_memory_utilization."
    return warn(name, f"Others hold some: {listed}.", hint)


def _look() -> tuple[list[str], GpuFault | None, str | None]:
    """The cards, why tuning would pause, and which sensors are missing."""
    library = Nvml()
    try:
        names = [f"{gpu.name} ({_size(gpu)}, driver {gpu.driver})" for gpu in library.gpus()]
        readings = library.read()
        return names, fault_of([readings]), silence(readings)
    finally:
        library.close()


def _size(gpu: Gpu) -> str:
    return "memory n/a" if gpu.memory_mib is None else f"{gpu.memory_mib} MiB"


def _holders() -> dict[int, float | None]:
    """Memory in MiB by process id over all cards; None where the driver does not say."""
    library = Nvml()
    found: dict[int, float | None] = {}
    try:
        listed = [card.processes for card in library.read() if card.processes is not None]
    finally:
        library.close()
    if not listed:
        raise NvmlMissingError("The driver lists no processes.")
    for process in (one for card in listed for one in card):
        before, used = found.get(process.pid, 0.0), process.memory_mib
        found[process.pid] = None if before is None or used is None else before + used
    return found


def _is_of(pid: int, engine_pid: int | None) -> bool:
    """Whether a process is the engine or a descendant of it."""
    if engine_pid is None:
        return False
    try:
        return engine_pid in {pid, *(parent.pid for parent in psutil.Process(pid).parents())}
    except psutil.Error:
        return False


def _name(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "of another user or container"
