"""The whole service on the fake vLLM: gateway, tunerd and engine as real processes.

Everything that a stage starts carries its own variable, so that what is left over can be found and
ended by pid, and nothing else is ever touched.
"""

import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from fake_engine import answer

from service.engine_record import EngineRecord

ROOT = Path(__file__).parent.parent
FAKE = Path(__file__).with_name("fake_vllm.py")
MARK = "TUNERD_TEST_STAGE"
# a starved machine is slow, not wrong
DEADLINE_S = 120.0
POLL_S = 0.05
SETTLED = frozenset({"serving", "probation"})

Table = dict[str, Any]


@dataclass
class Reply:
    """What a client received."""

    status: int
    text: str = ""  # generated
    whole: bool = False  # ended as HTTP and SSE say an answer ends
    error: Table | None = None

    def right(self, prompt: str, tokens: int) -> bool:
        """Whether it is exactly the answer to this prompt."""
        return self.status == 200 and self.whole and self.text == answer(prompt, tokens)


class UnixConnection(http.client.HTTPConnection):
    """HTTP on a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=DEADLINE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE_S)
        self.sock.connect(str(self._path))


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition, what="", deadline_s=DEADLINE_S):
    """Wait for a condition; its value."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s:g} s: {what or condition}")
        time.sleep(POLL_S)


def toml(table: Table, prefix: str = "") -> str:
    """A table as TOML; lists of tables become arrays of tables."""
    plain = [f"{k} = {json.dumps(v)}" for k, v in table.items() if not _below(v)]
    parts = ["\n".join([*([f"[{prefix}]"] if prefix else []), *plain])]
    for key, value in table.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, dict):
            parts.append(toml(value, name))
        elif _below(value):
            parts += [toml(item, f"[{name}]") for item in value]
    return "\n".join(parts) + "\n"


def _below(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    )


