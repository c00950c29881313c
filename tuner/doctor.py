"""Checks of machine, configuration and daemon before, or instead of, reading logs."""

import os
import resource
import shutil
import socket
import sqlite3
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp.http_parser

from profiles.errors import (
    ConfigError,
    DeniedError,
    StoreDamagedError,
    StoreError,
    TunerError,
    UnreachableError,
)
from profiles.store import Store, without_wal
from tuner import config_file, doctor_engine, doctor_gpu
from tuner.check import Check, fail, guarded, ok, warn
from tuner.client import ControlClient
from tuner.config import Config
from tuner.config_file import ConfigFileError
from tuner.paths import Paths
from tuner.starting import START, start_advice

PYTHON = (3, 11)
LOW_DISK_MIB = 2048
NO_DISK_MIB = 200
OPEN_FILES = 4096  # two per request in flight, and the gateway may hold 512
# where SQLite's header says how a file is written, and what it says with a write-ahead log
WRITE_VERSION, WAL_VERSION = 18, b"\x02"
DATABASE_COPY_MIB = 512  # larger stores are only checked for damage

# who may open each socket: status is for everybody, the gateway's own only for its user
SOCKET_MODES = {"status_socket": 0o666, "control_socket": 0o660, "gateway_socket": 0o600}


def run(explicit: Path | None, *, engine: bool = False) -> list[Check]:
    """Every check, in the order in which to repair things; or those of the engine's own user."""
    checks = [guarded("python", python), guarded("aiohttp", aiohttp_parser), open_files()]
    try:
        path = config_file.find(explicit)
        config = config_file.load(path)
    except ConfigError as error:
        problems = error.problems if isinstance(error, ConfigFileError) else (error.message,)
        sentences = [str(problem) for problem in problems]
        return [*checks, *(fail("config", sentence, error.hint) for sentence in sentences)]
    checks.append(ok("config", f"{path} is valid."))
    if engine:  # it sees neither state directory nor store
        of_gpu = (
            guarded("memory of the GPU", lambda: doctor_gpu.holders(None)),
            guarded("NVML", doctor_gpu.nvml),
        )
        return [*checks, *of_gpu, *doctor_engine.checks(config, Paths.of(config))]
    return [*checks, *of_config(config, start_advice(path, named=explicit is not None))]


def of_config(config: Config, advice: str = START) -> Iterator[Check]:
    """The checks that need a valid configuration."""
    paths = Paths.of(config)
    status, daemon_check = daemon(paths, advice)
    named: tuple[tuple[str, Callable[[], Check]], ...] = (
        ("state directory", lambda: state_directory(paths)),
        ("disk", lambda: disk(paths.state)),
        ("store", lambda: store(paths)),
        ("daemon", lambda: daemon_check),
        ("sockets", lambda: sockets(paths, running=status is not None)),
        ("port", lambda: port(config, status)),
        ("memory of the GPU", lambda: doctor_gpu.holders(_engine_pid(status))),
        ("NVML", doctor_gpu.nvml),
        ("search", sampler),
    )
    for name, check in named:
        yield guarded(name, check)
    yield from doctor_engine.checks(config, paths)


def sampler() -> Check:
    """Which model the search has: found out before a session, not at its first suggestion."""
    missing = [name for name in ("scipy", "torch") if find_spec(name) is None]
    if missing:
        return warn(
            "search",
            f"Optuna's Gaussian process needs {' and '.join(missing)}; the search uses TPE.",
            "`pip install 'tunerd[gp]'` in the environment of tunerd; it needs fewer trials.",
        )
    return ok("search", "Optuna's Gaussian process: scipy and torch are installed.")


def python() -> Check:
    """The interpreter of the daemon."""
    have = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] < PYTHON:
        return fail("python", f"Python {have} is too old.", "Install 3.11 or newer.")
    return ok("python", f"Python {have}.")


def aiohttp_parser() -> Check:
    """Whether requests are parsed in C: the Python parser is slower and has had more defects."""
    parser = aiohttp.http_parser
    if parser.HttpRequestParser is parser.HttpRequestParserPy:
        return warn(
            "aiohttp",
            "aiohttp parses requests in Python, several times slower than in C.",
            "Install a binary wheel of aiohttp and unset AIOHTTP_NO_EXTENSIONS.",
        )
    return ok("aiohttp", "aiohttp has its C parser.")


