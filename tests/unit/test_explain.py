"""Why a class runs what it runs: every branch, from rows as a session writes them."""

import json
import random
from dataclasses import asdict

import pytest
from explaining import CHAT, CODE, OFF, Rows, decision, k, noisy
from searching import small_space

from profiles.measurement import FailureKind
from profiles.records import Quarantine
from tuner.explain import Bar, Facts, Learned, State, explain
from tuner.objective import Goals

SPACE = small_space(draft_lengths=(1, 3, 8, 15))
GOOD = [(100.0, 140.0), (100.0, 141.0), (100.0, 142.0)]
NOISY = [(100.0, 95.0), (100.0, 104.0), (100.0, 112.0)]


def explained(made, decided=(None, None), **more):
    promotion, profile = decided
    facts = {"space": SPACE, "pairs": 3, "min_gain": 0.03, "default": OFF, "workload": CODE}
    return explain(
        Facts(**{**facts, "rows": made.rows, "promotion": promotion, "profile": profile, **more})
    )


def promoted():
    made = Rows()
    for knobs, rate in ((OFF, 100), (k(3), 120), (k(8), 141)):
        made.add(knobs, rate)
    return made, decision(made.pairs(GOOD, k(8)), k(8))


def barred(profile, **fields):
    base = {"platform": "p", "knobs": profile.knobs.digest(), "reason": "it died", "count": 1}
    return Quarantine(**{**base, "at": 1.0, "until": 9.0, **fields})


def test_nothing_was_tried():
    """The default, and the command that would change it."""
    found = explained(Rows())

    assert (State.UNTRIED, "off", None) == (found.state, found.label, found.decided_at)
    assert "nothing was searched for it yet, so it runs your own configuration" == found.sentence
    assert (f"`tuner tune {CODE}` searches now",) == found.change
    assert "not known yet (0 repeated starts)" == found.noise.sentence
    assert (None, None) == (found.noise.provable_gain, found.noise.false_promotions)


def test_a_search_without_a_verdict():
    """It was interrupted, or runs now."""
    made = Rows()
    made.add(OFF, 100)
    found = explained(made)

    assert State.OPEN is found.state
    assert found.sentence.startswith("1 engine start without a verdict yet")
    assert "goes on from the rows" in found.change[0]


def test_promoted():
    """The profile, its sentence, its pairs, and what would take it back."""
    made, decided = promoted()
    found = explained(made, decided)

    assert (State.PROMOTED, "dflash k=8") == (found.state, found.label)
    assert f"promoted {decided[0].sentence}" == found.sentence
    assert (decided[1].id, 100.0) == (found.profile, found.decided_at)
    assert 3 == len(found.proof.pairs)
    assert "probation" in found.change[0]


def test_kept_because_it_is_already_best():
    """No pairs; a winner would have to be among what was not tried."""
    made = Rows()
    made.add(OFF, 100)
    made.add(k(3), 80)
    found = explained(made, decision([], OFF))

    assert (State.KEPT, "off", None) == (found.state, found.label, found.proof)
    assert "your configuration is already the best of 4 tried" == found.sentence
    assert "a winner among the 3 configurations that were not tried" == found.change[0]


def test_a_default_that_beat_everything():
    """Nothing is left to try: only another search, or another platform, can say otherwise."""
    made = Rows()
    for length, rate in ((1, 80), (3, 70), (8, 60), (15, 50)):
        made.add(k(length), rate)
    made.add(OFF, 100)
    found = explained(made, decision([], OFF))

    assert (f"`tuner tune {CODE}` searches again, with fresh starts",) == found.change


def test_kept_because_it_is_not_above_the_noise():
    """The gain that was seen, how many pairs it would need, and what three can prove."""
    made = Rows()
    rng = random.Random(4)
    for _ in range(4):
        made.add(OFF, noisy(100, 0.03, rng))
    found = explained(made, decision(made.pairs(NOISY, k(8)), k(8)))

    assert State.KEPT is found.state
    assert found.sentence.endswith("is not above the noise")
    proven = f"a gain of at least {found.noise.provable_gain:.1%}".replace("%", " %")
    assert found.change[1].startswith(f"{proven}: 3 pairs prove it at this noise")
    assert "more than 12 pairs: fewer do not prove 3.4 % at this noise" == found.change[0]


def test_pairs_that_would_prove_what_was_seen():
    """With less noise between starts the number is one that somebody may wait for."""
    made = Rows()
    for rate in (100.0, 101.0, 102.0, 101.0):
        made.add(OFF, rate)
    pairs = [(100.0, 100.0), (100.0, 106.0), (100.0, 112.0)]
    found = explained(made, decision(made.pairs(pairs, k(8)), k(8)))

    assert found.change[0].startswith("tuning.pairs = ")
    assert found.change[0].endswith("if the 5.9 % that was seen is true")


def test_kept_because_the_gain_is_too_small():
    """It is certain, and less than what is asked for."""
    made = Rows()
    found = explained(
        made, decision(made.pairs([(100.0, 101.9), (100.0, 102.0), (100.0, 102.1)], k(8)), k(8))
    )

    assert "less asked for: tuning.min_gain is 3.0 %, 2.0 % was seen" == found.change[0]


