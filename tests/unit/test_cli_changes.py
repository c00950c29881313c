"""Commands that change something, and profiles."""

import json

import cli_harness
import pytest
from cli_harness import (
    PROFILE,
    PROFILES,
    STATUS,
    tuner,
)

from profiles.classes import LOADS
from profiles.profile import Profile
from tuner.cli import (
    tune_commands,
)

config, daemon = cli_harness.config, cli_harness.daemon  # fixtures


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


@pytest.mark.parametrize("form", ["json", "vllm-args"])
def test_a_profile_that_failed_is_not_exported(daemon, form):
    """Once this wrote a configuration that cannot start, as the winner."""
    shown = PROFILE.model_dump(mode="json")
    daemon.on(
        "GET", "/v1/profiles/abcd", {"v": 1, "profile": shown, "unfit": "it failed here: No memory"}
    )
    result = tuner("profiles", "export", "abcd", "--format", form)

    assert (1, "") == (result.exit_code, result.stdout)
    assert f"Cannot export profile {PROFILE.id}" in result.stderr
    assert "it failed here: No memory." in result.stderr


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
    config.write_text('state_dir = "s"\ndrafters = []\n[engine]\nmodel = "org/name"\n')
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


def test_stop(daemon):
    """The daemon is asked to end in good order."""
    daemon.on("POST", "/v1/stop", {"v": 1})

    assert "The daemon is stopping.\n" == tuner("stop").stdout