def open_files() -> Check:
    """The limit of open files: every request in flight needs two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES:
        hint = f"Start the daemon with `ulimit -n {OPEN_FILES}` (hard limit: {hard})."
        return warn("open files", f"Only {soft} open files are allowed.", hint)
    allowed = "any number of" if soft == resource.RLIM_INFINITY else str(soft)
    return ok("open files", f"{allowed} open files are allowed.")


def state_directory(paths: Paths) -> Check:
    """Whether this user can write where the daemon keeps its state."""
    name = "state directory"
    here = _existing(paths.state)
    if not here.is_dir():
        return fail(name, f"{here} is not a directory.", "Set another state_dir.")
    try:
        with tempfile.TemporaryFile(dir=here):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "Run this as the daemon's user, or set another state_dir."
        return fail(name, f"Cannot write in {here}: {reason}.", hint)
    made = "" if here == paths.state else f"; {paths.state} is made at the first start"
    return ok(name, f"{here} can be written{made}.")


def disk(state: Path) -> Check:
    """Room for logs, compile caches and the store."""
    free_mib = shutil.disk_usage(_existing(state)).free >> 20
    sentence = f"{free_mib} MiB are free for {state}."
    hint = "Delete old files below `log` and `cache` there."
    if free_mib < NO_DISK_MIB:
        return fail("disk", sentence, hint)
    return warn("disk", sentence, hint) if free_mib < LOW_DISK_MIB else ok("disk", sentence)


def store(paths: Paths) -> Check:
    """Whether this version could open the store, tried on a copy: a check must not migrate."""
    if not paths.store.exists():
        return ok("store", "There is none yet; the first start makes it.")
    try:
        size_mib = paths.store.stat().st_size >> 20
        # without a log file, `mode=ro` would leave one, owned by whoever runs this check
        live = Path(f"{paths.store}-wal").exists()
        mode = "mode=ro" if live else "immutable=1"
        source = sqlite3.connect(f"{paths.store.as_uri()}?{mode}", uri=True)
        try:
            verdict = source.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            if size_mib < DATABASE_COPY_MIB:
                _open_copy(source, paths.store)
        finally:
            source.close()
    except (sqlite3.Error, OSError) as error:
        damaged = type(error) is sqlite3.DatabaseError  # not one of its children, such as locked
        hint = StoreDamagedError.hint if damaged else StoreError.hint
        return fail("store", f"Cannot read {paths.store}: {error}.", hint)
    writable = os.access(paths.store, os.W_OK)
    if not writable:
        hint = "Run this as the daemon's user, or give it write permission."
        return fail("store", f"{paths.store} cannot be written by this user.", hint)
    with paths.store.open("rb") as file:
        header = file.read(WRITE_VERSION + 1)
    if header[WRITE_VERSION:] != WAL_VERSION:  # tunerd asks for it at every start
        hint = "Set state_dir to a directory on a local disk."
        return warn("store", without_wal(paths.store), hint)
    aside = sorted(paths.store.parent.glob(f"{paths.store.name}.damaged-*Z"))
    if aside:
        said = f"{paths.store} opens; a damaged one was moved to {aside[-1].name}."
        return warn("store", said, "Remove that file when nothing in it is missed.")
    return ok("store", f"{paths.store} opens ({size_mib} MiB).")


def _open_copy(source: sqlite3.Connection, original: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="tuner-doctor-") as folder:
        copy = Path(folder) / "tuner.sqlite3"
        target = sqlite3.connect(copy)
        try:
            source.backup(target)
        finally:
            target.close()
        try:
            Store.open(copy, now=time.time()).close()
        except StoreError as error:
            error.message = error.message.replace(str(copy), str(original))
            raise


def daemon(paths: Paths, advice: str = START) -> tuple[Mapping[str, Any] | None, Check]:
    """The daemon's status, and whether it answers."""
    try:
        status = ControlClient(paths, advice=advice).get("/v1/status")
    except (UnreachableError, DeniedError) as error:
        return None, warn("daemon", error.message, error.hint)
    except TunerError as error:
        return None, fail("daemon", error.message, error.hint)
    sentence = f"pid {status.get('pid')}, {status.get('mode')}: {status.get('sentence')}"
    return status, ok("daemon", sentence)


def sockets(paths: Paths, *, running: bool) -> Check:
    """Sockets and who may open them."""
    if not running:
        return ok("sockets", f"No daemon; they will be in {paths.run}.")
    wrong = []
    for name, allowed in SOCKET_MODES.items():
        path: Path = getattr(paths, name)
        if not path.exists():
            wrong.append(f"{path.name} is missing")
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & ~allowed:
            wrong.append(
                f"{path.name} is open to more users ({mode:o}) than it should ({allowed:o})"
            )
    if wrong:
        return fail("sockets", f"In {paths.run}: {'; '.join(wrong)}.", "Restart the daemon.")
    return ok("sockets", f"All are in {paths.run}.")


def port(config: Config, status: Mapping[str, Any] | None) -> Check:
    """Whether the gateway's port is free, or ours already."""
    host, number = config.gateway.host_port
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(kind, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, number))
        except OSError as error:
            ours = status is not None and f":{number}/" in f"{status.get('listen')}/"
            if ours:
                return ok("port", f"{config.gateway.listen} is held by our gateway.")
            return fail(
                "port",
                f"Cannot listen on {config.gateway.listen}: {error.strerror}.",
                "Stop what holds it (`ss -ltnp` names it) or set another gateway.listen.",
            )
    return ok("port", f"{config.gateway.listen} is free.")


def _engine_pid(status: Mapping[str, Any] | None) -> int | None:
    engine = (status or {}).get("engine")
    pid = engine.get("pid") if isinstance(engine, Mapping) else None
    return pid if isinstance(pid, int) else None


def _existing(path: Path) -> Path:
    """The path itself or its nearest parent that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())
