"""The pairs of a decision, read back from the rows of the store."""

import math

import pytest
from explaining import CHAT, CODE, DECIDED_AT, OFF, Rows, decision, k

from profiles.knobs import Knobs
from profiles.measurement import FailureKind
from tuner.proof import proof

GOOD = [(100.0, 140.0), (100.0, 141.0), (100.0, 142.0)]


def read(made, promotion, profile, default=OFF):
    return proof([row for _, row in made.rows], promotion, profile.knobs, default)


def test_the_figures_are_those_of_the_verdict():
    """Pair by pair, with the very interval that decided."""
    made = Rows()
    made.add(OFF, 100)
    promotion, profile = decision(made.pairs(GOOD, k(8)), k(8))
    found = read(made, promotion, profile)

    assert ("off", "dflash k=8") == (found.default, found.candidate)
    assert [1, 2, 3] == [pair.number for pair in found.pairs]
    assert [math.log(b / a) for a, b in GOOD] == pytest.approx([p.difference for p in found.pairs])
    evidence = promotion.evidence
    assert (evidence.gain, evidence.gain_low, evidence.gain_high) == pytest.approx(
        (found.gain, found.low, found.high)
    )


def test_a_default_that_was_kept_is_still_the_default():
    """Also when the operator has changed the configuration since."""
    made = Rows()
    promotion, profile = decision(made.pairs([(100.0, 99.0)] * 3, k(8)), k(8))
    found = read(made, promotion, profile, default=Knobs(cpu_kv_gib=9))

    assert ("off", "dflash k=8") == (found.default, found.candidate)
    assert found.gain < 0


def test_a_schedule_learned_later_belongs_to_the_same_engine():
    """The live loop replaced the schedule of the profile; the pairs are still its proof."""
    first = k(15, live=True, draft_schedule=((1, 64, 8),))
    later = k(15, live=True, draft_schedule=((1, 64, 5),))
    made = Rows()
    promotion, profile = decision(made.pairs(GOOD, first), first)
    changed = profile.model_copy(update={"knobs": later})
    found = read(made, promotion, changed, default=Knobs(cpu_kv_gib=9))

    assert "off" == found.default


def test_a_failed_start_is_the_fault_of_its_pair():
    """What the verdict lacked, in the engine's own words."""
    made = Rows()
    promotion, profile = decision(made.pairs([*GOOD[:2], (100.0, None)], k(8)), k(8))
    found = read(made, promotion, profile)

    assert [None, None, "It ran out of memory."] == [pair.fault for pair in found.pairs]
    assert found.pairs[2].difference is None


def test_all_pairs_failed():
    """No figure at all, and every reason."""
    made = Rows()
    promotion, profile = decision(made.pairs([(100.0, None)] * 3, k(8)), k(8))
    found = read(made, promotion, profile)

    assert (None, None, None) == (found.gain, found.low, found.high)
    assert ["It ran out of memory."] * 3 == [pair.fault for pair in found.pairs]


def test_one_usable_pair_has_no_interval():
    """It has no spread: the ends are unknown, not infinite, which JSON cannot say."""
    made = Rows()
    promotion, profile = decision(
        made.pairs([(100.0, 140.0), (100.0, None), (100.0, None)], k(8)), k(8)
    )
    found = read(made, promotion, profile)

    assert 0.4 == pytest.approx(found.gain)
    assert (None, None) == (found.low, found.high)


@pytest.mark.parametrize(
    ("field", "fault"), [({"invalid": "throttled"}, "throttled"), ({"drop": True}, "not measured")]
)
def test_other_faults(field, fault):
    """An invalid measurement says why; a start that never was is said to be missing."""
    made = Rows()
    promotion, profile = decision(made.pairs(GOOD, k(8)), k(8))
    trial, row = made.rows.pop()
    if "invalid" in field:
        made.rows.append((trial, row.model_copy(update=field)))

    assert fault in read(made, promotion, profile).pairs[2].fault


def test_a_default_that_is_best_needed_no_pairs():
    """The search itself recommended it."""
    made = Rows()
    made.add(OFF, 100)
    promotion, profile = decision([], OFF)

    assert read(made, promotion, profile) is None


def test_pairs_of_an_older_decision_are_not_shown():
    """A later search kept the default without a promotion: the old pairs prove nothing of that."""
    made = Rows()
    made.pairs(GOOD, k(8))
    made.add(OFF, 200)
    promotion, profile = decision([], OFF)

    assert read(made, promotion, profile) is None
    made.rows.pop()  # the search may even have had nothing left to try
    assert read(made, promotion, profile) is None


def test_a_promotion_that_was_cut_off_begins_again():
    """Only the rounds of the session that decided count."""
    made = Rows()
    made.pairs([(100.0, 500.0), (100.0, 500.0)], k(8))
    promotion, profile = decision(made.pairs(GOOD, k(8)), k(8))
    found = read(made, promotion, profile)

    assert [140, 141, 142] == pytest.approx([pair.candidate for pair in found.pairs])


def test_rows_after_the_decision_are_not_its_proof():
    """A search that runs again has no verdict yet."""
    made = Rows()
    promotion, profile = decision(made.pairs(GOOD, k(8)), k(8))
    made.add(OFF, 100, started_at=DECIDED_AT + 1)

    assert 3 == len(read(made, promotion, profile).pairs)


def test_guards_have_their_limits():
    """A latency may grow by a quarter, and the first token by 50 ms whatever that is in percent."""
    made = Rows()
    pairs = made.pairs(GOOD, k(8), ttft_p95_s=0.24, tpot_mean_s=0.03)
    found = read(made, *decision(pairs, k(8)))

    ttft, tpot = found.guards
    assert ("TTFT p95", True) == (ttft.name, ttft.kept)
    assert (0.2, 0.24, 0.25) == pytest.approx((ttft.default_s, ttft.candidate_s, ttft.limit_s))
    assert (0.025, False) == (pytest.approx(tpot.limit_s), tpot.kept)


def test_failed_requests_are_counted():
    """Those of the candidate, over all blocks."""
    made = Rows()
    promotion, profile = decision(made.pairs(GOOD, k(8), errors=1), k(8))

    assert 6 == read(made, promotion, profile).failed_requests


def test_a_class_has_its_own_pairs():
    """The caller gives the rows of one class; without any there is no proof."""
    made = Rows()
    promotion, profile = decision(made.pairs(GOOD, k(8)), k(8))
    other = Rows()
    other.add(OFF, 100, workload=CHAT)
    other.add(k(3), failure=FailureKind.CRASH)

    assert CODE == promotion.workload
    assert read(other, promotion, profile) is None
