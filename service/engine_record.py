"""The identity of an engine on disk: written before the spawn, so that no engine is ever lost."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import psutil

from profiles.knobs import Knobs

# in the environment of every process of one engine start; inherited by all its children
TOKEN_VARIABLE = "TUNERD_ENGINE_TOKEN"  # noqa: S105  an identity, not a secret
# without it setproctitle, which vLLM uses, overwrites /proc/PID/environ and hides the token
KEEP_ENVIRON = {"SPT_NOENV": "1"}


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """Who an engine is: launch token, and once spawned pid and start time."""

    token: str
    profile: str  # id of the profile, or of the trial's knobs
    purpose: str  # "serve" or "trial"
    knobs: str  # canonical JSON
    launch: str  # digest of the command line and environment
    socket: str
    log: str
    pid: int | None = None  # also its process group
    started_at: float | None = None  # seconds since the epoch, as the kernel says
    ready_s: float | None = None
    live: bool = False  # started with tunerd's scheduler
    live_fault: str | None = None  # why its knobs cannot be changed while it runs
    unit: str | None = None  # of systemd, that holds it; None: it was spawned as our child
    invocation: str | None = None  # systemd's id of this very run of the unit
    control_group: str | None = None  # of the unit, below the root of the hierarchy

    def spawned(self, pid: int) -> Self:
        """The record completed with the process."""
        return replace(self, pid=pid, started_at=psutil.Process(pid).create_time())

    def write(self, path: Path) -> None:
        """Replace the record on disk atomically."""
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The record on disk; None when there is none or it cannot be read."""
        try:
            record = cls(**json.loads(path.read_text(encoding="utf-8")))
            Knobs.model_validate_json(record.knobs)
        except (OSError, ValueError, TypeError):
            return None
        return record

    def alive(self) -> bool:
        """Whether the very process that was spawned still runs (pids are reused, times are not)."""
        if self.pid is None or self.started_at is None:
            return False
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_at) < 1.0
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


def members(token: str, group: int | None) -> list[psutil.Process]:
    """Every live process of an engine start: by its token, or by its process group.

    EngineCore and the workers survive a SIGKILLed API server (vllm#55510), so the parent alone
    says nothing.
    """
    found: list[psutil.Process] = []
    needle = f"{TOKEN_VARIABLE}={token}".encode()
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            environ = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
            if needle in environ or (group is not None and _group(process.pid) == group):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None
