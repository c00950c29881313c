"""The frame of the command line: output, errors, exit codes."""

import json
import os
import signal
import subprocess
import sys
import time

import cli_harness
import pytest
from cli_harness import (
    ENVIRONMENT,
    ROOT,
    STATUS,
    command_line,
    tuner,
)

from tuner import doctor
from tuner.check import fail, ok, warn
from tuner.cli import (
    daemon_commands,
)
from tuner.version import version

config, daemon = cli_harness.config, cli_harness.daemon  # fixtures


@pytest.mark.parametrize("arguments", [("status", "--json"), ("--json", "status")])
def test_json_before_and_behind_the_command(daemon, arguments):
    """--json is taken in both places and prints the daemon's answer."""
    daemon.on("GET", "/v1/status", STATUS)

    assert STATUS == json.loads(tuner(*arguments).stdout)


COMMANDS = [
    ("status",),
    ("trials",),
    ("history",),
    ("explain",),
    ("pins",),
    ("profiles", "list"),
    ("profiles", "show", "x"),
    ("profiles", "export", "x"),
    ("pin", "a", "b"),
    ("unpin", "a"),
    ("use", "auto"),
    ("tune",),
    ("tune", "--stop"),
    ("stop",),
    ("config", "show", "--running"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_daemon_down(config, command):
    """F85: every command without its daemon exits with 3 at once and names the next command."""
    begun = time.monotonic()
    result = tuner("--config", config, *command)

    assert 3 == result.exit_code
    assert f"tuner --config {config} run" in result.stderr
    assert "" == result.stdout
    assert time.monotonic() - begun < 5  # nothing was waited for; a busy machine is slow


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_daemon_down_as_json(config, command):
    """With --json an error is data on stdout too."""
    result = tuner(*command, "--json")

    assert 3 == result.exit_code
    assert 3 == json.loads(result.stdout)["error"]["exit_code"]


@pytest.mark.parametrize(("code", "status"), [(4, 403), (1, 404), (1, 409), (2, 400), (74, 500)])
def test_exit_code_of_the_daemons_refusal(daemon, code, status):
    """What the daemon refuses has the exit code that it named."""
    daemon.error("POST", "/v1/pins", "It says no.", code, status)
    result = tuner("pin", "app", "dead")

    assert code == result.exit_code
    assert "tuner: It says no.\n  Do this.\n" == result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such",),
        ("status", "--no-such"),
        ("pin", "x"),
        ("trials", "--limit", "0"),
        ("--config",),
    ],
)
def test_usage(config, arguments):
    """A wrong command line exits with 2."""
    assert 2 == tuner(*arguments).exit_code


def test_usage_as_json(config):
    """A wrong command line is data too with --json."""
    result = tuner("no-such", "--json")

    assert 2 == result.exit_code
    assert "no-such" in json.loads(result.stdout)["error"]["message"]


def test_wrong_configuration(config):
    """A wrong file is exit 78, with every problem."""
    config.write_text("[engine]\nmodle = 1\n")
    result = tuner("config", "check")
    data = tuner("config", "check", "--json")

    assert 78 == result.exit_code
    assert "engine.modle is not a known key; the nearest is engine.model." in result.stderr
    assert 78 == data.exit_code
    assert ["engine.model", "engine.modle"] == [
        p["key"] for p in json.loads(data.stdout)["problems"]
    ]


def test_malformed_configuration_reaches_every_command(config):
    """A file that is no TOML stops every command that needs it with 78."""
    config.write_text("[engine")
    for command in ("status", "run", "pins"):
        result = tuner(command)

        assert 78 == result.exit_code
        assert "line 1: column 8: not valid TOML" in result.stderr


def test_config_check(config):
    """A good file is one sentence, exit 0."""
    assert f"{config} is valid.\n" == tuner("config", "check").stdout
    assert json.loads(tuner("config", "check", "--json").stdout)["ok"]


def test_config_show(config):
    """Settings of the file and defaults are shown, also as JSON."""
    shown = tuner("config", "show").stdout.splitlines()
    data = json.loads(tuner("config", "show", "--json").stdout)

    assert 'engine.model = "org/name"' in shown
    assert "tuning.trials = 12  # default" in shown
    assert 12 == data["config"]["tuning"]["trials"]


def test_config_of_the_daemon(daemon):
    """--running asks the daemon, which may have been started before the file was edited."""
    daemon.on("GET", "/v1/config", {"v": 1, "config": {"tuning": {"trials": 7}}})

    assert "tuning.trials = 7\n" == tuner("config", "show", "--running").stdout


