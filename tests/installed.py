"""tunerd as it is installed in a booted system, with the fake vLLM as its engine."""

import contextlib
import shutil
import subprocess
import sys
from dataclasses import dataclass

from booted import ROOT, Booted
from stage import Table, merged, toml, until

HERE = "/opt/tunerd-test"  # inside
CONFIG = "/etc/tuner/tuner.toml"
CLIENT = str(ROOT / "tests/systemd/client.py")
ENGINES = ("tuner-engine@a.service", "tuner-engine@b.service")
UNITS = ("tuner.service", "tunerd.service", "tuner-gateway.service", *ENGINES)
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


@dataclass
class Installed:
    """tunerd as a service of a booted system."""

    system: Booted

    def configure(self, **overrides) -> None:
        """Write the configuration, and what the fake engine needs."""
        package = self.system.path(f"{HERE}/site/vllm")
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
        self.script()
        config = self.system.path(CONFIG)
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(toml(merged(SETTINGS, overrides)), encoding="utf-8")

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
        done = self.tuner("install", *words)
        assert done.returncode in {0, 1}, done.stderr
        assert "To begin" in done.stdout, done.stdout + done.stderr

    def remove(self) -> None:
        """Stop and remove everything, whatever a test has left."""
        for unit in UNITS:
            self.system.run("systemctl", "kill", "-s", "CONT", unit)
            shutil.rmtree(self.system.path(f"/run/systemd/system/{unit}.d"), ignore_errors=True)
        done = self.tuner("uninstall", "--purge")
        assert done.returncode == 0, done.stderr
        self.system.run("systemctl", "reset-failed")

    def client(self, *words: str) -> str:
        """What the client inside answers."""
        done = self.system.run(sys.executable, CLIENT, *words, timeout_s=180)
        assert done.returncode == 0, done.stderr
        return done.stdout.removesuffix("\n")

    @contextlib.contextmanager
    def clients(self, *words: str):
        """The client inside while it runs; it ends by itself, or with the block."""
        command = self.system.inside(sys.executable, CLIENT, *words)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

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

    def serves(self, unit: str) -> str:
        """Wait until the gateway is open; the status text of the unit."""

        def there() -> str:
            assert self.system.show(unit, "ActiveState") != "failed", self.system.journal(unit)
            text = self.system.show(unit, "StatusText")
            return text if "gate open" in text else ""

        try:
            return until(there, f"{unit} serves")
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