def test_kept_because_of_its_latency():
    """The figure that was too large, beside its limit."""
    made = Rows()
    found = explained(made, decision(made.pairs(GOOD, k(8), tpot_mean_s=0.03), k(8)))

    assert "time per output token within 25 ms (it was 30)" == found.change[0]


def test_kept_because_a_limit_is_broken():
    """The limit and how far the candidate was above it."""
    made = Rows()
    pairs = made.pairs(GOOD, k(8), ttft_p95_s=0.22)
    goals = Goals(limits={"ttft_p95_s": 0.21})
    found = explained(made, decision(pairs, k(8), goals=goals), goals=goals)

    assert "0.22 s breaks limits.ttft_p95_s = 0.21 s" == found.proof.broken
    assert f"a candidate that keeps the limits: {found.proof.broken}" in found.change


def test_other_objectives_are_explained_in_their_own_unit():
    """Pairs of a latency objective used to be shown, and compared, as tokens per second."""
    made = Rows()
    goals = Goals(objective="p95_latency")
    pairs = made.pairs(GOOD, k(8), latency_p95_s=0.5)
    found = explained(made, decision(pairs, k(8), goals=goals), goals=goals)

    assert "s p95 latency" == found.proof.unit
    assert [0.5] * 3 == pytest.approx([pair.candidate for pair in found.proof.pairs])
    assert found.proof.gain == pytest.approx(1.0)  # half of the default's 1 s


def test_kept_because_a_start_failed():
    """The pair and its reason; a failed request refuses too."""
    made = Rows()
    pairs = made.pairs([*GOOD[:2], (100.0, None)], k(8), errors=1)
    found = explained(made, decision(pairs, k(8)))

    expected = "pair 3 without its fault: It ran out of memory."
    assert (expected, "no failed request with the candidate") == found.change[:2]


def test_a_loss_lacks_a_gain():
    """No number of pairs makes it one."""
    made = Rows()
    found = explained(made, decision(made.pairs([(100.0, 80.0)] * 3, k(8)), k(8)))

    assert not any("pairs = " in text or "more than" in text for text in found.change)


def test_quarantined():
    """It was promoted, did harm, and is not used until a time."""
    made, decided = promoted()
    found = explained(made, decided, quarantined=[barred(decided[1], count=2)])

    assert (State.BARRED, "off") == (found.state, found.label)
    assert found.sentence.endswith("but in quarantine; it runs your own configuration")
    assert [Bar(kind="quarantine", sentence="dflash k=8 is barred, for the 2. time: it died",
                until=9.0)] == [*found.bars]  # fmt: skip
    assert "the end of the quarantine" in found.change[0]


def test_a_quarantine_of_something_else():
    """What was only measured for the class is named, and its profile stays; others are not."""
    made, decided = promoted()
    other = barred(decided[1], knobs=k(3).digest(), until=None)
    far = barred(decided[1], knobs="beef")
    found = explained(made, decided, quarantined=[other, far])

    assert State.PROMOTED is found.state
    assert ["dflash k=3 is barred: it died"] == [bar.sentence for bar in found.bars]
    assert found.bars[0].until is None


def test_crashed_points():
    """The evidence of a cone, through the whole explanation."""
    made = Rows()
    made.add(OFF, 100)
    made.add(k(8), failure=FailureKind.OOM_SERVE)
    found = explained(made)

    assert "not tried: trial 2 ran out of memory with less" == found.tried.excluded[0].sentence


def test_on_probation():
    """The end of it is given by the daemon."""
    made, decided = promoted()
    watched = Bar(kind="probation", sentence="is judged", until=7.0)

    assert (watched,) == explained(made, decided, probation=watched).bars


@pytest.mark.parametrize(("times", "said"), [(1, "once"), (2, "2 times, the last")])
def test_learned_live(times, said):
    """What the live loop has settled, then what it knows now."""
    made = Rows()
    live = k(15, live=True, draft_schedule=((1, 8, 5), (9, 64, 2)))
    for _ in range(times):
        made.add(live, 100, phase="live", trial=False)
    now = Learned(sentence="being learned", at=None)
    found = explained(made, mixtures=[now])

    assert State.UNTRIED is found.state
    assert f"was settled on live traffic ({said})" in found.learned[0].sentence
    assert (float(times), now) == (found.learned[0].at, found.learned[1])
    assert (now,) == explained(Rows(), mixtures=[now]).learned


def test_the_noise_of_the_platform_stands_in():
    """A class that was measured once goes by what is known of the others."""
    made = Rows()
    made.add(OFF, 100)
    for rate in (100, 101, 103):
        made.add(OFF, rate, workload=CHAT)
    mine, theirs = explained(made), explained(made, workload=CHAT)

    assert ("platform", "class") == (mine.noise.scope, theirs.noise.scope)
    assert mine.noise.calibration == theirs.noise.calibration
    assert (None, 3) == (mine.noise.default_again, theirs.noise.default_again.starts)
    assert 0.03 < mine.noise.provable_gain
    assert 0 <= mine.noise.false_promotions <= 0.025


def test_an_explanation_is_json():
    """No infinity and no object of ours is in it."""
    made, decided = promoted()
    told = asdict(explained(made, decided, quarantined=[barred(decided[1])]))

    assert told["state"] == json.loads(json.dumps(told, allow_nan=False))["state"]
