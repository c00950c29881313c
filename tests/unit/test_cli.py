"""The command line against a scripted daemon."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_control import FakeControl

from profiles.classes import LOADS
from profiles.knobs import Knobs
from profiles.profile import Evidence, Origin, Profile
from tuner.cli import (
    daemon_commands,
    doctor_command,
    main,
    render_status,
    status_commands,
    text,
    tune_commands,
)
from tuner.cli import app as frame
from tuner.check import fail, ok, warn
from tuner.version import version

ROOT = Path(__file__).resolve().parents[2]
NOW = time.time()
PROFILE = Profile(
    knobs=Knobs(drafter="ngram", draft_length=8, cpu_kv_gib=4),
    platform="f00d",
    workload="greedy.balanced.low",
    origin=Origin.SEARCH,
    evidence=Evidence(
        tok_s=578.0,
        default_tok_s=231.0,
        gain=1.5,
        gain_low=1.42,
        gain_high=1.58,
        pairs=3,
        trials=12,
        sentence="3 pairs of starts: +150 %.",
    ),
    created_at=NOW,
)
STATUS = {
    "v": 1,
    "version": version(),
    "pid": 12,
    "mode": "serving",
    "sentence": "Serving with ngram k=8.",
    "since": NOW,
    "uptime_s": 273_600.0,
    "listen": "http://127.0.0.1:8000/v1",
    "engine": {
        "pid": 99,
        "token": "t",
        "label": "ngram k=8",
        "vllm_version": "0.32.0",
        "model": "/models/pair",
        "state": "running",
    },
    "profile": {
        "id": PROFILE.id,
        "label": "ngram k=8",
        "workload": PROFILE.workload,
        "origin": "search",
        "since": NOW,
        "why": "greedy.balanced.low is 83 % of tokens in the last 5 min",
        "evidence": PROFILE.evidence.model_dump(),
    },
    "traffic": {
        "window_s": 300.0,
        "requests": 413,
        "tok_s_now": 561.2,
        "classes": [
            {
                "workload": "greedy.balanced.low",
                "share": 0.83,
                "requests": 412,
                "profile": PROFILE.id,
                "state": "promoted 2 d ago",
                "gain": 1.5,
                "gain_low": 1.42,
                "gain_high": 1.58,
                "default_tok_s": 231.0,
                "tuned_tok_s": 578.0,
            },
            {
                "workload": "sampled.long-out.single",
                "share": 0.17,
                "requests": 1,
                "profile": None,
                "state": "not tuned yet",
                "gain": None,
                "gain_low": None,
                "gain_high": None,
            },
        ],
    },
    "telemetry": dict.fromkeys(
        ("power_w", "temperature_c", "gpu_memory_mib", "host_cpu", "host_memory_mib")
    ),
    "gateway": {
        "gate": "open",
        "in_flight": 2,
        "held": 0,
        "plain_waiting": 0,
        "counters": {"answered": 1234, "failed": 0, "held_s_max": 37.9},
    },
    "pins": [{"application": "nightly", "profile": "77c000112233", "label": "off"}],
    "tuning": None,
    "events": [{"at": NOW, "kind": "switch", "sentence": "default → ngram k=8"}],
}
PAGE = """\
tunerd VERSION · serving · up 3 d 4 h · http://127.0.0.1:8000/v1
now      Serving with ngram k=8.
engine   pair · ngram k=8 · vLLM 0.32.0 · power n/a · temperature n/a · pid 99
         GPU memory n/a · host CPU n/a · host memory n/a
profile  greedy.balanced.low #IDENTITY · ngram k=8 · since CLOCK
         because greedy.balanced.low is 83 % of tokens in the last 5 min
         3 pairs of starts: +150 %.
         561 tok/s now · measured: default 231 tok/s, profile 578 tok/s, +150 % [142, 158]
classes  greedy.balanced.low       83 %   412 requests   +150 % [142, 158]   promoted 2 d ago
         sampled.long-out.single   17 %      1 request                 n/a   not tuned yet