def merged(one: Table, other: Table) -> Table:
    """The first table with the values of the second."""
    both = dict(one)
    for key, value in other.items():
        old = both.get(key)
        both[key] = (
            merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return both


@dataclass
class Stage:
    """One `tuner run` in a folder of its own."""

    folder: Path
    overrides: Table = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)  # for everything that it starts
    code: str | None = None  # to run in place of `service.run`
    tree: dict[str, str] = field(default_factory=dict)  # source of the vLLM that is found
    headers: dict[str, str] = field(default_factory=dict)  # of the last answer

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def store(self) -> Path:
        return self.state / "tuner.sqlite3"

    @property
    def log(self) -> Path:
        return self.folder / "stderr.log"

    @property
    def record(self) -> EngineRecord | None:
        return EngineRecord.read(self.state / "engine.json")

    def settings(self) -> Table:
        """The configuration: no automatic decision unless a test asks for it."""
        return merged(
            {
                "state_dir": str(self.state),
                "runtime_dir": str(self.folder / "run"),
                "engine": {
                    "model": "fake/model",
                    "exclusive": False,  # tests run side by side
                    "command": [sys.executable, str(FAKE)],
                    "start_timeout_s": DEADLINE_S,
                    "stall_timeout_s": DEADLINE_S,
                    "stop_timeout_s": 2.0,
                    "env": {
                        "FAKE_VLLM_FILE": str(self.folder / "script.json"),
                        "PYTHONPATH": str(self.folder / "site"),
                    },
                },
                "drafters": [{"name": "ngram", "method": "ngram"}],
                "gateway": {
                    "listen": f"127.0.0.1:{self.port}",
                    "drain_s": 30.0,
                    "hold_s": DEADLINE_S,
                },
                "tuning": {
                    "auto": "off",
                    "trials": 3,
                    "warmup_s": 0.2,
                    "block_s": 0.5,
                    "blocks": 2,
                    "pairs": 2,
                    "space": {"draft_lengths": [3, 8]},
                },
                "policy": {
                    "interval_s": 0.2,
                    "window_s": 600.0,
                    "min_requests": 1_000_000,
                    "dwell_s": 0.1,
                    "switches_per_hour": 1000,
                    "patience": 0.001,
                    "plain_s": 600.0,
                },
            },
            self.overrides,
        )

    def write(self) -> Path:
        """The configuration file; and a vllm that can be found but not imported by mistake."""
        package = self.folder / "site" / "vllm"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
        for name, text in self.tree.items():
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).write_text(text, encoding="utf-8")
        path = self.folder / "tuner.toml"
        path.write_text(toml(self.settings()), encoding="utf-8")
        return path

    def script(self, **wanted: Any) -> None:
        """What the fake engine does from now on."""
        fresh = self.folder / "script.new"
        fresh.write_text(json.dumps(wanted), encoding="utf-8")
        fresh.replace(self.folder / "script.json")

    def environ(self) -> dict[str, str]:
        return {**os.environ, **self.environment, MARK: self.mark}

    def spawn(self, module: str = "service.run") -> "subprocess.Popen[bytes]":
        """Start without waiting."""
        program = ["-m", module] if self.code is None else ["-c", self.code]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *program, "--config", str(self.write())],
                cwd=ROOT,
                env=self.environ(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.process

    def start(self) -> "Stage":
        """Start, and wait until requests are answered."""
        self.spawn()
        self.settled()
        return self

    def exits(self, module: str = "service.run") -> tuple[int, str]:
        """Start something that is to end by itself: its status and what it said."""
        before = self.log.stat().st_size if self.log.exists() else 0
        status = self.spawn(module).wait(DEADLINE_S)
        return status, self.log.read_bytes()[before:].decode()

    def ask(
        self, method: str, path: str, body: Any = None, *, name: str = "control"
    ) -> tuple[int, Any]:
        """A question to the control API: HTTP status and JSON."""
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = UnixConnection(self.folder / "run" / f"{name}.sock")
        with contextlib.closing(connection):
            connection.request(method, path, raw)
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def status(self) -> Table | None:
        """`GET /v1/status`; None when nobody answers."""
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            return self.ask("GET", "/v1/status", name="status")[1]
        return None

    def becomes(self, what: str, condition) -> Table:
        """The status, once it is so."""

        def there() -> Table | None:
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"ended before {what}:\n{self.log.read_text()[-4000:]}")
            status = self.status()
            return status if status is not None and condition(status) else None

        try:
            return until(there, what)
        except AssertionError as error:
            now = json.dumps(self.status(), indent=1)
            raise AssertionError(f"{error}\n{now}\n{self.log.read_text()[-4000:]}") from error

    def settled(self, label: str | None = None, modes=SETTLED) -> Table:
        """The status, once an engine serves with an open gate, under the profile of this label."""
        return self.becomes(
            f"settled under {label}",
            lambda s: (
                s["mode"] in modes
                and (s["gateway"] or {}).get("gate") == "open"
                and s["engine"] is not None
                and s["engine"]["token"] == s["gateway"]["engine"]["token"]
                and label in {None, s["profile"]["label"]}
            ),
        )

    def profile(self, draft_length: int | str, workload: str = "greedy.balanced.single") -> str:
        """Import a profile; its id."""
        drafter = None if draft_length == "off" else "ngram"
        knobs = {"drafter": drafter, "draft_length": draft_length}
        given = {"knobs": knobs, "platform": "elsewhere", "workload": workload, "origin": "import"}
        status, answered = self.ask("POST", "/v1/profiles/import", {"profile": given})
        assert status == 200, answered
        return str(answered["id"])

    def use(self, profile: str) -> None:
        """Put a profile in force without waiting for it."""
        status, answered = self.ask("POST", "/v1/use", {"profile": profile})
        assert status == 200, answered

    def events(self) -> list[str]:
        """The history, newest first, as `kind: sentence`."""
        found = self.ask("GET", "/v1/history", name="status")[1]["events"]
        return [f"{event['kind']}: {event['sentence']}" for event in found]

    def complete(
        self, prompt: str = "hello", tokens: int = 8, *, application: str = "app", **more: Any
    ) -> Reply:
        """One completion, read to its end or to its breaking."""
        body = {"model": "fake", "prompt": prompt, "max_tokens": tokens, "temperature": 0, **more}
        headers = {"Content-Type": "application/json", "X-Tuner-Application": application}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/completions", json.dumps(body), headers)
            response = connection.getresponse()
            self.headers = dict(response.getheaders())
            try:
                raw, whole = response.read(), True
            except http.client.IncompleteRead as error:
                raw, whole = error.partial, False
        if not raw.startswith(b"data:"):
            found = json.loads(raw)
            text = "".join(choice["text"] for choice in found.get("choices", []))
            return Reply(response.status, text, whole, found.get("error"))
        lines = [line[5:].strip() for line in raw.decode().splitlines() if line[:5] == "data:"]
        events = [json.loads(line) for line in lines if line != "[DONE]"]
        return Reply(
            status=response.status,
            text="".join(c["text"] for event in events for c in event.get("choices", [])),
            whole=whole and lines[-1:] == ["[DONE]"],
            error=next((event["error"] for event in events if "error" in event), None),
        )

    def processes(self) -> list[psutil.Process]:
        """Every live process that this stage has started, directly or not."""
        needle = f"{MARK}={self.mark}".encode()
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                environ = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
                if needle in environ and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def named(self, *words: str) -> list[psutil.Process]:
        """Those whose command line has these words."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                line = process.cmdline()
                if all(word in line for word in words) and "service.child" not in line:
                    found.append(process)
        return found

    def engines(self) -> list[psutil.Process]:
        """The fake engines that run."""
        return self.named(str(FAKE), "--uds")

    def stop(self) -> int:
        """SIGTERM, as systemd or a terminal does; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)

    def clear(self) -> None:
        """End whatever still runs, by pid."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
        for _ in range(20):
            left = self.processes()
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            if not left:
                break
            time.sleep(POLL_S)
        if self.process is not None:
            self.process.wait()


@contextlib.contextmanager
def staged(**overrides: Any) -> Iterator[Stage]:
    """A stage that has not been started yet; nothing of it is left afterwards."""
    # a short path: a unix socket has 107 bytes
    folder = Path(tempfile.mkdtemp(prefix="tunerd-"))
    stage = Stage(folder=folder, overrides=overrides)
    try:
        yield stage
    finally:
        stage.clear()
        shutil.rmtree(folder, ignore_errors=True)
