"""What the processes of the service look like from outside, read from /proc."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.engine_record import TOKEN_VARIABLE
from soaking.history import Sample

PROC = Path("/proc")
PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 1024 * 1024
COUNTED = {"trials": "trial", "verdicts": "promotion", "profiles put in force": "in_force"}
MODULES = {b"service.run": "supervisor", b"service.gateway": "gateway", b"service": "tunerd"}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One live process."""

    pid: int
    role: str  # "supervisor", "gateway", "tunerd", "engine", "engine child", "other"
    token: str = ""  # of the engine start that it belongs to


def scan(mark: bytes) -> list[Seen]:
    """Every live process that carries this entry in its environment."""
    found = []
    for folder in PROC.iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                seen = _look(folder, mark)
                if seen is not None:
                    found.append(seen)
    return found


def _look(folder: Path, mark: bytes) -> Seen | None:
    environ = (folder / "environ").read_bytes().split(b"\0")
    if mark not in environ:
        return None
    if (folder / "stat").read_bytes().rpartition(b")")[2].split()[0] in {b"Z", b"X"}:
        return None
    words = (folder / "cmdline").read_bytes().split(b"\0")
    prefix = f"{TOKEN_VARIABLE}=".encode()
    tokens = [entry[len(prefix) :].decode() for entry in environ if entry.startswith(prefix)]
    if tokens:
        role = "engine" if b"--uds" in words else "engine child"
        return Seen(pid=int(folder.name), role=role, token=tokens[0])
    after = words[words.index(b"-m") + 1] if b"-m" in words[:-1] else b""
    return Seen(pid=int(folder.name), role=MODULES.get(after, "other"))


def two_engines(mark: bytes) -> str | None:
    """Evidence that two engines live at one moment; None when there is at most one."""
    tokens: dict[str, int] = {}
    for seen in scan(mark):
        if seen.token:
            tokens.setdefault(seen.token, seen.pid)
    if len(tokens) < 2:
        return None
    # the first look takes a while, in which one may have ended and another begun
    alive = [pid for pid in tokens.values() if _lives(pid, mark)]
    alive = [pid for pid in alive if _lives(pid, mark)]
    return f"engines {', '.join(tokens)}, pids {alive}" if len(alive) > 1 else None


def _lives(pid: int, mark: bytes) -> bool:
    try:
        return _look(PROC / str(pid), mark) is not None
    except OSError:
        return False


def sample(seen: Seen, at: float) -> Sample | None:
    """Memory, descriptors and threads of a process; None when it has gone."""
    folder = PROC / str(seen.pid)
    try:
        resident = int((folder / "statm").read_text().split()[1])
        return Sample(
            at=at,
            role=seen.role,
            pid=seen.pid,
            rss_mib=resident * PAGE / MIB,
            descriptors=sum(1 for _ in (folder / "fd").iterdir()),
            threads=sum(1 for _ in (folder / "task").iterdir()),
        )
    except OSError:
        return None


def in_force(store: Path) -> str | None:
    """The profile that the store says is in force; None without one."""
    with contextlib.closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True)) as database:
        row = database.execute("SELECT profile FROM in_force ORDER BY id DESC LIMIT 1").fetchone()
    return None if row is None else str(row[0])


def running(metrics: str) -> float:
    """Requests that an engine works on or has waiting, by its Prometheus text."""
    names = ("vllm:num_requests_running{", "vllm:num_requests_waiting{")
    lines = (line for line in metrics.splitlines() if line.startswith(names))
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def counts(store: Path) -> dict[str, int]:
    """How much took place, by the store."""
    with contextlib.closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True)) as database:
        return {
            name: int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
            for name, table in COUNTED.items()
        }


def files_with(folder: Path, marker: bytes) -> tuple[list[str], int]:
    """Files in whose name or bytes the marker is, and how many were searched."""
    found, searched = [], 0
    for path in _files(folder):
        searched += 1
        with contextlib.suppress(OSError):
            if marker in path.read_bytes() or marker in path.name.encode():
                found.append(str(path.relative_to(folder)))
    return found, searched


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def tracebacks(log: str) -> dict[str, int]:
    """The last line of every traceback in a log, and how often it is there."""
    found: dict[str, int] = {}
    within = False
    for line in log.splitlines():
        if line.startswith("Traceback (most recent call last):"):
            within = True
        elif within and line and not line[0].isspace():
            found[line] = found.get(line, 0) + 1
            within = False
    return found
