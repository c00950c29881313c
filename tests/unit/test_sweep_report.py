"""The Markdown and CSV of a sweep."""

import csv
import io
import shlex
import subprocess

import pytest

from tuner import sweep_report


def cell(concurrency, draft_length, tok_s, half_width=10.0, **more):
    """What the daemon says of one cell."""
    return {
        "concurrency": concurrency,
        "draft_length": draft_length,
        "goodput_tok_s": tok_s,
        "low_tok_s": None if tok_s is None else tok_s - half_width,
        "high_tok_s": None if tok_s is None else tok_s + half_width,
        "rounds": 8,
        "steps": 480,
        "tokens": 1101,
        "step_ms": 6.25,
        "tokens_per_step": 2.5,
        "power_w": 412.0,
        "temperature_c": 61.0,
        **more,
    }


def off(concurrency, tok_s):
    """What the daemon says of an engine without speculation."""
    whole = cell(concurrency, None, tok_s, power_w=None, temperature_c=None)
    return {key: whole[key] for key in whole if key not in {"draft_length", "tokens_per_step"}}


def answer(**more):
    """A finished sweep of three draft lengths at two concurrencies; one cell has no rate."""
    return {
        "v": 1,
        "state": "done",
        "sentence": "Every cell was measured.",
        "drafter": "dflash",
        "method": "dflash",
        "model": "org/name",
        "source": "replay",
        "workload": "greedy.balanced",
        "lengths": [0, 1, 3],
        "concurrencies": [1, 8],
        "round": 8,
        "rounds": 8,
        "slice_s": 0.25,
        "started_at": 1_795_430_000.0,
        "seconds": 203.0,
        "engine_starts": 2,
        "machine": "1x RTX 5090 32GB",
        "vllm_version": "0.32.0",
        "cells": [
            cell(1, 0, 228.0),
            cell(1, 1, 400.0),
            cell(1, 3, 551.0),
            cell(8, 3, 700.0),
            cell(8, 0, 1010.0),
            cell(8, 1, None, rounds=0, steps=0, tokens=0, step_ms=None, tokens_per_step=None),
        ],
        "off": [off(1, 231.0), off(8, 1090.0)],
        "winners": [
            {
                "concurrency": 1,
                "draft_length": 3,
                "goodput_tok_s": 551.0,
                "gain_over_off": 1.385,
                "gain_over_zero": 1.417,
            },
            {
                "concurrency": 8,
                "draft_length": None,
                "goodput_tok_s": 1090.0,
                "gain_over_off": 0.0,
                "gain_over_zero": 0.079,
            },
        ],
        "schedule": [[1, 1, 3], [2, 4, 1], [5, 1_048_576, 0]],
        "command": ["vllm", "serve", "org/name", "--speculative-config", '{"a": 1}', "--port", "1"],
        "env": {"VLLM_X": "a b"},
        **more,
    }


TABLE_1 = """\
| draft length | tok/s | interval | over off | tokens per step and request | step (ms) | \
power (W) | temperature (°C) | rounds | steps | tokens |
|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|
| 0 | 228 | [218, 238] | -1.3 % | 2.50 | 6.25 | 412 | 61 | 8 | 480 | 1 101 |
| 1 | 400 | [390, 410] | +73 % | 2.50 | 6.25 | 412 | 61 | 8 | 480 | 1 101 |
| **3** | 551 | [541, 561] | +139 % | 2.50 | 6.25 | 412 | 61 | 8 | 480 | 1 101 |
| off | 231 | [221, 241] | base | n/a | 6.25 | n/a | n/a | 8 | 480 | 1 101 |
"""


def test_the_table_has_every_draft_length_and_off():
    """Rows are in the order of draft length whatever the order of the cells, and off is last."""
    page = sweep_report.markdown(answer())
    lines = page[page.index("## Concurrency 8") :].splitlines()
    labels = [line.split("|")[1].strip() for line in lines[6:10]]

    assert TABLE_1 in page
    assert ["0", "1", "3", "**off**"] == labels


