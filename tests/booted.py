"""A real systemd for tests: booted by systemd-nspawn on an overlay of this machine's root.

Nothing of the host is changed: what is written inside goes to a tmpfs that ends with the system.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
BOOT_S = 60.0
POWEROFF_S = 60.0
COMMAND_S = 120.0  # a starved machine is slow, not wrong
POLL_S = 0.2
UP = frozenset({"running", "degraded"})
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MASKED = (
    "systemd-firstboot.service", "systemd-update-utmp.service", "getty.target",
    "console-getty.service", "systemd-networkd-wait-online.service",
)  # fmt: skip
# the device and address filters are BPF programs; without these they are silently not there
FILTERS = ("--capability=CAP_BPF,CAP_PERFMON", "--system-call-filter=bpf")


class NotBootedError(Exception):
    """This machine cannot boot such a system; the sentence says why."""


def lacking() -> str | None:
    """Why no system can be booted here, as far as can be seen without trying."""
    if os.geteuid() != 0:
        return "only root can boot a system"
    if shutil.which("systemd-nspawn") is None:
        return "systemd-nspawn is not installed (package systemd-container)"
    return None


def control_groups() -> Path:
    """Where the unified hierarchy of control groups is mounted.

    Raises:
        NotBootedError: nowhere.
    """
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise NotBootedError("no unified hierarchy of control groups is mounted")


@dataclass
class Booted:
    """One running system."""

    folder: Path
    process: "subprocess.Popen[bytes] | None" = None
    leader: int = 0  # pid of its init, seen from here
    mounts: list[Path] = field(default_factory=list)
    group: Path | None = None  # its control group

    @property
    def root(self) -> Path:
        """Its files; what is written here is seen inside."""
        return self.folder / "root"

    def lay(self) -> None:
        """Mount the overlay, without anything that the host would start.

        Raises:
            NotBootedError: this kernel or container does not allow it.
        """
        self._mount("tmpfs", self.folder, "mode=755")
        upper, work = self.folder / "upper", self.folder / "work"
        for each in (upper, work, self.root):
            each.mkdir()
        self._mount("overlay", self.root, f"lowerdir=/,upperdir={upper},workdir={work}")
        units = self.root / "etc/systemd/system"
        units.mkdir(parents=True, exist_ok=True)
        started = [*units.glob("*.wants/*"), *(self.root / "etc").glob("rc?.d/*")]
        for each in started:  # databases, web servers, timers
            each.unlink()
        for name in MASKED:
            (units / name).unlink(missing_ok=True)
            (units / name).symlink_to("/dev/null")
        (units / "default.target").unlink(missing_ok=True)
        (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
        (self.root / "etc/machine-id").write_text("", encoding="utf-8")

    def boot(self) -> None:
        """Start it, and wait until it has booted.

        Raises:
            NotBootedError: it did not within BOOT_S.
        """
        log = self.folder / "boot.log"
        self.group = control_groups() / self.folder.name
        self.group.mkdir()  # two systems in one would end each other's units
        command = [
            "sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self.group),
            "systemd-nspawn", f"--directory={self.root}", f"--machine={self.folder.name}",
            "--register=no", "--keep-unit", "--private-network", "--console=pipe", *FILTERS,
            *self._binds(), "--boot",
        ]  # fmt: skip
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + BOOT_S
        state = "without an init"
        while state not in UP:
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(errors="replace").strip()[-1000:]
                raise NotBootedError(f"no system within {BOOT_S:g} s: {state}; {said}")
            time.sleep(POLL_S)
            self.leader = self._init()
            if self.leader:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    state = self.run("systemctl", "is-system-running", timeout_s=10).stdout.strip()

    def run(
        self, *command: str, timeout_s: float = COMMAND_S
    ) -> "subprocess.CompletedProcess[str]":
        """One command inside, as root; it ends with its timeout."""
        return subprocess.run(
            self.inside(*command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def inside(self, *command: str) -> list[str]:
        """The command line that runs a command inside."""
        enter = ["nsenter", f"--target={self.leader}", "-m", "-u", "-i", "-n", "-p", "-C"]
        clean = ["env", "-i", PATH, "LANG=C.UTF-8", f"PYTHONPATH={ROOT}:{ROOT / 'tests'}"]
        return [*enter, "--", *clean, *command]

    def path(self, inside: str) -> Path:
        """A path inside, seen from here, in the mounts of its init."""
        return Path(f"/proc/{self.leader}/root{inside}")

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.run("systemctl", "show", "-P", name, unit).stdout.strip()

    def journal(self, unit: str) -> str:
        """What a unit has said; its last words may still be under way when it has ended."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "-o", "cat", "--no-pager", "-n", "60", "-u", unit).stdout

    def off(self) -> None:
        """Power off, by force if need be; nothing of it is left."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                if self.leader:
                    self.run("systemctl", "poweroff", timeout_s=30)
                    self.process.wait(POWEROFF_S)
            if self.process.poll() is None:
                with contextlib.suppress(psutil.Error):
                    for child in psutil.Process(self.process.pid).children():
                        child.kill()
                self.process.kill()
                self.process.wait()
        while self.mounts:
            where = self.mounts.pop()
            if subprocess.run(["umount", str(where)], check=False).returncode:
                subprocess.run(["umount", "-l", str(where)], check=False)
        with contextlib.suppress(OSError):
            if self.group is not None:
                for below in sorted(self.group.glob("**/"), reverse=True):  # the deepest first
                    below.rmdir()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _mount(self, kind: str, where: Path, options: str) -> None:
        command = ["mount", "-t", kind, "-o", options, "tunerd-test", str(where)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotBootedError(f"cannot mount {kind}: {done.stderr.strip()}")
        self.mounts.append(where)

    def _binds(self) -> Iterator[str]:
        """What the tests need and the overlay does not show: it is another file system's."""
        needed = (ROOT, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve())
        for path in needed:
            shown = self.root / path.relative_to("/")
            if path.is_relative_to("/tmp") or not (shown.is_dir() and any(shown.iterdir())):
                yield f"--bind-ro={path}"

    def _init(self) -> int:
        """The pid of its init, the child of the process that we have started; 0 without one."""
        assert self.process is not None
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children():
                if child.name() == "systemd":
                    return child.pid
        return 0


@contextlib.contextmanager
def booted() -> Iterator[Booted]:
    """A running system; nothing of it is left afterwards.

    Raises:
        NotBootedError: this machine cannot.
    """
    reason = lacking()
    if reason is not None:
        raise NotBootedError(reason)
    folder = Path(tempfile.gettempdir()) / f"tunerd-test-{secrets.token_hex(4)}"
    folder.mkdir()
    system = Booted(folder)
    try:
        system.lay()
        system.boot()
        yield system
    finally:
        system.off()
