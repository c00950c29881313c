"""The table of a soak, and when it takes a service for well."""

import json

import pytest
from soaking.checker import check
from soaking.faults import FAULTS
from soaking.history import Attempt, History, Sample, Struck
from soaking.nemesis import _left, _well
from soaking.report import record, tables


def history():
    """Two requests, one fault that was healed after 2 s of silence, one that is not possible."""
    return History(
        length_s=600.0,
        attempts=[
            Attempt(number=0, application="chat", began=1.0, ended=2.0, outcome="whole"),
            Attempt(number=1, application="chat", began=9.9, ended=10.0, outcome="cut"),
        ],
        struck=[Struck(number=1, fault="kill engine", began=10.0, ended=10.5, healed=13.0)],
        skipped={"disk full": "mount: not permitted"},
        samples=[
            Sample(at=float(at), role="gateway", pid=1, rss_mib=50.0, descriptors=9, threads=1)
            for at in range(600)
        ],
        progress=set(range(200)) - set(range(103, 123)),
        facts={"seed": 7},
    )


def test_the_table_has_every_fault_request_reading_and_invariant():
    """Times, outages, ends by application, flatness, and what speaks against an invariant."""
    found = history()
    found.two_engines.append("3.0 s: engines | a, b")
    verdicts = check(found)
    shown = "\n".join(tables(found, verdicts))

    assert "| kill engine | 1 | 2.5 | 2.0 | cut |" in shown
    assert "| disk full | 0 | | | not possible here: mount: not permitted |" in shown
    assert all(f"| {fault.name} | " in shown for fault in FAULTS)
    assert "| chat | 1 | 1 |" in shown
    assert "| gateway, 449 s | MiB | 50.0 | 50.0 | +0.0 | 0.0 | 6.0 |" in shown
    assert "| at most one engine | **no** (1) | 3.0 s: engines / a, b |" in shown
    assert all(f"| {verdict.name} | " in shown for verdict in verdicts)


def test_the_record_can_be_read_again():
    """As JSON, with the ends that were not whole and the lines of each life."""
    found = history()
    kept = json.loads(json.dumps(record(found, check(found))))

    assert {"whole": 1, "cut": 1} == kept["requests"]
    assert [1] == [attempt["number"] for attempt in kept["not_whole"]]
    assert [2.0] == [fault["outage_s"] for fault in kept["faults"]]
    assert all(invariant["held"] for invariant in kept["invariants"])
    (life,) = kept["lives"]
    assert 0.0 == life["lines"]["MiB"]["slope_per_h"]
    assert len(life["readings"]) <= 61


def status(mode="serving", gate="open", served="t", running="t", state="running"):
    """What the daemon says."""
    engine = {"token": running, "state": state}
    return {"mode": mode, "gateway": {"gate": gate, "engine": {"token": served}}, "engine": engine}


@pytest.mark.parametrize(
    ("found", "well"),
    [
        (status(), True),
        (status("probation"), True),
        (status("tuning", gate="hold"), True),  # a search holds the gate
        (None, False),
        ({**status(), "gateway": None}, False),
        ({**status(), "engine": None}, False),
        (status("degraded"), False),
        (status(gate="hold"), False),
        (status(served="old"), False),
        (status(state="ended"), False),
    ],
)
def test_all_is_well_when_the_gateway_serves_from_the_engine_that_runs(found, well):
    """Anything less is a fault that has not healed."""
    assert well == _well(found)


def counters(**more):
    """A gateway at rest."""
    ends = {"received": 5, "answered": 2, "failed": 1, "rejected": 1, "client_gone": 1}
    return {"in_flight": 0, "held": 0, "held_bytes": 0, "counters": {**ends, **more}}


def test_nothing_is_left_when_the_counters_add_up():
    """A request in flight, one that waits, or one that was counted at one end only is left."""
    assert [] == _left(counters())
    assert ["in_flight = 1"] == _left({**counters(), "in_flight": 1})
    assert ["held = 2", "held_bytes = 9"] == _left({**counters(), "held": 2, "held_bytes": 9})
    assert _left(counters(received=6))[0].startswith("received 6, ended 5")