def test_a_cell_without_a_rate_is_not_a_zero():
    """A draft length that was never measured is n/a in every column of the page."""
    found = sweep_report.markdown(answer())

    assert "| 1 | n/a | n/a | n/a | n/a | n/a | 412 | 61 | 0 | 0 | 0 |" in found
    assert f"| 5 |{' n/a |' * 10}" in sweep_report.markdown(answer(lengths=[0, 1, 3, 5]))


def test_the_winner_is_a_sentence():
    """What wins, by how much, over off and over draft length 0, and off may win."""
    page = sweep_report.markdown(answer())

    expected = "draft length 3, 551 tok/s [541, 561], +138 % over off, +142 % over draft length 0."
    assert f"**Winner:** {expected}" in page
    assert "**Winner:** off, 1 090 tok/s [1 080, 1 100], +7.9 % over draft length 0." in page


def test_a_verdict_is_the_daemons():
    """A tie that the daemon gave to the shorter draft is not decided again by the highest rate."""
    tied = answer(winners=[{"concurrency": 1, "draft_length": 1, "goodput_tok_s": 400.0}])

    assert "draft length 1, 400 tok/s [390, 410]" == sweep_report.verdict(tied, 1)
    expected = "no winner yet, best so far off, 1 090 tok/s [1 080, 1 100]"
    assert expected == sweep_report.verdict(tied, 8)


def test_the_page_says_what_was_measured_where():
    """No figure without machine, model, version, date, n and the kind of interval."""
    page = sweep_report.markdown(answer(confidence=0.95))

    for line in (
        "# Draft length sweep: dflash on org/name",
        "| machine | 1x RTX 5090 32GB |",
        "| drafter | dflash, method dflash |",
        "| vLLM | 0.32.0 |",
        "| date | 2026-11-23 10:33 UTC |",
        "| took | 3.4 min, 2 engine starts |",
        "| source | replayed traffic, class greedy.balanced |",
        "| n | 8 of 8 rounds, slices of 0.25 s |",
        "| rate | output tok/s with its 95 % interval over the rounds |",
        "![tokens per second against draft length](sweep.svg)",
    ):
        assert f"{line}\n" in page
    assert '"off" is an engine of its own, started without speculation, so it is not' in page
    assert "not complete" not in page


def test_a_sweep_that_was_stopped_says_so():
    """Half a table is not taken for a whole one."""
    page = sweep_report.markdown(answer(state="stopped", sentence="Stopped in round 3.", round=3))

    assert "| **not complete** | stopped: Stopped in round 3. |" in page
    assert "| n | 3 of 8 rounds" in page


def test_live_traffic_has_batch_sizes():
    """On live traffic nobody chose a concurrency, so the rows are of batch sizes that came."""
    page = sweep_report.markdown(answer(source="live", concurrencies=[]))

    assert "## Batch size 8" in page
    assert "| source | live traffic," in page
    assert [1, 8] == sweep_report.concurrencies(answer(concurrencies=[]))


def test_without_off_draft_length_0_is_compared():
    """--no-off leaves the live 0 to compare with, and the column says so."""
    page = sweep_report.markdown(answer(off=[]))

    assert "| over 0 |" in page
    assert "| 1 | 400 | [390, 410] | +75 % |" in page
    assert "over off" not in page.split("## How to read it")[0].replace("+138 % over off", "")


def test_the_schedule_is_a_table():
    """The last range goes on for ever; without a schedule there is no section."""
    page = sweep_report.markdown(answer())

    assert "## Schedule\n\nWhere the engine speculates at all:\n\n| batch size |" in page
    assert "| 1 | 3 |\n| 2-4 | 1 |\n| 5+ | 0 |\n" in page
    assert "Schedule" not in sweep_report.markdown(answer(schedule=None))


def test_the_command_can_be_pasted(tmp_path):
    """A shell gets exactly the words and the variables of the answer, quotes and lines included."""
    words = ["printf", "%s\\0", "it's", "two words", "$HOME", "--a", '{"b": "`c`"}', "line\nline"]
    found = sweep_report.shell(answer(command=words, env={"VLLM_X": "a b"}))
    run = subprocess.run(["sh", "-c", found], capture_output=True, check=True, cwd=tmp_path)

    assert words[2:] == run.stdout.decode().split("\0")[:-1]
    assert "VLLM_X='a b' \\\n  printf" in found
    assert ["VLLM_X=a b", *words] == [w for w in shlex.split(found) if w != "\n"]


