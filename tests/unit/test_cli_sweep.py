"""`tuner sweep`: what it asks, what it shows, what it writes."""

import json
import os
import pty
import re
import subprocess
import xml.etree.ElementTree as ET

import cli_harness
import pytest
from cli_harness import ENVIRONMENT, ROOT, command_line, tuner
from rich.console import Console
from test_sweep_report import answer, cell

from tuner import sweep_report
from tuner.cli import render_sweep, sweep_command

config, daemon = cli_harness.config, cli_harness.daemon  # fixtures

FILES = ["sweep.csv", "sweep.json", "sweep.md", "sweep.svg"]
NONE = {"v": 1, "state": "none"}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty working directory, and no waiting."""
    monkeypatch.setattr(sweep_command, "POLL_S", 0.0)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def running(finished, **more):
    """A sweep in progress, which has no winners yet."""
    return answer(state="running", round=finished, winners=[], **more)


def script(daemon, *answers):
    """A daemon that knows no sweep, takes one, and then answers these."""
    daemon.on("POST", "/v1/sweep", {"v": 1, "sentence": "sweeping 3 draft lengths"})
    for each in (NONE, *answers):
        daemon.on("GET", "/v1/sweep", each)


def body(daemon):
    """What the daemon was asked to do."""
    [found] = [sent for _, method, _, sent in daemon.asked if method == "POST"]
    return found


def test_sweep(daemon, place):
    """It follows on stderr, prints the table, and leaves four files behind."""
    script(daemon, running(0), running(1), running(1), running(2), answer())
    result = tuner("sweep")
    lines = result.stderr.splitlines()
    [folder] = place.iterdir()

    assert 0 == result.exit_code
    assert "sweeping 3 draft lengths" == lines[0]
    best = "concurrency 1: best 3, 551 tok/s [541, 561]"
    assert f"round 1 of 8 · {best} · concurrency 8: best off, 1 090 tok/s" in lines[1]
    assert ["round 1 of 8", "round 2 of 8", "round 8 of 8"] == [x[:12] for x in lines[1:4]]
    assert f"Written to {folder.name}: sweep.md, sweep.csv, sweep.json, sweep.svg." == lines[4]
    assert "concurrency 1: draft length 3, 551 tok/s [541, 561], +138 % over off" in result.stdout
    assert re.fullmatch(r"sweep-dflash-20261123-\d{6}", folder.name)
    assert FILES == sorted(path.name for path in folder.iterdir())
    assert answer() == json.loads((folder / "sweep.json").read_text())
    assert sweep_report.markdown(answer()) == (folder / "sweep.md").read_text()
    assert sweep_report.table_csv(answer()) == (folder / "sweep.csv").read_text()
    assert "svg" in ET.parse(folder / "sweep.svg").getroot().tag


def test_what_is_asked_by_default(daemon):
    """Every draft length at concurrency 1 and 8 on replayed requests, and off."""
    script(daemon, answer())
    tuner("sweep")

    assert {
        "drafter": None,
        "lengths": None,
        "concurrencies": [1, 8],
        "class": None,
        "source": "replay",
        "rounds": 8,
        "slice_s": 0.25,
        "off": True,
    } == body(daemon)


def test_what_is_asked_with_options(daemon):
    """Ranges, lists and repetitions are put in order, without doubles."""
    script(daemon, answer())
    options = ("--lengths", "8, 0-2,1", "--concurrency", "8,1", "--concurrency", "4", "--no-off")
    more = ("--drafter", "eagle", "--class", "sampled.long-out", "--rounds", "3", "--slice-s", "1")
    tuner("sweep", *options, *more, "--replay")

    assert {
        "drafter": "eagle",
        "lengths": [0, 1, 2, 8],
        "concurrencies": [1, 4, 8],
        "class": "sampled.long-out",
        "source": "replay",
        "rounds": 3,
        "slice_s": 1.0,
        "off": False,
    } == body(daemon)


def test_live_traffic_chooses_its_own_concurrency(daemon):
    """With --live no concurrency is asked for."""
    script(daemon, answer(source="live", concurrencies=[]))
    result = tuner("sweep", "--live")

    assert ("live", []) == (body(daemon)["source"], body(daemon)["concurrencies"])
    assert "batch size 8: off, 1 090 tok/s" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--live", "--replay"), "--live and --replay exclude each other."),
        (("--live", "--concurrency", "1"), "leave --concurrency out"),
        (("--stop", "--rounds", "8"), "--stop goes with no other option"),
        (("--stop", "--live"), "--stop goes with no other option"),
        (("--lengths", "a"), "'a' is no draft length"),
        (("--lengths", "-1"), "'-1' is no draft length"),
        (("--lengths", "5-2"), "'5-2' is no draft length"),
        (("--lengths", "1,,2"), "'' is no draft length"),
        (("--lengths", ""), "'' is no draft length"),
        (("--lengths", "0-99999999999"), "numbers up to 1024"),
        (("--lengths", "²"), "'²' is no draft length"),
        (("--concurrency", "0"), "'0' is not a number of requests of 1 or more"),
        (("--concurrency", "-2"), "'-2' is not a number of requests"),
        (("--concurrency", "1,x"), "'x' is not a number of requests"),
        (("--class", "greedy"), "known are greedy.short-out,"),
        (("--class", "greedy.balanced.low"), "leave out its load: greedy.balanced."),
        (("--rounds", "0"), "0 is not in the range"),
        (("--slice-s", "0"), "0.0 is not in the range"),
        (("--slice-s", "nan"), "nan is not a number of seconds."),
    ],
)
def test_usage(daemon, arguments, sentence):
    """A wrong command line exits with 2 and one sentence, before the daemon is asked."""
    result = tuner("sweep", *arguments)

    assert 2 == result.exit_code
    assert sentence in re.sub(r"\s+", " ", result.stderr)
    assert [] == daemon.asked


def test_a_folder_with_files_needs_force(daemon, place):
    """Nothing is written over unless it is said, and other files stay."""
    script(daemon, answer())
    (place / "out").mkdir()
    (place / "out" / "mine").write_text("x")
    (place / "out" / "sweep.md").write_text("old")
    refused = tuner("sweep", "--out", "out")

    assert 2 == refused.exit_code
    assert "out has files in it; name another folder or add --force." in refused.stderr
    assert [] == daemon.asked
    assert 0 == tuner("sweep", "--out", "out", "--force").exit_code
    assert ["mine", *FILES] == sorted(path.name for path in (place / "out").iterdir())
    assert "old" != (place / "out" / "sweep.md").read_text()


def test_an_empty_or_new_folder_needs_nothing(daemon, place):
    """Folders above are made, too."""
    script(daemon, answer())

    assert 0 == tuner("sweep", "--out", place).exit_code
    script(daemon, answer(started_at=1.0))
    assert 0 == tuner("sweep", "--out", place / "a" / "b").exit_code
    assert FILES == sorted(path.name for path in (place / "a" / "b").iterdir())


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_folder_that_cannot_be_written(daemon, place, name):
    """That is found out before the measurement, not after an hour of it."""
    (place / "file").write_text("x")
    result = tuner("sweep", "--out", name)

    assert 2 == result.exit_code
    assert f"{name} cannot be written; name a folder that you can write to." in result.stderr
    assert [] == daemon.asked


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_folder_that_went_bad_meanwhile(daemon, place, monkeypatch, more):
    """The table is printed nevertheless, once, and the exit says that the files are missing."""
    script(daemon, answer())
    monkeypatch.setattr(sweep_command, "_check_folder", lambda *_, **__: None)
    (place / "file").write_text("x")
    result = tuner("sweep", "--out", "file", *more)

    assert 2 == result.exit_code
    assert "The files of the sweep cannot be written: file: " in result.stderr
    assert "551" in result.stdout
    if more:
        assert answer() == json.loads(result.stdout)


def test_json_is_the_answer_alone(daemon, place):
    """--json prints the answer and writes nothing, unless a folder is named."""
    script(daemon, running(1), answer())
    plain = tuner("sweep", "--json")

    assert answer() == json.loads(plain.stdout)
    assert [] == list(place.iterdir())
    script(daemon, answer(started_at=1.0))
    named = tuner("sweep", "--json", "--out", "out")
    assert answer(started_at=1.0) == json.loads(named.stdout)
    assert FILES == sorted(path.name for path in (place / "out").iterdir())


def test_a_token_is_in_no_file(daemon, place):
    """The folder is meant to be published."""
    script(daemon, answer(env={"HF_TOKEN": "hf_abc"}))
    tuner("sweep", "--out", "out")

    assert [] == [p.name for p in (place / "out").iterdir() if "hf_abc" in p.read_text()]


def test_the_drafters_name_is_no_path(daemon, place):
    """The folder is made in the working directory whatever the drafter is called."""
    script(daemon, answer(drafter="../../x"))
    tuner("sweep")

    assert ["sweep--x-20261123"] == [path.name[:17] for path in place.iterdir()]


@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_a_sweep_that_did_not_come_to_its_end(daemon, place, state):
    """What was measured is printed and written, and the exit is 1 with the daemon's reason."""
    script(daemon, running(1), answer(state=state, round=3, sentence="The engine died."))
    result = tuner("sweep", "--out", "out")

    assert 1 == result.exit_code
    assert "tuner: The sweep is not complete: The engine died.\n" in result.stderr
    assert f"{state}: The engine died." in (place / "out" / "sweep.md").read_text()