pins     nightly → off #77c00011
tuning   idle
gateway  open · 2 in flight · 0 held · 1 234 answered · 0 failed · longest hold 37.9 s
events   CLOCK  default → ngram k=8
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A configuration whose daemon is in a short folder."""
    path = tmp_path / "tuner.toml"
    path.write_text(
        'state_dir = "s"\n[engine]\nmodel = "org/name"\n'
        '[[drafters]]\nname = "ngram"\nmethod = "ngram"\n'
    )
    monkeypatch.setenv("TUNER_CONFIG", str(path))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return path


@pytest.fixture
def daemon(config):
    """A scripted daemon at that configuration."""
    with FakeControl().serving(config.parent / "s" / "run") as script:
        yield script


def tuner(*arguments, **more):
    """What a command answers."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], **more)


def test_status_page(daemon):
    """The page shows all that is known, `n/a` for sensors that are not there, and no zero."""
    daemon.on("GET", "/v1/status", STATUS)
    result = tuner("status")
    clock = time.strftime("%H:%M", time.localtime(NOW))
    expected = PAGE.replace("VERSION", version()).replace("CLOCK", clock)

    assert expected.replace("IDENTITY", PROFILE.id[:8]) == result.stdout
    assert "" == result.stderr
    assert 0 == result.exit_code


@pytest.mark.parametrize("arguments", [("status", "--json"), ("--json", "status")])
def test_json_before_and_behind_the_command(daemon, arguments):
    """--json is taken in both places and prints the daemon's answer."""
    daemon.on("GET", "/v1/status", STATUS)

    assert STATUS == json.loads(tuner(*arguments).stdout)


def test_status_of_a_daemon_that_says_nothing(daemon):
    """F89: missing values are n/a; an older daemon breaks no page."""
    daemon.on("GET", "/v1/status", {"v": 1})
    result = tuner("status")

    assert 0 == result.exit_code
    assert "tunerd n/a · n/a · up n/a · n/a\n" in result.stdout
    assert "engine   none\n" in result.stdout
    assert "gateway  does not answer\n" in result.stdout


def test_status_notes_another_version(daemon):
    """F89: a daemon of another version is mentioned on stderr, beside the answer."""
    daemon.on("GET", "/v1/status", {**STATUS, "version": "9.9"})

    assert "The daemon is version 9.9" in tuner("status").stderr


@pytest.mark.parametrize("width", [20, 40, 59, 80, 200])
def test_every_width(daemon, monkeypatch, width):
    """F86: no line is longer than the terminal."""
    monkeypatch.setenv("COLUMNS", str(width))
    daemon.on("GET", "/v1/status", STATUS)
    daemon.on("GET", "/v1/trials?limit=50", TRIALS)
    daemon.on("GET", "/v1/profiles", PROFILES)
    for command in (("status",), ("trials",), ("profiles", "list")):
        result = tuner(*command)

        assert 0 == result.exit_code
        assert [] == [line for line in result.stdout.splitlines() if len(line) > width]


def test_names_draw_nothing(daemon):
    """F88: control characters, markup and line breaks of others are shown, not obeyed."""
    evil = "a\x1b[31m\n\u202e[bold]{{x}}'; DROP"
    pins = [{"application": evil, "profile": "77c0\x07", "label": "off"}]
    daemon.on("GET", "/v1/status", {**STATUS, "pins": pins, "sentence": evil})
    daemon.on("GET", "/v1/pins", {"v": 1, "pins": pins})
    for command in ("status", "pins"):
        result = tuner(command, color=True)

        assert r"a\x1b[31m\n\u202e[bold]{{x}}'; DROP" in result.stdout
        assert not set("\x1b\x07\u202e") & set(result.stdout)


def test_status_while_tuning(daemon):
    """A search shows its trial and what leads so far."""
    tuning = {
        "active": True,
        "sentence": "trying ngram k=4",
        "phase": "search",
        "trial": 3,
        "trials": 12,
        "best": {"greedy.balanced.low": {"label": "ngram k=8", "tok_s": 570.0}},
    }
    daemon.on("GET", "/v1/status", {**STATUS, "tuning": tuning})

    assert (
        "trial 3 of 12 · search · trying ngram k=4 · "
        "best for greedy.balanced.low so far ngram k=8, 570 tok/s"
    ) == render_status.tuning(tuning)
    assert "tuning   trial 3 of 12" in tuner("status").stdout


