"""tunerd as it is installed in a booted system, with the fake vLLM unless told otherwise."""

import contextlib
import http.client
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field

import pytest
from booted import ROOT, Booted
from stage import SETTLED, Table, UnixConnection, merged, toml, until

from service.demo.deepen import PAIR

HERE = "/opt/tunerd-test"  # inside
CONFIG = "/etc/tuner/tuner.toml"
CLIENT = str(ROOT / "tests/systemd/client.py")
PROBE = str(ROOT / "tests/systemd/probe.py")
CONTROL = "/run/tuner/control.sock"
ENGINES = ("tuner-engine@a.service", "tuner-engine@b.service")
SERVICES = ("tuner.service", "tunerd.service", "tuner-gateway.service", *ENGINES)
UNITS = (*SERVICES, "tuner-gateway.socket", "tuner-doctor.service")
SETTINGS: Table = {
    "state_dir": "/var/lib/tuner",
    "runtime_dir": "/run/tuner",
    "engine": {
        "model": "fake/model",
        "command": [sys.executable, str(ROOT / "tests/fake_vllm.py")],
        "start_timeout_s": 120.0,
        "stall_timeout_s": 120.0,
        "stop_timeout_s": 2.0,
        "env": {"FAKE_VLLM_FILE": f"{HERE}/script.json", "PYTHONPATH": f"{HERE}/site"},
    },
    "drafters": [{"name": "ngram", "method": "ngram"}],
    "gateway": {"listen": "127.0.0.1:8000", "drain_s": 60.0, "hold_s": 120.0},
    "tuning": {"auto": "off"},
}

# the CPU build of vLLM with the small model
REAL: Table = {
    **{key: value for key, value in SETTINGS.items() if key not in {"engine", "drafters"}},
    "engine": {
        "model": str(PAIR / "target-core"),
        "args": [
            "--served-model-name", "demo", "--max-model-len", "1024", "--enforce-eager",
            "--dtype", "float32",
        ],
        "start_timeout_s": 300.0,
        "stall_timeout_s": 300.0,
        "default": {"cpu_kv_gib": 1, "drafter": "ngram", "draft_length": 4, "live": True},
    },
    "drafters": [{"name": "ngram", "method": "ngram"}],
    "live": {"learn": False},
}  # fmt: skip