def test_a_sweep_that_measured_nothing(daemon, place):
    """There are no files of nothing."""
    script(daemon, answer(state="failed", cells=[], off=[], winners=[]))
    result = tuner("sweep")

    assert 1 == result.exit_code
    assert "Nothing was measured, so no file was written.\n" in result.stderr
    assert [] == list(place.iterdir())


def test_a_sweep_of_before_is_not_the_result(daemon):
    """The table of an earlier sweep, shown until the new one begins, is passed over."""
    daemon.on("POST", "/v1/sweep", {"v": 1})
    old = answer(started_at=5.0, drafter="old")
    for each in (old, old, old, running(1), answer()):
        daemon.on("GET", "/v1/sweep", each)
    result = tuner("sweep", "--json")

    assert "dflash" == json.loads(result.stdout)["drafter"]


@pytest.mark.parametrize(
    ("seen", "sentence"),
    [
        ([], "The daemon accepted the sweep but did not begin it."),
        ([running(1)], "The daemon knows nothing of the sweep any more."),
    ],
)
def test_a_daemon_that_forgot_the_sweep(daemon, monkeypatch, seen, sentence):
    """A restart of the daemon ends the watch with a sentence, not never."""
    monkeypatch.setattr(sweep_command, "BEGIN_POLLS", 3)
    script(daemon, *seen, NONE)
    result = tuner("sweep")

    assert 1 == result.exit_code
    assert sentence in result.stderr


