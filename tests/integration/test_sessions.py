"""Tuning sessions against known landscapes, with real processes around a fake vLLM."""

import json
import math

import pytest
from stage import staged

from profiles.store import Store

WORKLOAD = "greedy.short-out.single"
# tokens per second by draft length; far enough apart for two pairs on a busy machine
PEAK = {0: 40.0, 3: 320.0, 8: 100.0}
LOSS = {0: 80.0, 3: 16.0, 8: 8.0}


def landscape(stage, speeds):
    """Make the fake engine this fast."""
    points = [
        {"num_speculative_tokens": k, "concurrency": 1, "output_tok_s": speed}
        for k, speed in speeds.items()
    ]
    path = stage.folder / "landscape.json"
    path.write_text(json.dumps({"points": points}))
    stage.script(landscape=str(path))


def send(stage, count=10):
    """Traffic of one class, so that there are live samples."""
    for number in range(count):
        prompt = f"prompt {number}"
        assert stage.complete(prompt, 8).right(prompt, 8)


def tuned(stage, classes=(WORKLOAD,)):
    """Tune by hand and wait for the verdict; the status afterwards."""
    status, answered = stage.ask("POST", "/v1/tune", {"classes": list(classes)})
    assert 200 == status, answered
    stage.becomes(
        "the verdict",
        lambda s: any(e["kind"] == "verdict" for e in s["events"]) and s["mode"] != "tuning",
    )
    return stage.settled()


def test_a_faster_draft_length_is_found_and_put_in_force():
    """The peak of the landscape wins its promotion, with evidence, and serves requests."""
    with staged(policy={"min_requests": 1}) as stage:
        landscape(stage, PEAK)
        stage.start()
        send(stage)

        after = tuned(stage)

        assert "ngram k=3" == after["profile"]["label"], stage.events()
        evidence = after["profile"]["evidence"]
        assert evidence["gain_low"] > 0
        assert math.isclose(8.0, 1 + evidence["gain"], rel_tol=0.6)
        assert (2, 3) == (evidence["pairs"], evidence["trials"])
        (found,) = after["traffic"]["classes"]
        assert WORKLOAD == found["workload"]
        assert found["state"].startswith("promoted")
        assert stage.complete("after", 8).right("after", 8)
        with Store.open(stage.store, now=0.0) as store:
            rows = store.measurements(after["platform"]["digest"], WORKLOAD)
        assert {"live"} == {row.samples for row in rows}
        assert 1 == len(stage.engines())


def test_a_verdict_can_be_explained():
    """Through all processes: the pairs that decided, and a ledger that no restart has cost yet."""
    with staged(policy={"min_requests": 1}) as stage:
        landscape(stage, PEAK)
        stage.start()
        send(stage)
        after = tuned(stage)

        status, answered = stage.ask("GET", f"/v1/explain?workload={WORKLOAD}")
        _, history = stage.ask("GET", "/v1/history")

    assert 200 == status, answered
    (found,) = answered["classes"]
    assert ("promoted", "ngram k=3") == (found["state"], found["label"])
    assert after["profile"]["id"] == found["profile"]
    assert [1, 2] == [pair["number"] for pair in found["proof"]["pairs"]]
    assert after["profile"]["evidence"]["gain"] == pytest.approx(found["proof"]["gain"])
    assert 3 == found["tried"]["starts"]
    # the default was measured by the search and by two rounds: an A/A of three starts
    assert 3 == found["noise"]["default_again"]["starts"]
    # the engine of a search's end is no restart for the profile's sake
    assert (0, 0.0) == (history["ledger"]["switches"], history["ledger"]["lost_tokens"])


def test_nothing_beats_a_default_that_is_best():
    """Monotone loss: the default stays, is said to be the best, and synthetic requests suffice.

    Busy cores slowed a default of 200 tok/s so much that the third start was worth it.
    """
    with staged(policy={"min_requests": 1}, tuning={"sampling": "off", "block_s": 1.0}) as stage:
        landscape(stage, LOSS)
        stage.start()
        send(stage)
        before = stage.settled()

        after = tuned(stage)

        assert "off" == after["profile"]["label"]
        with Store.open(stage.store, now=0.0) as store:
            rows = store.measurements(before["platform"]["digest"], WORKLOAD)
        assert {"synthetic"} == {row.samples for row in rows}
        # one length loses so much that the others are not worth a start
        assert 2 == len(rows)
        sentence = f"verdict: {WORKLOAD}: your configuration is already the best of 2 tried"
        assert sentence in stage.events()


def test_a_failing_candidate_is_a_row_and_never_a_winner():
    """A draft length whose engine does not start is recorded with its kind, and tuning goes on."""
    with staged(policy={"min_requests": 1}) as stage:
        landscape(stage, {0: 40.0, 3: 40.0, 8: 320.0})
        wanted = json.loads((stage.folder / "script.json").read_text())
        stage.script(**wanted, exit={"code": 1, "log": "flag", "draft_lengths": [3]})
        stage.start()
        send(stage)

        after = tuned(stage)

        assert "ngram k=8" == after["profile"]["label"], stage.events()
        trials = stage.ask("GET", "/v1/trials")[1]["trials"]
        failed = [t for t in trials if t["status"] == "failed"]
        assert {"ngram k=3"} == {t["label"] for t in failed}
        assert "bad_flag" == failed[0]["failure"]["kind"]