def test_watch_goes_on_while_the_daemon_restarts(daemon, monkeypatch):
    """--watch prints again and again, says when the daemon is away, and ends with 130."""
    daemon.on("GET", "/v1/status", STATUS)
    seen = []

    def sleep(seconds):
        seen.append(seconds)
        if len(seen) == 2:
            raise KeyboardInterrupt

    def unreachable(self, path):
        raise status_commands.UnreachableError("No daemon listens.")

    monkeypatch.setattr(status_commands.time, "sleep", sleep)
    first = frame.Session.client

    def client(session):
        found = first(session)
        answer = found.get("/v1/status")
        answers = [answer]
        found.get = lambda path: answers.pop() if answers else unreachable(found, path)
        return found

    monkeypatch.setattr(frame.Session, "client", client)
    result = tuner("status", "--watch", "--json")

    assert 130 == result.exit_code
    assert ["serving", "unreachable"] == [
        json.loads(line)["mode"] for line in result.stdout.splitlines()
    ]


TRIALS = {
    "v": 1,
    "trials": [
        {
            "id": 2,
            "opened_at": NOW,
            "label": "ngram k=8",
            "status": "done",
            "measurements": [
                {
                    "workload": "greedy.balanced.low",
                    "phase": "search",
                    "tok_s": 570.25,
                    "acceptance_length": 3.456,
                    "invalid": None,
                    "failure": None,
                },
                {"workload": "sampled.long-out.low", "tok_s": None, "invalid": "load fell"},
            ],
        },
        {
            "id": 1,
            "opened_at": NOW,
            "knobs": {"draft_length": "off", "max_num_seqs": 64},
            "status": "failed",
            "failure": {"kind": "no_kv_memory", "sentence": "No room for KV."},
            "measurements": [],
        },
    ],
}
PROFILES = {
    "v": 1,
    "platform": "f00d",
    "in_force": PROFILE.id,
    "profiles": [
        {"id": PROFILE.id, **PROFILE.model_dump(mode="json"), "label": "ngram k=8, kv 4 GiB"},
        {"id": "beef", "platform": "other", "knobs": {"draft_length": "off"}},
    ],
}


def test_trials(daemon):
    """Every engine start has its rate per class, or the reason why it has none."""
    daemon.on("GET", "/v1/trials?limit=50", TRIALS)
    rows = [line.split() for line in tuner("trials").stdout.splitlines()]

    assert ["trial", "when", "knobs", "class", "rate", "accepted", "remark"] == rows[0]
    assert "2 ngram k=8 greedy.balanced.low 570.2 tok/s 3.46 search".split() == [
        rows[1][0],
        *rows[1][2:],
    ]
    assert ["n/a", "n/a", "load", "fell"] == rows[2][-4:]
    assert "no_kv_memory: No room for KV." in tuner("trials").stdout
    assert "off, seqs 64" in tuner("trials").stdout
    assert TRIALS == json.loads(tuner("trials", "--json").stdout)


def test_trials_on_a_narrow_terminal(daemon, monkeypatch):
    """F86: 40 columns show blocks instead of a torn table."""
    monkeypatch.setenv("COLUMNS", "40")
    daemon.on("GET", "/v1/trials?limit=50", TRIALS)

    assert "rate      570.2 tok/s\n" in tuner("trials").stdout


def test_history(daemon):
    """Events have their time, kind and sentence."""
    answer = {"v": 1, "events": [{"at": 0.0, "kind": "switch", "sentence": "to ngram"}]}
    daemon.on("GET", "/v1/history?limit=5", answer)
    expected = time.strftime("%Y-%m-%d %H:%M", time.localtime(0)) + "  switch  to ngram"

    assert expected == tuner("history", "--limit", 5).stdout.splitlines()[1].rstrip()
    assert answer == json.loads(tuner("history", "--limit", 5, "--json").stdout)


@pytest.mark.parametrize(
    ("command", "path", "key", "sentence"),
    [
        (("trials",), "/v1/trials?limit=50", "trials", "No trial yet"),
        (("history",), "/v1/history?limit=50", "events", "Nothing has happened yet."),
        (("pins",), "/v1/pins", "pins", "No application is pinned"),
        (("profiles", "list"), "/v1/profiles", "profiles", "No profile yet"),
    ],
)
def test_empty_lists_say_so(daemon, command, path, key, sentence):
    """An empty list is a sentence with the next command, not an empty screen."""
    daemon.on("GET", path, {"v": 1, key: []})

    assert tuner(*command).stdout.startswith(sentence)