def test_a_late_answer_ends_nothing(daemon, monkeypatch):
    """One question that is not answered in time is asked again; forty in a row are an error."""
    script(daemon, running(1))
    late = {"message": "Too late.", "hint": "", "exit_code": 5}
    daemon.on("GET", "/v1/sweep", {"v": 1, "error": late}, 504)
    daemon.on("GET", "/v1/sweep", answer())

    assert 0 == tuner("sweep").exit_code
    script(daemon, running(1, started_at=1.0))
    daemon.on("GET", "/v1/sweep", {"v": 1, "error": late}, 504)
    assert 5 == tuner("sweep").exit_code


def test_a_refusal_is_the_daemons(daemon, place):
    """What the daemon cannot do is said in its words, and nothing is left behind."""
    daemon.on("GET", "/v1/sweep", NONE)
    daemon.error("POST", "/v1/sweep", "A search is running.", 1, 409)
    result = tuner("sweep", "--out", "out")

    assert (1, "tuner: A search is running.\n  Do this.\n") == (result.exit_code, result.stderr)
    assert [] == list(place.iterdir())


def test_stop(daemon):
    """--stop ends the sweep."""
    daemon.on("POST", "/v1/sweep/stop", {"v": 1})

    assert "The sweep is stopping.\n" == tuner("sweep", "--stop").stdout
    assert {"v": 1} == json.loads(tuner("sweep", "--stop", "--json").stdout)


def test_interrupt_changes_nothing(daemon, place, monkeypatch):
    """Ctrl-C ends the watching with 130; the sweep goes on, and how to end it is said."""

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep_command.time, "sleep", interrupted)
    script(daemon, running(1))
    result = tuner("sweep")

    assert 130 == result.exit_code
    assert "The sweep goes on; `tuner sweep --stop` ends it.\n" in result.stderr
    assert ["GET", "POST", "GET"] == [method for _, method, _, _ in daemon.asked]
    assert [] == list(place.iterdir())


def test_daemon_down(config):
    """Without its daemon it exits with 3."""
    assert 3 == tuner("sweep").exit_code


def test_chart_on_a_terminal(daemon, config, place):
    """A terminal gets the chart while it runs, and the table at the end."""
    script(daemon, running(1), running(2), answer())
    ours, theirs = pty.openpty()
    environment = ENVIRONMENT | {"TUNER_CONFIG": str(config), "TERM": "xterm", "COLUMNS": "90"}
    with subprocess.Popen(
        [*command_line("sweep", "--out", "out")[:1], "-P", *command_line("sweep")[1:]],
        cwd=place,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=environment | {"LINES": "40", "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"},
    ) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # how Linux says that the other side is closed
                break
            if not part:
                break
            seen += part
        said = process.stderr.read().decode()
    os.close(ours)
    text = seen.decode()

    assert 0 == process.returncode, said
    assert "round 1 of 8" in text
    assert "concurrency 8, tok/s by draft length" in text
    assert "█" in text
    assert "concurrency 1: draft length 3, 551 tok/s" in text
    assert "round 1 of 8" not in said


