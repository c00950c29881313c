"""A control group of systemd: which processes are in it, and how long they have computed.

The kernel tells this to everybody, also where the processes themselves are hidden from us.
"""

from dataclasses import dataclass
from pathlib import Path

# version 2 alone, or beside version 1
HIERARCHIES = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))


@dataclass(frozen=True)
class ControlGroup:
    """A control group of version 2."""

    name: str  # below the root of the hierarchy, such as "/system.slice/x.service"
    hierarchies: tuple[Path, ...] = HIERARCHIES

    def pids(self) -> frozenset[int]:
        """Its processes and those of the groups below; empty when there is no such group."""
        folder = self._folder()
        found: set[int] = set()
        for file in [] if folder is None else folder.rglob("cgroup.procs"):
            try:
                found |= {int(word) for word in file.read_text(encoding="ascii").split()}
            except (OSError, ValueError):  # it ends while we look
                continue
        return frozenset(found)

    def cpu_s(self) -> float | None:
        """Processor seconds so far, also of processes that have ended; None when unknown."""
        folder = self._folder()
        try:
            text = "" if folder is None else (folder / "cpu.stat").read_text(encoding="ascii")
        except OSError:
            return None
        for line in text.splitlines():
            name, _, value = line.partition(" ")
            if name == "usage_usec" and value.isdigit():
                return int(value) / 1e6
        return None

    def _folder(self) -> Path | None:
        if not self.name.strip("/"):
            return None  # never the whole machine
        for root in self.hierarchies:
            folder = root / self.name.lstrip("/")
            if (folder / "cgroup.procs").exists():
                return folder
        return None