def test_run_becomes_the_service(config, monkeypatch):
    """`tuner run` checks the file, then is replaced by the service."""
    became = []
    monkeypatch.setattr(daemon_commands.os, "execv", lambda *what: became.append(what))
    tuner("run", "--leave-engine")
    tail = ["-m", "service.run", "--config", str(config), "--leave-engine"]

    assert [sys.executable] == [program for program, _ in became]
    assert tail == became[0][1][-5:]


def test_service_is_not_looked_for_in_the_working_directory(config, monkeypatch, tmp_path):
    """A folder called `service` where the user stands is not run."""
    became = []
    monkeypatch.setattr(daemon_commands.os, "execv", lambda *what: became.append(what[1]))
    monkeypatch.chdir(tmp_path)
    tuner("run")
    monkeypatch.chdir(ROOT)
    tuner("run")

    assert [True, False] == ["-P" in arguments for arguments in became]


def test_run_with_a_wrong_file_starts_nothing(config, monkeypatch):
    """A wrong file is refused before anything is started."""
    monkeypatch.setattr(daemon_commands.os, "execv", lambda *_: pytest.fail("started"))
    config.write_text("[engine]\n")

    assert 78 == tuner("run").exit_code


def test_demo_passes_options_through(monkeypatch):
    """Options that `tuner` does not know go to the demo."""
    became = []
    monkeypatch.setattr(daemon_commands.os, "execv", lambda *what: became.append(what[1]))
    tuner("demo", "--quick", "--port", "8001", "--json")

    assert ["-m", "service.demo", "--quick", "--json", "--port", "8001"] == became[0][-6:]


def test_doctor(config, monkeypatch):
    """A failed check is exit 1, with what to do below it; a warning is not."""
    found = [ok("a", "Fine."), warn("b", "Look."), fail("c", "Broken.", "Mend it.")]
    monkeypatch.setattr(doctor, "run", lambda _, **__: found)
    result = tuner("doctor")

    assert 1 == result.exit_code
    assert "ok    a: Fine.\nwarn  b: Look.\nfail  c: Broken.\n      → Mend it.\n" == result.stdout
    data = json.loads(tuner("doctor", "--json").stdout)
    assert (False, ["ok", "warn", "fail"]) == (data["ok"], [c["state"] for c in data["checks"]])
    found.pop()
    assert 0 == tuner("doctor").exit_code


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell):
    """Each shell gets a script that completes `tuner`."""
    assert "_TUNER_COMPLETE" in tuner("completion", shell).stdout
    named = tuner("completion", "--json", env={"SHELL": f"/bin/{shell}"})
    assert shell == json.loads(named.stdout)["shell"]


def test_completion_of_another_shell():
    """A shell that click does not know is a usage error that lists those it knows."""
    result = tuner("completion", env={"SHELL": "/bin/tcsh"})

    assert 2 == result.exit_code
    assert "bash, zsh, fish" in result.stderr


def test_version():
    """--version names the program and its version."""
    assert f"tuner, version {version()}\n" == tuner("--version").stdout


def test_reader_that_goes_away(daemon, config):
    """F86: `tuner trials --json | head -c1` ends with 141 and without a traceback."""
    many = {"v": 1, "trials": [{"id": n, "label": "x" * 100} for n in range(5000)]}
    daemon.on("GET", "/v1/trials?limit=50", many)
    with subprocess.Popen(
        command_line("trials", "--json"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT | {"TUNER_CONFIG": str(config)},
    ) as process:
        assert b"{" == os.read(process.stdout.fileno(), 1)
        process.stdout.close()
        said = process.stderr.read()

    assert (141, b"") == (process.returncode, said)


def test_interrupt(daemon, config):
    """F87: Ctrl-C ends a command with 130 and without a traceback."""
    daemon.on("GET", "/v1/status", STATUS)
    with subprocess.Popen(
        command_line("status", "--watch", "--json"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT | {"TUNER_CONFIG": str(config)},
        # a shell that runs the tests in the background has SIGINT ignored, and children inherit it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()

    assert 130 == process.returncode
    assert b"Traceback" not in said


def test_terminal_without_unicode(daemon, config):
    """F86: letters that the encoding does not have are escaped, not a traceback."""
    daemon.on("GET", "/v1/status", STATUS)
    result = subprocess.run(
        command_line("status"),
        cwd=ROOT,
        capture_output=True,
        env=ENVIRONMENT
        | {"TUNER_CONFIG": str(config), "PYTHONIOENCODING": "latin-1", "LC_ALL": "C"},
        check=False,
    )

    assert (0, b"") == (result.returncode, result.stderr)
    assert rb"nightly \u2192 off" in result.stdout