def chart(data, width, height, **more):
    """The lines of the chart."""
    screen = Console(width=width, height=height, highlight=False, color_system=None)
    with screen.capture() as capture:
        screen.print(render_sweep.chart(data, width=width, height=height, **more))
    return [line.rstrip() for line in capture.get().splitlines()]


def long_sweep(**more):
    """The default sweep: 16 draft lengths and off, at two concurrencies."""
    every = list(range(16))
    cells = [cell(at, k, 100.0 * at + 10 * k) for at in (1, 8) for k in every]
    return running(3, lengths=every, cells=cells, **more)


def test_chart():
    """Bars are solid to the rate and dotted to the end of its interval; no rate is n/a."""
    data = answer()
    data["cells"][0]["high_tok_s"] = 400.0

    assert [
        "round 8 of 8 · 3 min 23 s · dflash on org/name · replayed t…",
        "Every cell was measured.",
        "concurrency 1, tok/s by draft length",
        "  0 ██████████▋┄┄┄┄┄┄┄┄           228 [218, 400]",
        "  1 ██████████████████▌           400 [390, 410]",
        "  3 █████████████████████████▌    551 [541, 561]       best",
        "off ██████████▊                   231 [221, 241]",
        "",
        "concurrency 8, tok/s by draft length",
        "  0 ███████████████████████▉    1 010 [1 000, 1 020]",
        "  1                               n/a",
        "  3 ████████████████▌             700 [690, 710]",
        "off █████████████████████████▊  1 090 [1 080, 1 100]   best",
        "",
    ] == chart(data, 60, 40)


@pytest.mark.parametrize("width", [20, 40, 59, 80, 120, 200])
@pytest.mark.parametrize("height", [6, 12, 24, 50])
@pytest.mark.parametrize("unicode", [True, False])
def test_chart_fits_every_terminal(width, height, unicode):
    """No line is wider and no chart is higher than the terminal, where a live one would break."""
    lines = chart(long_sweep(), width, height, unicode=unicode)

    assert max(len(line) for line in lines) <= width
    assert len(lines) < height
    if not unicode:
        assert not {"█", "┄", "▁"} & set("".join(lines))


def test_chart_of_an_ordinary_terminal_has_every_bar():
    """The default sweep at 80 by 24 stands side by side instead of being cut."""
    lines = chart(long_sweep(), 80, 24)
    [heads] = [line for line in lines if "concurrency 1," in line]

    assert "concurrency 8," in heads
    assert 17 == sum("█" in line for line in lines)
    assert any(line.startswith(" 15 ") and " 15 " in line[30:] for line in lines)


def test_chart_without_room_is_a_line_for_each():
    """What does not fit as bars is a line per concurrency; what does not fit at all is counted."""
    lines = chart(long_sweep(), 40, 12)
    many = [cell(at, 0, 1.0) for at in range(1, 31)]
    cut = chart(running(1, cells=many, lengths=[0], concurrencies=[], source="live"), 40, 12)

    assert [
        "   1 ▄▄▄▅▅▅▆▆▆▇▇▇████ best 15: 250 tok/s",
        "   8 ▆▆▇▇▇▇▇▇▇▇▇▇▇▇▇▇ best off: 1 090 t…",
    ] == lines[2:]
    assert 11 == len(cut)
    assert "and 22 more lines" == cut[-1]


def test_result_leaves_columns_out_where_there_is_no_room():
    """A narrow terminal gets rates and the best, and no half cells."""
    screen = Console(width=40, highlight=False, color_system=None)
    with screen.capture() as capture:
        screen.print(render_sweep.result(answer(), width=40))
    lines = capture.get().splitlines()

    assert "     3    551  best  [541, 561]" in lines
    assert max(len(line) for line in lines) <= 40


def test_names_of_others_draw_nothing():
    """An escape sequence in a name is shown, not obeyed."""
    assert "\x1b[31m" not in "\n".join(chart(answer(drafter="\x1b[31m"), 80, 40))
    assert "\\x1b[31m" in render_sweep.head_line(answer(drafter="\x1b[31m"))


@pytest.mark.parametrize("odd", [{}, {"cells": [{}], "winners": [{"concurrency": 1}]}])
def test_an_answer_that_says_nothing(odd):
    """An answer of another daemon gives a page, not a traceback."""
    assert "round n/a of n/a" == render_sweep.progress(odd)
    assert chart(odd, 80, 24)
    assert render_sweep.result(odd, width=80)