@dataclass
class Installed:
    """tunerd as a service of a booted system."""

    system: Booted
    settings: Table = field(default_factory=lambda: SETTINGS)

    def configure(self, **overrides) -> bool:
        """Write the configuration, and what the fake engine needs; whether it was another one."""
        package = self.system.path(f"{HERE}/site/vllm")
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
        self.script()
        config = self.system.path(CONFIG)
        config.parent.mkdir(parents=True, exist_ok=True)
        text = toml(merged(self.settings, overrides))
        changed = not config.exists() or config.read_text(encoding="utf-8") != text
        config.write_text(text, encoding="utf-8")
        return changed

    def script(self, text: str = "{}") -> None:
        """What the fake engine does from now on."""
        self.system.path(f"{HERE}/script.json").write_text(text, encoding="utf-8")

    def tuner(self, *words: str):
        """One command of the command line, as root."""
        return self.system.run(sys.executable, "-m", "tuner.cli", *words, timeout_s=240)

    def systemctl(self, *words: str):
        """One command of systemd, which has to succeed."""
        done = self.system.run("systemctl", *words, timeout_s=240)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done

    def install(self, *words: str) -> None:
        """Install and start; the doctor may find this machine wanting, and says so with 1."""
        if "--split" in words and self.system.run("getent", "passwd", "polkitd").returncode:
            pytest.skip("polkitd is not installed (package polkitd)")
        done = self.tuner("install", *words)
        assert done.returncode in {0, 1}, done.stderr
        assert "To begin" in done.stdout, done.stdout + done.stderr

    def restore(self) -> None:
        """Take back what a test has done to a shared installation, without a restart."""
        self.script()
        edited = False
        for unit in UNITS:
            folder = self.system.path(f"/run/systemd/system/{unit}.d")
            if folder.exists():
                shutil.rmtree(folder)
                edited = True
        self.system.run("systemctl", "kill", "-s", "CONT", *SERVICES)
        if edited:
            self.systemctl("daemon-reload")
        self.system.run("systemctl", "reset-failed")

    def remove(self) -> None:
        """Stop and remove everything, whatever a test has left."""
        self.restore()
        # it looks for its gateway for five seconds if that is stopped first
        self.system.run("systemctl", "stop", "tunerd.service")
        done = self.tuner("uninstall", "--purge")
        assert done.returncode == 0, done.stderr
        self.system.run("systemctl", "reset-failed")

    @property
    def there(self) -> bool:
        """Whether the one unit is installed."""
        return self.system.show("tuner.service", "LoadState") == "loaded"

    def ready(self) -> None:
        """The one unit, installed with this configuration and serving, whatever was before."""
        changed = self.configure()
        if not self.there:
            self.install()
        self.systemctl("restart" if changed else "start", "tuner.service")
        self.serves("tuner.service")

    def client(self, *words: str) -> str:
        """What the client inside answers."""
        done = self.system.run(sys.executable, CLIENT, *words, timeout_s=180)
        assert done.returncode == 0, done.stderr
        return done.stdout.removesuffix("\n")

    @contextlib.contextmanager
    def clients(self, *words: str):
        """The client inside while it runs; it ends by itself, when told, or with the block."""
        command = self.system.inside(sys.executable, CLIENT, *words)
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    @contextlib.contextmanager
    def load(self, clients: int, tokens: int):
        """Clients that stream all the time; afterwards how many requests had which outcome."""
        found: dict[str, int] = {}
        with self.clients("load", str(clients), str(tokens)) as process:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "begun"
            yield found
            told, _ = process.communicate(timeout=180)
            found.update(json.loads(told))

    def within(self, unit: str, *words: str):
        """What the probe answers as this unit, in its sandbox and in place of its program."""
        return json.loads(self.said_within(unit, PROBE, *words))

    def said_within(self, unit: str, *arguments: str, success: int = 0) -> str:
        """The same of any Python program; `success`: another exit status without a failure."""
        out = f"{HERE}/out"
        line = " ".join([sys.executable, *arguments])
        self.drop_in(
            unit,
            "[Service]\nType=oneshot\nRestart=no\nWatchdogSec=0\nTimeoutStartSec=300\n"
            f"SuccessExitStatus={success}\n"
            f"ExecStart=\nExecStart={line}\nStandardOutput=truncate:{out}\n"
            "StandardError=journal\n",
        )
        self.start(unit)
        return self.system.path(out).read_text()

    def start(self, unit: str) -> None:
        """Start a unit, or say what it has logged."""
        try:
            self.systemctl("start", unit)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.system.journal(unit)}") from error

    def drop_in(self, unit: str, text: str) -> None:
        """What `systemctl edit` writes, in /run: gone with the system or the test."""
        folder = self.system.path(f"/run/systemd/system/{unit}.d")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "test.conf").write_text(text, encoding="utf-8")
        self.systemctl("daemon-reload")

    def replaced(self, unit: str, pid: str) -> None:
        """Wait until systemd has started another main process."""
        until(
            lambda: self.system.show(unit, "MainPID") not in {"0", pid},
            f"another main process of {unit}",
        )

    def ask(self, method: str, path: str, body: Table | None = None) -> Table:
        """A question to the control API, which has to be answered with 200."""
        connection = UnixConnection(self.system.path(CONTROL))
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            answered = json.loads(response.read())
        assert response.status == 200, answered
        return answered

    def status(self) -> Table | None:
        """`GET /v1/status`; None when nobody answers."""
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            return self.ask("GET", "/v1/status")
        return None

    def serves(self, unit: str) -> Table:
        """Wait until an engine serves behind an open gate; the status."""

        def there() -> Table | None:
            assert self.system.show(unit, "ActiveState") != "failed", "it has failed"
            status = self.status()
            if status is None or status["mode"] not in SETTLED or status["gateway"] is None:
                return None
            return status if status["gateway"]["gate"] == "open" else None

        try:
            return until(there, f"{unit} serves", 240.0)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.system.journal(unit)}") from error

    def engine(self) -> tuple[str, ...]:
        """The engine's unit, the id of its run, and its main process; empty without one."""
        for unit in ENGINES:
            shown = [self.system.show(unit, name) for name in ("InvocationID", "MainPID")]
            if self.system.show(unit, "ActiveState") == "active":
                return unit, *shown
        return "", "", ""

    def members(self, unit: str) -> dict[int, str]:
        """The processes of a unit by pid, with when each began."""
        group = self.system.show(unit, "ControlGroup")
        script = f"cat $(find /sys/fs/cgroup{group} -name cgroup.procs)"
        pids = [int(word) for word in self.system.run("sh", "-c", script).stdout.split()]
        return {pid: began for pid in pids if (began := self.began(pid))}

    def began(self, pid: int) -> str:
        """When a process inside began, in ticks; empty when it is not there."""
        try:
            text = self.system.path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return ""
        state, *fields = text.rpartition(")")[2].split()
        return "" if state == "Z" else fields[18]