def test_explain(daemon):
    """Each class has its decision and the sentence that proves it."""
    daemon.on("GET", "/v1/status", STATUS)
    daemon.on("GET", "/v1/profiles", PROFILES)
    shown = tuner("explain", "greedy").stdout

    assert "greedy.balanced.low  promoted 2 d ago\n" in shown
    assert "3 pairs of starts: +150 %.\n" in shown
    assert "default 231.0 tok/s, tuned 578.0 tok/s, +150 % [142, 158]\n" in shown
    assert "sampled" not in shown
    data = json.loads(tuner("explain", "--json").stdout)
    assert ["greedy.balanced.low", "sampled.long-out.single"] == [
        item["workload"] for item in data["classes"]
    ]


def test_explain_a_class_without_traffic(daemon):
    """A class that nobody sends is a negative answer, exit 1."""
    daemon.on("GET", "/v1/status", STATUS)
    daemon.on("GET", "/v1/profiles", PROFILES)
    result = tuner("explain", "structured")

    assert 1 == result.exit_code
    assert "No traffic of class 'structured'" in result.stderr


def test_profiles_list(daemon):
    """What is in force and what is of another machine can be told apart."""
    daemon.on("GET", "/v1/profiles", PROFILES)
    lines = tuner("profiles", "list", env={"COLUMNS": "140"}).stdout.splitlines()

    assert lines[1].startswith(f"#{PROFILE.id[:8]}  greedy.balanced.low  ngram k=8, kv 4 GiB")
    assert lines[1].endswith("in force")
    assert lines[2].endswith("of another platform")


def test_profiles_show(daemon):
    """One profile is shown with its evidence."""
    answer = {"v": 1, "id": PROFILE.id, "profile": PROFILE.model_dump(mode="json")}
    daemon.on("GET", f"/v1/profiles/{PROFILE.id}", answer)
    shown = tuner("profiles", "show", PROFILE.id).stdout

    assert f"id          {PROFILE.id}\n" in shown
    assert "gain        +150 % [142, 158] at 0.95, 3 start pairs\n" in shown
    assert "energy      n/a\n" in shown
    assert answer == json.loads(tuner("profiles", "show", PROFILE.id, "--json").stdout)


@pytest.fixture
def exported(daemon):
    """A daemon that knows the profile, with additions of its own for display."""
    shown = {**PROFILE.model_dump(mode="json"), "label": "x"}
    daemon.on("GET", f"/v1/profiles/{PROFILE.id[:4]}", {"v": 1, "profile": shown})
    return daemon


def test_export_and_import_are_inverse(exported, tmp_path):
    """What was exported is what the other daemon is given."""
    file = tmp_path / "p.json"
    file.write_text(tuner("profiles", "export", PROFILE.id[:4]).stdout)
    exported.on("POST", "/v1/profiles/import", {"v": 1, "id": "new", "sentence": "imported as new"})
    result = tuner("profiles", "import", file)

    assert "imported as new\n" == result.stdout
    assert PROFILE == Profile.model_validate(exported.asked[-1][3]["profile"])
    again = tuner("profiles", "import", "-", "--json", input=file.read_text())
    assert "new" == json.loads(again.stdout)["id"]


def test_export_as_vllm_arguments(exported):
    """The profile can be used without tunerd: variables and arguments, quoted for a shell."""
    speculative = '{"method":"ngram","num_speculative_tokens":8}'
    plain = tuner("profiles", "export", PROFILE.id[:4], "--format", "vllm-args")
    data = tuner("profiles", "export", PROFILE.id[:4], "--format", "vllm-args", "--json")

    assert f"VLLM_CPU_KVCACHE_SPACE=4 --speculative-config '{speculative}'\n" == plain.stdout
    assert ["--speculative-config", speculative] == json.loads(data.stdout)["args"]
    assert {"VLLM_CPU_KVCACHE_SPACE": "4"} == json.loads(data.stdout)["env"]


