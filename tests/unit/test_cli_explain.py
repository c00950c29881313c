"""`tuner explain`: all classes in short, one class in full, and its JSON."""

import json
import random
from dataclasses import asdict

import cli_harness
import pytest
from cli_harness import NOW, tuner
from explaining import CODE, OFF, Rows, decision, k, noisy
from rich.console import Console
from searching import small_space

from profiles.measurement import FailureKind
from profiles.records import Quarantine
from tuner.cli import render_explain
from tuner.explain import Bar, Facts, Learned, explain

config, daemon = cli_harness.config, cli_harness.daemon  # fixtures
SPACE = small_space(draft_lengths=(1, 3, 8, 15))
GOOD = [(100.0, 140.0), (100.0, 141.0), (100.0, 142.0)]


def answer(*explanations, why="greedy.balanced.low is 83 % of tokens"):
    """What the daemon would send."""
    classes = json.loads(json.dumps([asdict(each) for each in explanations], allow_nan=False))
    return {"v": 1, "why": why, "in_force": {"id": "a1f3"}, "classes": classes}


def rich_case():
    """A class with something in every section."""
    made, rng = Rows(), random.Random(1)
    for knobs, rate in ((OFF, 100), (OFF, 100), (k(1), 110), (k(3), 130)):
        made.add(knobs, noisy(rate, 0.01, rng))
    made.add(k(8), failure=FailureKind.OOM_SERVE)
    made.add(OFF, 100, invalid="the GPU was throttled")
    made.add(k(3), failure=FailureKind.CRASH, phase="live", trial=False)
    pairs = made.pairs([(100.0, 95.0), (100.0, 104.0), (100.0, 112.0)], k(3), errors=1)
    promotion, profile = decision(pairs, k(3))
    return explain(
        Facts(
            workload=CODE,
            rows=made.rows,
            promotion=promotion,
            profile=profile,
            default=OFF,
            pairs=3,
            min_gain=0.03,
            space=SPACE,
            quarantined=[
                Quarantine(
                    platform="p", knobs=k(3).digest(), reason="it died", count=1, at=1.0, until=None
                )
            ],
            probation=Bar(kind="probation", sentence="off is judged", until=NOW),
            mixtures=[Learned(sentence="being learned", at=None)],
        )
    )


def plain(text):
    """The words of a page, without its columns."""
    return " ".join(text.split())


def test_one_class_in_full(daemon):
    """Every section has its label and its figures, in plain sentences."""
    daemon.on("GET", f"/v1/explain?workload={CODE}", answer(rich_case()))
    shown = tuner("explain", CODE).stdout
    words = plain(shown)

    assert CODE == shown.splitlines()[0].strip()
    for said in (
        "answer kept the default: 6 requests failed with the candidate runs",
        "runs off, decided 1970-01-01",
        "tried 6 engine starts of 4 configurations; nothing else is left to try",
        "believed dflash k=3: 128.4 ± 2.8 tok/s by 1 start; best start 129.0",
        "failed trial 5, dflash k=8: It ran out of memory.",
        "live, dflash k=3: It ran out of memory.",
        "not tried trial 5 ran out of memory with less: dflash k=15",
        "invalid 1 measurement: the GPU was throttled",
        "pairs default off, candidate dflash k=3",
        "1: 100.0 and 95.0 tok/s, d = -0.0513",
        "mean +3.4 % [-15.7, 26.9] at 95 % confidence",
        "rule every planned pair usable, lower end above 0, mean above 3.0 %",
        "latency TTFT p95 200 ms → 200 ms, limit 250 ms",
        "6 requests failed with the candidate",
        "noise the rate of one start varies by",
        "your configuration against itself: 5 starts,",
        "live being learned",
        "probation off is judged; until ",
        "quarantine dflash k=3 is barred: it died; until it is released",
        "would change it ",
    ):
        assert said in words


