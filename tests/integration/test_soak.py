"""A short soak of the whole service: the long one is `scripts/soak`."""

import json
import subprocess

import pytest
from stage import ROOT

MINUTES = 1.5
FAULTS = "kill engine,kill gateway,kill tunerd,stop engine,choice of the operator"


@pytest.mark.timeout(900)
def test_a_short_soak_holds_every_invariant(tmp_path):
    """A minute and a half with every kind of death: requests come through, and nothing is left."""
    out = tmp_path / "soak.json"
    done = subprocess.run(
        [
            *("scripts/soak", str(MINUTES), "--seed", "2"),
            *("--faults", FAULTS, "--json", str(out)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.exists(), done.stderr[-4000:]
    found = json.loads(out.read_text())
    wrong = [i for i in found["invariants"] if not i["held"]]

    assert [] == wrong, done.stderr[-4000:]
    assert 0 == done.returncode
    assert found["requests"]["whole"] > 100
    assert {"kill engine", "kill gateway", "kill tunerd"} <= {f["fault"] for f in found["faults"]}