def test_export_with_a_drafter_that_is_not_configured(exported, config):
    """A drafter of another configuration cannot be rendered, and that is said."""
    config.write_text('state_dir = "s"\n[engine]\nmodel = "org/name"\n')
    result = tuner("profiles", "export", PROFILE.id[:4], "--format", "vllm-args")

    assert 2 == result.exit_code
    assert "Drafter 'ngram' is not configured" in result.stderr


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "it is not JSON"),
        ("[]", "it is not a profile"),
        ('{"profile": {}}', "knobs: Field required"),
        (
            json.dumps({"id": "0000", "profile": PROFILE.model_dump(mode="json")}),
            "It was edited after its measurement",
        ),
    ],
)
def test_import_of_something_else(daemon, content, sentence):
    """A file that is no profile, or an edited one, never reaches the daemon."""
    result = tuner("profiles", "import", "-", input=content)

    assert 2 == result.exit_code
    assert sentence in result.stderr
    assert [] == daemon.asked


def test_pin_unpin_and_use(daemon):
    """Changes go out as they were typed, and the daemon's own sentence is shown."""
    daemon.on("POST", "/v1/pins", {"v": 1, "sentence": "a/b is pinned to 77c0"})
    daemon.on("DELETE", "/v1/pins/a%2Fb%2Ec", {"v": 1, "sentence": "gone"})
    daemon.on("POST", "/v1/use", {"v": 1, "sentence": "off will be in force"})

    assert "a/b is pinned to 77c0\n" == tuner("pin", "a/b", "77c0").stdout
    assert "gone\n" == tuner("unpin", "a/b.c").stdout
    assert "off will be in force\n" == tuner("use", "default").stdout
    assert [{"application": "a/b", "profile": "77c0"}, None, {"profile": "default"}] == [
        asked[3] for asked in daemon.asked
    ]
    for command in (("pin", "a/b", "77c0"), ("unpin", "a/b.c"), ("use", "auto")):
        assert 1 == json.loads(tuner(*command, "--json").stdout)["v"]


def test_tune(daemon):
    """A class without load stands for every load of it that was seen."""
    daemon.on("GET", "/v1/classes", {"v": 1, "seen": {"greedy.balanced.low": {}, "x": {}}})
    daemon.on("POST", "/v1/tune", {"v": 1, "sentence": "tuning"})
    named = f"sampled.long-out.{LOADS[0]}"

    assert "tuning\n" == tuner("tune", "greedy.balanced", named).stdout
    assert {"classes": ["greedy.balanced.low", named]} == daemon.asked[-1][3]
    assert {"v": 1, "sentence": "tuning"} == json.loads(tuner("tune", "--json").stdout)
    assert {"classes": []} == daemon.asked[-1][3]


def test_tune_a_class_without_traffic(daemon):
    """A class that was never seen has no load to tune for; the sentence shows how to name one."""
    daemon.on("GET", "/v1/classes", {"v": 1, "seen": {}})
    result = tuner("tune", "greedy.balanced")

    assert 1 == result.exit_code
    assert f"greedy.balanced.{LOADS[0]}" in result.stderr


def test_tune_a_word_that_is_no_class(daemon):
    """A misspelt class is answered with the nearest one, before the daemon is asked."""
    result = tuner("tune", "greedy.balancd")

    assert 2 == result.exit_code
    assert "did you mean greedy.balanced?" in result.stderr
    assert [] == daemon.asked


def test_tune_stop(daemon):
    """--stop ends the search, and goes with nothing else."""
    daemon.on("POST", "/v1/tune/stop", {"v": 1})

    assert "The search is stopping.\n" == tuner("tune", "--stop").stdout
    assert 2 == tuner("tune", "--stop", "--wait").exit_code


def test_tune_wait(daemon, monkeypatch):
    """--wait talks on stderr while the search runs, and prints its result at the end."""
    monkeypatch.setattr(tune_commands, "POLL_S", 0.0)
    daemon.on("POST", "/v1/tune", {"v": 1})
    working = {"active": True, "sentence": "trying", "trial": 1, "trials": 2, "phase": "search"}
    done = {"active": False, "sentence": "every class has its verdict"}
    for tuning in (None, working, working, done):
        daemon.on("GET", "/v1/status", {**STATUS, "tuning": tuning})
    result = tuner("tune", "--wait")

    assert ["trial 1 of 2 · search · trying"] == result.stderr.splitlines()
    assert "every class has its verdict" == result.stdout.splitlines()[0]
    assert "greedy.balanced.low" in result.stdout