@pytest.mark.parametrize(
    ("space", "said"),
    [(SPACE, "; 4 more were not tried, and nothing speaks against them"), (None, "")],
)
def test_what_is_left_to_try(daemon, space, said):
    """How much the search has not seen, where that is known."""
    made = Rows()
    made.add(OFF, 100)
    facts = Facts(workload=CODE, rows=made.rows, promotion=None, profile=None, default=OFF,
                  pairs=3, min_gain=0.03, space=space)  # fmt: skip
    daemon.on("GET", "/v1/explain", answer(explain(facts)))
    words = plain(tuner("explain").stdout)

    assert f"tried 1 engine start of 1 configuration{said} believed off: 100.0 ±" in words


def test_pairs_that_failed_say_why(daemon):
    """There is no rate and no difference; the mean has no interval."""
    made = Rows()
    pairs = made.pairs([GOOD[0], (100.0, None), (100.0, None)], k(8))
    promotion, profile = decision(pairs, k(8))
    facts = Facts(workload=CODE, rows=made.rows, promotion=promotion, profile=profile, default=OFF,
                  pairs=3, min_gain=0.03)  # fmt: skip
    daemon.on("GET", f"/v1/explain?workload={CODE}", answer(explain(facts)))
    words = plain(tuner("explain", CODE).stdout)

    assert "2: 100.0 and n/a tok/s; not usable: It ran out of memory." in words
    assert "mean +40 % at 95 % confidence" in words
    assert "tried nothing" in words


def untried(workload):
    facts = Facts(workload=workload, rows=[], promotion=None, profile=None, default=OFF, pairs=3,
                  min_gain=0.03)  # fmt: skip
    return explain(facts)


def test_all_classes_in_short(daemon):
    """One sentence each, and where to read more; JSON has everything."""
    found = answer(untried(CODE), untried("sampled.long-out.single"))
    daemon.on("GET", "/v1/explain", found)
    lines = tuner("explain").stdout.splitlines()

    assert lines[0].startswith("now ")
    assert [CODE, "sampled.long-out.single"] == [line.split()[0] for line in lines[1:3]]
    assert "`tuner explain CLASS` says what is behind it." == lines[-1]
    assert found == json.loads(tuner("explain", "--json").stdout)


def test_a_single_class_is_shown_in_full(daemon):
    """There is nothing to choose from."""
    daemon.on("GET", "/v1/explain", answer(untried(CODE)))

    assert f"`tuner tune {CODE}` searches now" in plain(tuner("explain").stdout)


def test_no_class_is_known(daemon):
    """A fresh daemon says what makes a class known."""
    daemon.on("GET", "/v1/explain", answer())

    assert "No class is known yet" in tuner("explain").stdout


def test_a_class_that_is_not_known(daemon):
    """The daemon's answer, exit 1; the name is quoted on its way."""
    daemon.error("GET", "/v1/explain?workload=a%26b", "Nothing is known about class 'a&b'.", 1, 404)
    result = tuner("explain", "a&b")

    assert 1 == result.exit_code
    assert "Nothing is known about class 'a&b'." in result.stderr


@pytest.mark.parametrize("columns", ["40", "100", "200"])
def test_every_width_has_every_word(daemon, monkeypatch, columns):
    """Nothing is cut off, whatever the terminal."""
    monkeypatch.setenv("COLUMNS", columns)
    daemon.on("GET", f"/v1/explain?workload={CODE}", answer(rich_case()))

    assert "…" not in tuner("explain", CODE).stdout


def test_an_answer_of_another_daemon_is_shown_as_far_as_it_goes():
    """What is missing is left out or `n/a`; nothing breaks."""
    page = render_explain.render_full([{"workload": CODE, "tried": {"starts": 1}}, {}], now=NOW)
    console = Console(width=80)
    with console.capture() as capture:
        console.print(page)

    assert CODE in capture.get()
    assert "n/a" in capture.get()
