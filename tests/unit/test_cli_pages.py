"""What the command line shows of a daemon."""

import json
import time

import cli_harness
import pytest
from cli_harness import (
    NOW,
    PROFILE,
    PROFILES,
    STATUS,
    TRIALS,
    tuner,
)

from tuner.cli import app as frame
from tuner.cli import (
    render_status,
    status_commands,
    text,
)
from tuner.version import version

config, daemon = cli_harness.config, cli_harness.daemon  # fixtures


PAGE = """\
tunerd VERSION · serving · up 3 d 4 h · http://127.0.0.1:8000/v1
now      Serving with ngram k=8.
engine   pair · ngram k=8 · vLLM 0.32.0 · power n/a · temperature n/a · pid 99
         GPU memory n/a · host CPU n/a · host memory n/a
profile  greedy.balanced.low #IDENTITY · ngram k=8 · since CLOCK
         because greedy.balanced.low is 83 % of tokens in the last 5 min
         3 pairs of starts: +150 %.
         561 tok/s now · measured: default 231 tok/s, profile 578 tok/s, +150 % [142, 158]
live     n/a
classes  greedy.balanced.low       83 %   412 requests   +150 % [142, 158]   promoted 2 d ago
         sampled.long-out.single   17 %      1 request                 n/a   not tuned yet
pins     nightly → off #77c00011
tuning   idle
gateway  open · 2 in flight · 0 held · 1 234 answered · 0 failed · longest hold 37.9 s
events   CLOCK  default → ngram k=8
"""


def test_status_page(daemon):
    """The page shows all that is known, `n/a` for sensors that are not there, and no zero."""
    daemon.on("GET", "/v1/status", STATUS)
    result = tuner("status")
    clock = time.strftime("%H:%M", time.localtime(NOW))
    expected = PAGE.replace("VERSION", version()).replace("CLOCK", clock)

    assert expected.replace("IDENTITY", PROFILE.id[:8]) == result.stdout
    assert "" == result.stderr
    assert 0 == result.exit_code


@pytest.mark.parametrize(
    ("sensors", "line"),
    [
        (
            {"fault": {"code": "gpu_lost", "sentence": "GPU-1 is lost."}, "reason": "GPU-1 is"},
            "tuning is paused: GPU-1 is lost.",
        ),
        ({"gpus": {"GPU-1": {}}, "reason": "Not reported: power."}, "Not reported: power."),
        ({"sm_clock_mhz": 1980.0}, "GPU memory n/a · clock 1 980 MHz · host CPU"),
    ],
)
def test_status_says_why_tuning_is_paused(daemon, sensors, line):
    """One clear line below the sensors, for a fault or for what the driver does not report."""
    daemon.on("GET", "/v1/status", {**STATUS, "telemetry": {**STATUS["telemetry"], **sensors}})

    assert line in tuner("status").stdout


@pytest.mark.parametrize(
    ("reload", "shown"),
    [
        ({"sentence": "restart for x", "refused": False, "waiting": ["x"]}, True),
        ({"sentence": "not used", "refused": True, "waiting": []}, True),
        ({"sentence": "nothing has changed", "refused": False, "waiting": []}, False),
    ],
)
def test_status_says_that_the_file_is_not_what_is_in_force(daemon, reload, shown):
    """F33: as long as it is so; a file that is in force needs no line."""
    daemon.on("GET", "/v1/status", {**STATUS, "reload": reload})

    assert shown is (f"config   {reload['sentence']}" in tuner("status").stdout)


def test_status_of_a_machine_without_a_gpu_says_nothing_of_it(daemon):
    """No driver is no news."""
    sensors = {**STATUS["telemetry"], "gpus": {}, "reason": "There is no NVIDIA driver to ask."}
    daemon.on("GET", "/v1/status", {**STATUS, "telemetry": sensors})

    assert "driver" not in tuner("status").stdout


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


