"""Reading the files of other tuners, recorded from a real run of two trials each."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from benchmark_modules import module

candidates, read, result = (
    module("peers_candidates"),
    module("peers_read"),
    module("peers_result"),
)
DATA = Path(__file__).parents[1] / "data" / "peers"
TUNER, GRID, OURS = DATA / "vllm-tuner", DATA / "sweep", DATA / "tunerd"


@pytest.fixture
def database(tmp_path):
    """The study of vllm-tuner, made again from its dump."""
    path = tmp_path / "study.db"
    with sqlite3.connect(path) as connection:
        connection.executescript((TUNER / "study.sql").read_text())
    return path


def test_a_crash_of_vllm_tuner_is_a_failed_trial():
    """Its own file says `failed`, and the trial has no rate."""
    first, second = read.tuner_trials(TUNER)

    assert ("dflash k=3", False) == (first.label, first.failed)
    assert 77.849 == pytest.approx(first.tok_s, abs=1e-3)
    assert result.Trial(label="broken k=3", tok_s=None, failed=True) == second


def test_vllm_tuner_tells_its_sampler_that_a_crash_is_worth_zero(database):
    """The crash is COMPLETE with the value 0 in the study: the best latency there is."""
    assert 1 == read.crashes_told_as_zero(database)
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE trials SET state = 'FAIL' WHERE number = 1")
    assert 0 == read.crashes_told_as_zero(database)


def test_the_winner_is_what_vllm_tuner_exports():
    """The configuration of its file is one of the candidates."""
    chosen = read.exported(TUNER / "best.json")

    assert "dflash k=3" == candidates.label_of(chosen)


def test_a_crashed_configuration_can_be_its_winner(tmp_path):
    """Whatever it exports is taken, so that the judge sees that it cannot start."""
    crashed = json.loads((TUNER / "study_data" / "peers" / "trial_1.json").read_text())
    path = tmp_path / "best.json"
    path.write_text(json.dumps(crashed["config"]["parameters"]))

    assert "broken k=3" == candidates.label_of(read.exported(path))


def test_off_is_exported_as_null(tmp_path):
    """The option `null` is a text, and means no speculation."""
    path = tmp_path / "best.json"
    path.write_text('{"speculative_config": "null"}')

    assert read.exported(path) is None
    assert "off" == candidates.label_of(None)


def test_the_sweep_has_its_rows_and_its_failures():
    """A server that crashed is a failed trial, the others have the throughput of the summary."""
    off, three, broken = read.grid_trials(GRID)

    assert ("off", "dflash k=3") == (off.label, three.label)
    assert [330.159, 360.721] == pytest.approx([off.tok_s, three.tok_s], abs=1e-3)
    assert result.Trial(label="broken k=3", tok_s=None, failed=True) == broken
    assert three == result.best([off, three, broken])


def test_a_run_with_failed_requests_wins_nothing(tmp_path):
    """The sweep's summary counts failed requests and keeps the row."""
    shutil.copytree(GRID, tmp_path, dirs_exist_ok=True)
    head, *rows = (tmp_path / "summary.csv").read_text().splitlines()
    at = head.split(",").index("failed")
    rows[1] = ",".join("2" if n == at else v for n, v in enumerate(rows[1].split(",")))
    (tmp_path / "summary.csv").write_text("\n".join([head, *rows]))

    assert "off" == result.best(read.grid_trials(tmp_path)).label


def test_every_candidate_comes_back_from_its_option():
    """What a tool is given and what it reports are the same candidate."""
    drafters = {
        candidates.BROKEN.name: candidates.BROKEN,
        "dflash": candidates.BROKEN.model_copy(
            update={"name": "dflash", "method": "dflash", "max_draft_length": 15, "options": {}}
        ),
    }
    found = candidates.candidates(candidates.LENGTHS)
    options = {label: candidates.option(knobs, drafters) for label, knobs in found.items()}

    assert "null" == options["off"]
    assert len(found) == len(set(options.values()))
    back = {label: candidates.label_of(json.loads(option)) for label, option in options.items()}
    assert {label: label for label in found} == back


def test_our_trials_are_in_order_with_what_was_learned():
    """The control API lists the newest first; a start that vLLM refused is a failed trial."""
    rows = json.loads((OURS / "trials.json").read_text())
    assert [4, 3, 2, 1] == [row["id"] for row in rows]

    off, live, broken, promotion = read.our_trials(rows)

    assert ("off (search)", False) == (off.label, off.failed)
    assert 306.176 == pytest.approx(off.tok_s, abs=1e-3)
    assert "dflash live to 15: 3 (search)" == live.label
    assert (None, True) == (broken.tok_s, broken.failed)
    assert promotion.label.endswith("(promotion)")


def test_the_memory_of_the_cache_is_not_part_of_a_configuration():
    """Only tunerd names it, so it must not make equal winners different."""
    knobs = read.plain({"drafter": "dflash", "draft_length": 3, "cpu_kv_gib": 1})

    assert {"drafter": "dflash", "draft_length": 3} == knobs.given()
