"""Short soaks of the whole service: the long one is `scripts/soak`."""

import json
import subprocess

import pytest
from stage import ROOT

DEATHS = ("kill engine", "kill gateway", "kill tunerd", "stop engine", "choice of the operator")
AROUND = ("clock jumps", "disk full", "kill tunerd on a full disk")


def soak(folder, minutes, seed, faults):
    """Soak; status, record and what was said."""
    out = folder / "soak.json"
    done = subprocess.run(
        [
            *("scripts/soak", str(minutes), "--seed", str(seed)),
            *("--faults", ",".join(faults), "--json", str(out)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.exists(), done.stderr[-4000:]
    return done.returncode, json.loads(out.read_text()), done.stderr[-4000:]


def held(folder, minutes, seed, faults):
    """Soak with every invariant held; the faults that took place."""
    status, found, said = soak(folder, minutes, seed, faults)

    assert [] == [i for i in found["invariants"] if not i["held"]], said
    assert 0 == status
    assert found["requests"]["whole"] > 100
    return {fault["fault"] for fault in found["faults"]} | set(found["skipped"])


@pytest.mark.timeout(900)
def test_a_short_soak_holds_every_invariant(tmp_path):
    """Every kind of death under traffic: requests come through, and nothing is left."""
    assert set(DEATHS) == held(tmp_path, 1.5, 2, DEATHS)


@pytest.mark.timeout(900)
def test_a_full_disk_and_a_clock_that_jumps_disturb_no_request(tmp_path):
    """F40, F41: nobody notices, also when tunerd begins anew on the full disk.

    The disk is a small file system of its own; where none can be mounted it is left out.
    """
    assert set(AROUND) <= held(tmp_path, 1.2, 5, AROUND)