def test_interrupted_wait_changes_nothing(daemon, monkeypatch):
    """F87: Ctrl-C ends the waiting with 130; the search goes on, and that is said."""

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tune_commands.time, "sleep", interrupted)
    daemon.on("POST", "/v1/tune", {"v": 1})
    daemon.on("GET", "/v1/status", STATUS)
    result = tuner("tune", "--wait")

    assert 130 == result.exit_code
    assert "The search goes on" in result.stderr
    assert ["/v1/tune", "/v1/status"] == [asked[2] for asked in daemon.asked]


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
    assert time.monotonic() - begun < 1


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
    [("no-such",), ("status", "--no-such"), ("pin", "x"), ("trials", "--limit", "0"), ("--config",)],
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
    assert ["engine.model", "engine.modle"] == [p["key"] for p in json.loads(data.stdout)["problems"]]


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
    monkeypatch.setattr(doctor_command.checks, "run", lambda _: found)
    result = tuner("doctor")

    assert 1 == result.exit_code
    assert "ok    a: Fine.\nwarn  b: Look.\nfail  c: Broken.\n      → Mend it.\n" == result.stdout
    data = json.loads(tuner("doctor", "--json").stdout)
    assert (False, ["ok", "warn", "fail"]) == (data["ok"], [c["state"] for c in data["checks"]])
    found.pop()
    assert 0 == tuner("doctor").exit_code


def test_stop(daemon):
    """The daemon is asked to end in good order."""
    daemon.on("POST", "/v1/stop", {"v": 1})

    assert "The daemon is stopping.\n" == tuner("stop").stdout


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


def test_colour_only_where_it_is_wanted(monkeypatch):
    """A terminal gets styles; NO_COLOR and TERM=dumb take every escape code away."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(frame.sys.stdout, "isatty", lambda: True, raising=False)
    page = render_status.render_status(STATUS, now=NOW, width=100)
    coloured = frame.drawn(page)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = frame.drawn(page)
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")

    assert "\x1b[" in coloured
    assert "\x1b" not in plain
    assert plain == frame.drawn(page)


def command_line(*arguments):
    """The command as a shell would start it."""
    return [sys.executable, "-m", "tuner.cli", *arguments]


def test_reader_that_goes_away(daemon, config):
    """F86: `tuner trials --json | head -c1` ends with 141 and without a traceback."""
    many = {"v": 1, "trials": [{"id": n, "label": "x" * 100} for n in range(5000)]}
    daemon.on("GET", "/v1/trials?limit=50", many)
    with subprocess.Popen(
        command_line("trials", "--json"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
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
    ) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()

    assert 130 == process.returncode
    assert b"Traceback" not in said


def test_ascii_terminal(daemon, config):
    """F86: where the encoding has no `·` it is escaped, not a traceback."""
    daemon.on("GET", "/v1/status", STATUS)
    result = subprocess.run(
        command_line("status"),
        cwd=ROOT,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        check=False,
    )

    assert 0 == result.returncode
    assert rb"\xb7 serving" in result.stdout


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3661, "1 h 1 min"),
        (86_400, "1 d"),
        (90_061, "1 d 1 h"),
        (86_460, "1 d"),
        (-1, "n/a"),
        (None, "n/a"),
    ],
)
def test_spans(seconds, words):
    """Durations have their two largest units."""
    assert words == text.span(seconds)


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        (1.5, 1.42, 1.58, "+150 % [142, 158]"),
        (0.006, -0.004, 0.015, "+0.6 % [-0.4, 1.5]"),
        (-0.2, None, None, "-20 %"),
        (None, 0.1, 0.2, "n/a"),
    ],
)
def test_gains(value, low, high, words):
    """Small gains keep a digit, because the noise is of that size."""
    assert words == text.gain(value, low, high)


def test_figures_that_are_not_there():
    """What is not known is n/a, and a truth value is no figure."""
    assert ["n/a"] * 5 == [
        text.number(None, "W"),
        text.number(True),
        text.share(None),
        text.clock(None, 0.0),
        text.safe(""),
    ]