def test_trials(daemon):
    """Every engine start has its rate per class, or the reason why it has none."""
    daemon.on("GET", "/v1/trials?limit=50", TRIALS)
    rows = [line.split() for line in tuner("trials").stdout.splitlines()]

    assert ["trial", "when", "knobs", "class", "rate", "accepted", "remark"] == rows[0]
    assert ["2", "ngram", "k=8", "greedy.balanced.low", "570.2", "tok/s", "3.46", "search"] == [
        rows[1][0],
        *rows[1][2:],
    ]
    assert ["n/a", "n/a", "load", "fell"] == rows[2][-4:]
    assert "no_kv_memory: No room for" in tuner("trials").stdout
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


def test_history_begins_with_the_ledger(daemon):
    """What restarts cost and gave, before what happened; a live switch is free."""
    ledger = {"switches": 3, "live_switches": 1, "avoided": 5, "lost_tokens": 41_200.0,
              "gained_tokens": 212_400.0}  # fmt: skip
    answer = {"v": 1, "ledger": ledger, "events": []}
    daemon.on("GET", "/v1/history?limit=50", answer)

    first, *rest = tuner("history").stdout.splitlines()
    cost, free, avoided = first.split("; ")
    assert "switched 3 times, cost 41 k tokens, gained 212 k" == cost
    assert ("1 live switch cost nothing", "5 switches avoided") == (free, avoided)
    assert ["Nothing has happened yet."] == rest
    assert answer == json.loads(tuner("history", "--json").stdout)


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0"), (949.6, "950"), (999.6, "1.0 k"), (9_940, "9.9 k"), (41_200, "41 k"),
     (1_234_000, "1.2 M"), (56e6, "56 M"), (-2_000, "-2.0 k"), (None, "n/a")],
)  # fmt: skip
def test_tokens(count, words):
    """Two or three digits and a unit are enough for a ledger."""
    assert words == text.tokens(count)


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


LIVE = {
    "knobs": "live",
    "in_force": {"label": "1: 13, 2+: 3", "active": 4, "budget": None},
    "mixture": "greedy.balanced",
    "mixtures": [
        {
            "name": "greedy.balanced",
            "label": "1: 13, 2+: 3",
            "settled_at": 1.0,
            "expected_loss": 0.004,
            "rounds": 9,
            "traffic_s": 31.0,
            "explored_share": 0.031,
            "forgone_share": 0.007,
        },
        {"name": "sampled.balanced", "label": None, "left": 4, "arms": 7, "rounds": 1},
    ],
}


def test_the_status_page_shows_live_knobs(daemon):
    """The schedule and caps in force, and what is known of each mixture and what it cost."""
    daemon.on("GET", "/v1/status", {**STATUS, "live": LIVE})
    lines = [line.strip() for line in tuner("status", env={"COLUMNS": "200"}).stdout.splitlines()]

    assert "live     knobs live · draft length 1: 13, 2+: 3 · admitted 4" in lines
    assert (
        "* greedy.balanced · 1: 13, 2+: 3 · expected loss 0.4 % · 9 rounds in 31 s · "
        "explored 3.1 % of steps · lost 0.7 % of tokens"
    ) in lines
    assert any("learning, 4 of 7 lengths left" in line for line in lines)


def test_the_status_page_says_why_knobs_are_not_live(daemon):
    """By restart, with the reason."""
    daemon.on(
        "GET",
        "/v1/status",
        {**STATUS, "live": {"knobs": "by restart", "fault": "no dynamic_sd_lookup"}},
    )

    assert "live     knobs change by restart: no dynamic_sd_lookup" in tuner("status").stdout


def test_a_reason_is_said_once():
    """The operator's own configuration said "your own configuration" twice, as reason and proof."""
    shown = {"id": "b7816c61", "workload": "any", "label": "off", "since": 0.0, "why": "yours"}

    once = render_status.profile({**shown, "evidence": {"sentence": "yours"}}, 0.0)
    both = render_status.profile({**shown, "evidence": {"sentence": "+9 % in 5 pairs"}}, 0.0)

    assert ["because yours"] == once[1:]
    assert ["because yours", "+9 % in 5 pairs"] == both[1:]
