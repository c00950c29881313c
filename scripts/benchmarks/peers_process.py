"""Running another project's tool: in a session of its own, ended by its group, looked after."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

MARK = "TUNERD_BENCH_MARK"  # in the environment of a tool and of all that it starts
# without it setproctitle, which vLLM uses, overwrites /proc/PID/environ and hides the mark
KEEP_ENVIRON = {"SPT_NOENV": "1"}
GRACE_S = 10.0  # for processes that are already ending


@dataclass(kw_only=True)
class Watch:
    """What was seen of a tool from outside."""

    mark: str
    env: dict[str, str] = field(default_factory=dict)  # to start the tool with
    wall_s: float = 0.0
    left_behind: int = 0


@contextlib.contextmanager
def watched(env: Mapping[str, str]) -> Iterator[Watch]:
    """Times a tool; afterwards counts the processes that it left and ends exactly those."""
    mark = secrets.token_hex(8)
    watch = Watch(mark=mark, env={**env, **KEEP_ENVIRON, MARK: mark})
    began = time.monotonic()
    try:
        yield watch
    finally:
        watch.wall_s = time.monotonic() - began
        watch.left_behind = end_survivors(mark)


def run(command: Sequence[str], env: Mapping[str, str], *, log: Path, limit_s: float) -> int:
    """Run a command to its end, output in a file; its exit status.

    Raises:
        SystemExit: it took longer than the limit; its group was ended.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(command),
            env=dict(env),
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"Cannot wait longer than {limit_s:g} s for it; see {log}.") from None
    finally:
        end_group(process)


def end_group(process: subprocess.Popen[bytes], *, patience_s: float = 15.0) -> None:
    """SIGTERM to the group of a process that still runs, then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)


def survivors(mark: str) -> list[psutil.Process]:
    """Live processes that carry the mark in their environment."""
    needle, found = f"{MARK}={mark}".encode(), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            environ = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
            if needle in environ:
                found.append(process)
    return found


def end_survivors(mark: str) -> int:
    """End what a tool left behind; how many processes that were."""
    deadline = time.monotonic() + GRACE_S
    while (left := survivors(mark)) and time.monotonic() < deadline:
        time.sleep(0.5)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=GRACE_S)
    return len(left)


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int) -> bool:
    """Whether nothing answers on a port of this host."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) != 0
