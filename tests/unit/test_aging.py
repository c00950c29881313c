import random

import pytest

from profiles.classes import WorkloadClass
from profiles.knobs import Knobs
from profiles.profile import Evidence, Origin, Profile
from service.aging import SIGHTS, SPACING_S, Age, older, stale
from service.policy import Facts
from service.traffic import ClassTraffic, Window

CODE, CHAT = "greedy.balanced.mid", "sampled.balanced.mid"
SURE = Evidence(gain=0.4, gain_low=0.35, gain_high=0.45)
UNSURE = Evidence(gain=0.5, gain_low=0.1, gain_high=1.0)


def profile(evidence=SURE, origin=Origin.SEARCH, length=3):
    return Profile(
        knobs=Knobs(drafter="dflash", draft_length=length),
        platform="here",
        workload=CODE,
        origin=origin,
        evidence=evidence,
    )


def facts(now, tok_s, *, served=None, workload=CODE, requests=50, concurrency=6.0, share=0.9):
    """One look: a class at a speed, a load and a share."""
    found = ClassTraffic(
        workload=WorkloadClass.parse(workload),
        requests=requests,
        tokens=1000.0,
        share=share,
        tok_s=tok_s,
        concurrency=concurrency,
        prompt_tokens=10,
        output_tokens=10,
    )
    window = Window(
        span_s=300.0, requests=requests, tok_s=tok_s, busy=1.0, classes=(found,), applications={}
    )
    return Facts(
        now=now,
        window=window,
        in_force=served or profile(),
        default=profile(origin=Origin.DEFAULT),
        promoted={},
        pins={},
        manual=None,
        plain_waiting=0,
        last_plain_at=None,
        restart_s=30.0,
    )


def lived(rates, **kind):
    """The age of a profile after looks at these speeds, ten minutes apart."""
    age = Age()
    for number, rate in enumerate(rates):
        age = older(age, facts(1000 + number * SPACING_S, rate, **kind), min_requests=30)
    return age


@pytest.mark.parametrize(("later", "words"), [(70.0, "70 tok/s"), (140.0, "140 tok/s")])
def test_an_hour_on_one_side_is_stale(later, words):
    """Slower, or faster: either way the promotion's gain is not what it was."""
    sentence = stale(lived([*[100.0] * SIGHTS, *[later] * SIGHTS]), SURE)

    assert sentence.startswith(words)
    assert "100 at the same load" in sentence


def test_one_look_inside_is_enough_to_wait():
    """Five of six slow looks may be a slow afternoon."""
    assert stale(lived([*[100.0] * SIGHTS, 70, 70, 95, 70, 70, 70]), SURE) is None
    assert stale(lived([*[100.0] * SIGHTS, *[70] * (SIGHTS - 1)]), SURE) is None


def test_a_wide_promotion_is_not_contradicted_by_a_small_move():
    """What the pairs themselves could not tell is no drift."""
    later = [*[100.0] * SIGHTS, *[80.0] * SIGHTS]

    assert stale(lived(later), SURE) is not None
    assert stale(lived(later), UNSURE) is None


def test_noise_is_not_stale():
    """A month of looks with 5 % noise says nothing."""
    rng, age = random.Random(1), Age()
    for number in range(30 * 24 * 6):
        age = older(age, facts(number * SPACING_S, rng.gauss(100, 5)), min_requests=30)
        assert stale(age, SURE) is None


@pytest.mark.parametrize(
    "kind",
    [
        {"requests": 10},
        {"workload": CHAT},
        {"served": profile(origin=Origin.DEFAULT)},
    ],
    ids=["few requests", "another class", "the operator's own"],
)
def test_looks_that_say_nothing_are_not_taken(kind):
    """Nothing was promised, or nothing can be seen."""
    assert lived([100.0, 50.0], **kind).first == ()


@pytest.mark.parametrize("kind", [{"concurrency": 12.0}, {"share": 0.3}])
def test_other_loads_are_not_compared(kind):
    """Half the speed at twice the load is no drift."""
    age = lived([100.0] * SIGHTS)

    assert age == older(age, facts(1e6, 50.0, **kind), min_requests=30)


def test_looks_have_their_distance():
    """A decision every five seconds is not a look every five seconds."""
    age = lived([100.0])

    assert age == older(age, facts(1000 + SPACING_S / 2, 50.0), min_requests=30)
    assert 2 == len(older(age, facts(1000 + SPACING_S, 50.0), min_requests=30).first)


def test_another_profile_begins_anew():
    """A schedule that was learned live is another profile."""
    age = lived([*[100.0] * SIGHTS, 70.0])
    fresh = older(age, facts(1e6, 80.0, served=profile(length=5)), min_requests=30)

    assert ([80.0], ()) == ([each.tok_s for each in fresh.first], fresh.later)
