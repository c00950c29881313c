"""The tables of `scripts/bench peers`."""

from benchmark_modules import module

judge, report, result = module("peers_judge"), module("peers_report"), module("peers_result")


def seen(tok_s):
    """What the judge saw of one start; None when it failed."""
    return None if tok_s is None else {"tok_s": tok_s, "ttft_p95_s": 0.1234, "tpot_mean_s": 0.0156}


def rows(*pairs):
    """Rounds of the default and of one winner."""
    return [{"off": seen(off), "dflash k=3": seen(three)} for off, three in pairs]


JUDGED = {"rounds": rows((100.0, 150.0), (110.0, 165.0)), "reasons": {}}
JUDGED["arms"] = judge.verdicts(JUDGED["rounds"])


def found(**more):
    """The outcome of a tool."""
    given = {
        "tool": "a tool",
        "versions": {"a": "1.0"},
        "measured": "something",
        "wall_s": 90.0,
        "starts": 3,
        "trials": [
            result.Trial(label="off", tok_s=99.6),
            result.Trial(label="broken k=3", tok_s=None, failed=True),
        ],
        "winner": {"drafter": "dflash", "draft_length": 3},
        "winner_label": "dflash k=3",
        "claimed_tok_s": 140.0,
        "left_behind": 0,
        "began_at": "2026-01-01 00:00:00",
    }
    return result.Found(**{**given, **more})


def cells(table, row):
    """The cells of a row of a Markdown table."""
    return [cell.strip() for cell in table.splitlines()[row].strip("|").split("|")]


def test_a_row_holds_the_cost_and_what_the_judge_measured():
    """The tool's own figure stands beside the judge's."""
    row = cells(report.overview([found()], JUDGED), 2)

    expected = ["a tool", "1.5 min", "3", "1", "0", "dflash k=3", "yes, 2 of 2", "140"]
    assert expected == row[:8]
    assert row[8].startswith("157 [")
    assert ["+50.0 % [+50.0, +50.0]", "123 / 15.6 ms"] == row[9:]


def test_what_a_verdict_refused_has_a_row():
    """A candidate that was faster and was not put in force is shown with its figures."""
    one = found(
        winner={"draft_length": "off"},
        winner_label="off",
        refused={"drafter": "dflash", "draft_length": 3},
        refused_label="dflash k=3",
        refused_tok_s=151.0,
    )

    row = cells(report.overview([one], JUDGED), 3)

    expected = ["a tool: refused by its verdict", "-", "-", "-", "-", "dflash k=3"]
    assert [*expected, "yes, 2 of 2", "151"] == row[:8]
    assert row[8].startswith("157 [")


def test_the_default_has_a_row():
    """The configuration of vLLM itself is judged like any winner."""
    row = cells(report.overview([found()], JUDGED), -1)

    assert "vLLM's default" == row[0]
    assert "yes, 2 of 2" == row[6]
    assert row[8].startswith("105 [")


def test_a_winner_that_cannot_start_is_shown_as_such():
    """Nothing is left out because it is embarrassing."""
    failed = rows((100.0, None), (110.0, None))
    judged = {"rounds": failed, "reasons": {"dflash k=3": "did not start: It died."}}
    judged["arms"] = judge.verdicts(failed)

    row = cells(report.overview([found()], judged), 2)

    assert ["no, 0 of 2", "140", "-", "-", "-"] == row[6:]
    assert "- dflash k=3 did not start: It died." in report.rounds(judged)
    assert ["1", "100", "-"] == cells(report.rounds(judged), 2)


def test_without_the_judge_nothing_is_claimed():
    """A report in the middle of the comparison shows no gain."""
    row = cells(report.overview([found(winner=None, winner_label=None)], None), 2)

    assert ["none", "not judged", "140", "-", "-", "-"] == row[5:]


def test_a_winner_with_a_memory_knob_is_the_judged_one():
    """The KV cache is the same for all, so it is not part of the name that is looked up."""
    winner = {"drafter": "dflash", "draft_length": 3, "cpu_kv_gib": 1}

    assert "yes, 2 of 2" == cells(report.overview([found(winner=winner)], JUDGED), 2)[6]


def test_trials_show_crashes():
    """Every trial is listed with the tool's own figure."""
    row = cells(report.trials([found()]), 2)

    assert ["a tool", "something", "off 100, broken k=3 crashed"] == row


def test_notes_have_versions_and_verdict():
    """Remarks, verdict and the parts of the time are in one line per tool."""
    line = report.notes([found(note="a remark", verdict="kept", phases={"search": 12.3})])

    expected = "- a tool (a 1.0), begun 2026-01-01 00:00:00 UTC; a remark; verdict: kept; "
    assert expected + "of its time: search 12 s." == line


def test_an_outcome_survives_its_file():
    """What is stored is what was found."""
    one = found()

    assert one == result.Found.of(one.data())
    assert 1 == one.crashes


def test_the_best_trial_is_never_a_failed_one():
    """A failed trial with a large figure does not win."""
    trials = [
        result.Trial(label="a", tok_s=5.0),
        result.Trial(label="b", tok_s=9.0, failed=True),
        result.Trial(label="c", tok_s=None),
    ]

    assert "a" == result.best(trials).label
    assert result.best(trials[1:]) is None