def test_a_command_cannot_leave_its_code_block():
    """Backticks in an argument do not end the block."""
    page = sweep_report.markdown(answer(command=["vllm", "````"]))

    assert "`````sh\nVLLM_X='a b' \\\n  vllm '````'\n`````\n" in page


def test_secrets_are_not_published():
    """A token of the environment or of an option is named, so the command works where it is set."""
    secret = answer(
        env={"HF_TOKEN": "hf_1", "A": "b"},
        command=["vllm", "--hf-token", "hf_2", "--api-key=hf_3", "--max-num-batched-tokens", "9"],
    )
    shown = sweep_report.published(secret)

    assert "hf_" not in sweep_report.markdown(secret)
    assert {"HF_TOKEN": "$HF_TOKEN", "A": "b"} == shown["env"]
    assert ["--api-key=$VLLM_API_KEY", "--max-num-batched-tokens", "9"] == shown["command"][-3:]
    command = sweep_report.shell(secret)
    assert 'HF_TOKEN="$HF_TOKEN" \\\n  A=b \\\n  vllm \\\n  --hf-token "$HF_TOKEN"' in command
    assert command == sweep_report.shell(shown)


def test_text_of_others_is_no_markup():
    """A model's name can neither break the table nor become a link or a tag."""
    page = sweep_report.markdown(answer(model="a|b\n# [x](y) <i>", machine=None))

    assert "| model | a\\|b # \\[x\\](y) \\<i\\> |" in page
    assert "| machine | n/a |" in page


def test_csv_has_one_line_per_cell():
    """Units are in the header, off is a draft length, and what is missing is empty, never 0."""
    lines = list(csv.DictReader(io.StringIO(sweep_report.table_csv(answer()))))
    unmeasured = next(x for x in lines if x["concurrency"] == "8" and x["draft_length"] == "1")

    assert 8 == len(lines)
    assert {
        "source": "replay",
        "concurrency": "1",
        "draft_length": "0",
        "goodput_tok_s": "228.0",
        "low_tok_s": "218.0",
        "high_tok_s": "238.0",
        "rounds": "8",
        "steps": "480",
        "tokens": "1101",
        "step_ms": "6.25",
        "tokens_per_step": "2.5",
        "power_w": "412.0",
        "temperature_c": "61.0",
    } == lines[0]
    assert {""} == {unmeasured[name] for name in ("goodput_tok_s", "low_tok_s", "step_ms")}
    assert ("off", "", "") == tuple(
        lines[-1][name] for name in ("draft_length", "tokens_per_step", "power_w")
    )


@pytest.mark.parametrize("value", [None, True, "12", float("nan"), float("inf"), [], {}])
def test_what_is_no_figure_is_missing(value):
    """A value of another type or without a size is n/a on the page and empty in the table."""
    odd = answer(cells=[cell(1, 0, 1.0) | {"goodput_tok_s": value}], off=[], concurrencies=[])

    assert "| 0 | n/a |" in sweep_report.markdown(odd)
    assert "\nreplay,1,0,,-9.0," in sweep_report.table_csv(odd)


@pytest.mark.parametrize("odd", [{}, {"cells": None, "winners": 3, "schedule": [[None, 2, 3]]}])
def test_an_answer_that_says_nothing(odd):
    """An answer of another daemon gives a page and a table, not a traceback."""
    assert "| model | n/a |" in sweep_report.markdown(odd)
    assert 1 == len(sweep_report.table_csv(odd).splitlines())


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1399.4, "1 399"), (99.96, "100.0"), (12.34, "12.3"), (0, "0.0"), (None, "n/a")],
)
def test_rates_have_three_digits(value, expected):
    """Slow machines keep a decimal, fast ones do not need it."""
    assert expected == sweep_report.rate(value)
