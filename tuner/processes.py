"""The engine's processes as the kernel sees them: who answers, and who used the processor."""

import contextlib
import os
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from profiles.measurement import Environment
from tuner.control_group import ControlGroup

PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid
CONNECT_S = 1.0
# the kernel counts processor time in ticks of 10 ms: of a shorter window a share says little
CPU_WINDOW_S = 5.0


@dataclass(frozen=True, kw_only=True)
class EngineProcess:
    """The process that was started as the engine, with everything below it."""

    pid: int
    started_at: float  # seconds since the epoch, as the kernel says
    group: ControlGroup | None = None  # of an engine in a unit, whose processes are hidden from us

    @classmethod
    def of(cls, pid: int | None, started_at: float | None, group: str | None = None) -> Self | None:
        """The engine of a record; None when it was not spawned."""
        if pid is None or started_at is None:
            return None
        known = None if group is None else ControlGroup(group)
        return cls(pid=pid, started_at=started_at, group=known)

    def tree(self) -> list[psutil.Process]:
        """The live processes of the engine; empty when it has ended or the pid is another's."""
        try:
            root = psutil.Process(self.pid)
            if abs(root.create_time() - self.started_at) > 1.0:
                return []
            return [root, *root.children(recursive=True)]
        except psutil.Error:
            return []

    def pids(self) -> frozenset[int]:
        """The ids of its live processes."""
        if self.group is not None:
            return self.group.pids()
        return frozenset(process.pid for process in self.tree())

    def cpu_s(self) -> float | None:
        """Processor seconds of its processes so far; None when nobody says."""
        return _cpu_s(self.tree()) if self.group is None else self.group.cpu_s()


@dataclass(frozen=True, kw_only=True)
class Listener:
    """The process that listens on a unix socket."""

    pid: int
    started_at: float | None  # None: of another user or namespace

    @classmethod
    def on(cls, path: Path) -> Self | None:
        """Who called listen() on this socket; None when nobody answers."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(CONNECT_S)
            try:
                probe.connect(str(path))
                raw = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size)
            except OSError:
                return None
        pid = int(PEER.unpack(raw)[0])
        started_at: float | None = None
        with contextlib.suppress(psutil.Error):
            started_at = psutil.Process(pid).create_time()
        return cls(pid=pid, started_at=started_at)


@dataclass(frozen=True, kw_only=True)
class CpuTimes:
    """Processor seconds so far."""

    at: float  # monotonic clock
    busy_s: float  # of all cores, for whatever
    total_s: float  # of all cores, idle included
    engine_s: float | None  # None: its processes are not ours to see
    own_s: float  # of this process
    thread_s: float  # of the calling thread, which runs the replay

    @classmethod
    def now(cls, engine: EngineProcess | None, listener: Listener | None) -> Self:
        """The counters of this moment, asked for in the thread that replays."""
        # an engine behind another command, as in a container, does its work elsewhere
        seen = engine is not None and listener is not None and listener.pid in engine.pids()
        busy_s, total_s = host_cpu_s()
        own = os.times()
        return cls(
            at=time.monotonic(),
            busy_s=busy_s,
            total_s=total_s,
            engine_s=engine.cpu_s() if engine is not None and seen else None,
            own_s=own.user + own.system,
            thread_s=time.thread_time(),
        )


def cpu_shares(before: CpuTimes, after: CpuTimes, environment: Environment) -> Environment:
    """The environment with the shares of the replay and of everybody who is not the engine."""
    seconds, total_s = after.at - before.at, after.total_s - before.total_s
    if seconds < CPU_WINDOW_S or total_s <= 0:
        return environment
    busy_s = after.busy_s - before.busy_s
    foreign: float | None = None
    if before.engine_s is not None and after.engine_s is not None:
        known_s = after.engine_s - before.engine_s + after.own_s - before.own_s
        foreign = min(1.0, max(0.0, (busy_s - known_s) / total_s))
    return environment.model_copy(
        update={
            "foreign_cpu": foreign,
            "client_cpu": (after.thread_s - before.thread_s) / seconds,
            "host_cpu": min(1.0, max(0.0, busy_s / total_s)),
        }
    )


def host_cpu_s() -> tuple[float, float]:
    """Seconds since boot that the processors worked, and all of them, idle ones included."""
    times = psutil.cpu_times()._asdict()
    # Linux counts guests within user and nice
    total_s = sum(value for name, value in times.items() if name not in {"guest", "guest_nice"})
    return total_s - times.get("idle", 0.0) - times.get("iowait", 0.0), total_s


def _cpu_s(tree: list[psutil.Process]) -> float:
    spent = 0.0
    for process in tree:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            spent += times.user + times.system
    return spent
