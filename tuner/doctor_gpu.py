"""Checks of the GPU: the driver's library, and who else holds its memory."""

from typing import Any

import psutil

from tuner.check import Check, fail, ok, warn
from tuner.nvml import INVENTORY_S, Nvml, NvmlMissingError, within

MIB = 2**20


def nvml() -> Check:
    """Whether power and temperature can be read."""
    import pynvml  # noqa: PLC0415 - a machine without a GPU needs none of it

    try:
        found = within(INVENTORY_S, _names)
    except NvmlMissingError as error:
        cause = error.__cause__
        if isinstance(cause, pynvml.NVMLError) and "mismatch" in str(cause).lower():
            return fail(
                "NVML",
                f"{cause}: driver and library are of different versions.",
                "Reboot, or reload the NVIDIA kernel modules, after a driver update.",
            )
        return ok("NVML", f"n/a: {error}")
    if found is None:
        return fail("NVML", f"The driver did not answer within {INVENTORY_S:g} s.", "Reboot.")
    return ok("NVML", f"It sees {', '.join(found)}.")


def holders(engine_pid: int | None) -> Check:
    """Whether a process that is not our engine holds GPU memory."""
    name = "memory of the GPU"
    try:
        found = within(INVENTORY_S, _holders)
    except NvmlMissingError:
        return ok(name, "n/a: no GPU to ask.")
    if found is None:
        return warn(name, f"The driver did not answer within {INVENTORY_S:g} s.")
    foreign = {pid: used for pid, used in found.items() if not _is_of(pid, engine_pid)}
    if not foreign:
        return ok(name, "No other process holds any.")
    listed = ", ".join(
        f"pid {pid} ({_name(pid)}, {'n/a' if used is None else used // MIB} MiB)"
        for pid, used in sorted(foreign.items())
    )
    hint = "End it, or leave it room with a lower engine.default.gpu_memory_utilization."
    return warn(name, f"Others hold some: {listed}.", hint)


def _names() -> list[str]:
    library = Nvml()
    try:
        return [f"{gpu.name} ({gpu.memory_mib} MiB, driver {gpu.driver})" for gpu in library.gpus()]
    finally:
        library.close()


def _holders() -> dict[int, int | None]:
    """Memory in bytes by process id over all cards; None where the driver does not say."""
    import pynvml  # noqa: PLC0415 - see above

    library = Nvml()
    found: dict[int, int | None] = {}
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            processes: list[Any] = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
            for process in processes:
                before = found.get(process.pid)
                used = process.usedGpuMemory
                found[process.pid] = used if before is None else before + (used or 0)
    except pynvml.NVMLError as error:
        raise NvmlMissingError(f"The driver lists no processes ({error}).") from error
    finally:
        library.close()
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
