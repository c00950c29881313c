import math
import random

import pytest
from searching import measurement

from profiles.knobs import Knobs
from profiles.measurement import Acceptance, FailureKind
from tuner.promotion import MIN_PAIRS, Pair, already_best, clear, decide, schedule_pairs

DFLASH = Knobs(drafter="dflash", draft_length=8)


def pairs(rates, *, base=100.0, before=None, **candidate):
    return [
        Pair(
            default=measurement(f"d{n}", rate=base, **(before or {})),
            candidate=measurement(f"c{n}", DFLASH, rate=rate, **candidate),
        )
        for n, rate in enumerate(rates)
    ]


def verdict(made, *, planned=3, min_gain=0.03, **more):
    return decide(made, min_gain=min_gain, planned_pairs=planned, trials=12, **more)


def test_clear_gain_is_promoted_with_its_evidence():
    """The quoted gain is that of the promotion's own pairs, with its interval."""
    found = verdict(pairs([141, 142, 143]))

    assert found.promote
    assert "dflash k=8: +42.0 % tok/s [+39.5, +44.5] over 3 start pairs" == found.sentence
    assert found.sentence == found.evidence.sentence
    assert 0.42 == pytest.approx(found.evidence.gain, abs=1e-3)
    assert (3, 12, 0.95) == (
        found.evidence.pairs,
        found.evidence.trials,
        found.evidence.confidence,
    )
    assert 100 == pytest.approx(found.evidence.default_tok_s)


def test_gain_within_the_noise_is_not_promoted():
    """An interval that holds zero keeps the default, and the sentence shows the numbers."""
    found = verdict(pairs([95, 104, 109]))

    assert not found.promote
    assert found.sentence.startswith("kept the default: +2.5 % tok/s [")
    assert found.sentence.endswith("is not above the noise")


def test_small_certain_gain_is_not_worth_a_switch():
    """A gain above the noise but not above min_gain keeps the default."""
    found = verdict(pairs([101.9, 102.0, 102.1]))

    assert not found.promote
    assert found.sentence.endswith("is not more than the 3.0% asked for")


def test_certain_loss_is_called_a_loss():
    """A slower candidate is not described as noise."""
    found = verdict(pairs([80, 81, 82]))

    assert not found.promote
    assert found.sentence.endswith("is a loss")


def test_failed_start_keeps_the_default():
    """A pair with a failure is not replaced by a luckier one: the plan was not met."""
    made = pairs([150, 150])
    made.append(
        Pair(
            default=measurement("d9"),
            candidate=measurement("c9", DFLASH, failure=FailureKind.OOM_SERVE),
        )
    )

    found = verdict(made)

    assert not found.promote
    assert (
        "kept the default: 2 of 3 start pairs gave a usable measurement (It ran out of memory)"
        == found.sentence
    )
    assert found.evidence.gain is None


def test_missing_pair_keeps_the_default():
    """Fewer pairs than planned decide nothing, however good they look."""
    found = verdict(pairs([150, 151]))

    assert not found.promote
    assert "kept the default: 2 of 3 start pairs gave a usable measurement" == found.sentence


@pytest.mark.parametrize(("hits", "promoted"), [(0.3, True), (0.9, False)])
def test_arms_with_another_prefix_cache_are_no_pair(hits, promoted):
    """A candidate that found its prompts cached was not compared with the default."""
    made = pairs([150, 151, 152])
    made[1] = Pair(
        default=made[1].default.model_copy(update={"cache_hits": 0.2}),
        candidate=made[1].candidate.model_copy(update={"cache_hits": hits}),
    )
    found = verdict(made)

    assert promoted == found.promote
    assert promoted or (
        "kept the default: 2 of 3 start pairs gave a usable measurement (the prefix cache had "
        "20% of one arm's prompts and 90% of the other's)" == found.sentence
    )


def test_failed_requests_keep_the_default():
    """Speed with errors is not speed."""
    found = verdict(pairs([150, 151, 152], errors=1))

    assert not found.promote
    assert "3 requests failed with the candidate" in found.sentence


@pytest.mark.parametrize(
    ("latency", "name"), [({"ttft": 0.3}, "TTFT p95"), ({"tpot": 0.02}, "time per output token")]
)
def test_latency_guard(latency, name):
    """Throughput bought with latency is refused above the factor, and allowed by a larger one."""
    made = pairs([150, 151, 152], **latency)

    assert name in verdict(made).sentence
    assert not verdict(made).promote
    assert verdict(made, latency_factor=4).promote


def test_latency_that_nobody_feels_is_allowed():
    """TTFT may triple as long as it stays within the slack."""
    assert verdict(pairs([150, 151, 152], before={"ttft": 0.01}, ttft=0.03)).promote


def test_missing_latency_refuses_nothing():
    """A sensor that is not there is no reason."""
    assert verdict(pairs([150, 151, 152], ttft=None, tpot=None)).promote


def test_acceptance_is_averaged_over_the_pairs():
    """Evidence carries the mean acceptance length of the candidate's starts."""
    made = [
        Pair(
            default=pair.default,
            candidate=pair.candidate.model_copy(
                update={"acceptance": Acceptance(drafts=10, draft_tokens=80, accepted_tokens=a)}
            ),
        )
        for pair, a in zip(pairs([150, 151, 152]), (10, 20, 30), strict=True)
    ]

    assert 3.0 == pytest.approx(verdict(made).evidence.acceptance_length)


def test_more_pairs_than_planned_are_refused():
    """Adding pairs until it fits would make the interval a lie."""
    with pytest.raises(ValueError, match="4 pairs, but 3 were planned"):
        verdict(pairs([150, 151, 152, 153]))


def test_a_single_pair_cannot_be_planned():
    """One pair has no spread."""
    with pytest.raises(ValueError, match="at least two"):
        verdict(pairs([150]), planned=1)


def test_blocks_of_one_start_are_no_replicates():
    """Two pairs of the same engine start share its luck."""
    one = pairs([150])[0]

    with pytest.raises(ValueError, match="share a start"):
        verdict([one, one], planned=2)


def test_leader_that_is_the_default_has_its_sentence():
    """Nothing to promote is an honest, often right, result."""
    found = already_best(9)

    assert not found.promote
    assert "your configuration is already the best of 9 tried" == found.sentence


def test_equal_configurations_are_rarely_promoted():
    """A/A: 3 pairs of starts with 2.5 % noise promote at most 4 % of 500 runs, 2.5 % by theory."""
    rng = random.Random(7)
    promoted = 0
    for _ in range(500):
        made = [
            Pair(
                default=measurement(f"d{n}", rate=1000 * math.exp(rng.gauss(0, 0.025))),
                candidate=measurement(f"c{n}", DFLASH, rate=1000 * math.exp(rng.gauss(0, 0.025))),
            )
            for n in range(3)
        ]
        promoted += verdict(made).promote

    assert promoted / 500 <= 0.04


def test_schedule_has_every_arm_once_a_round():
    """Candidates share the default's start of each round; the order is shuffled by the seed."""
    rounds = schedule_pairs(12, ("a", "b"), seed=3)

    assert [["a", "b", "default"]] * 12 == [sorted(order) for order in rounds]
    assert len(set(rounds)) > 2
    assert rounds == schedule_pairs(12, ("a", "b"), seed=3)
    assert rounds != schedule_pairs(12, ("a", "b"), seed=4)


@pytest.mark.parametrize("arms", [("default",), ("a", "a")])
def test_schedule_refuses_ambiguous_arms(arms):
    """Every arm has its own name."""
    with pytest.raises(ValueError, match="must be distinct"):
        schedule_pairs(2, arms, seed=0)


# --- judged after every pair ----------------------------------------------------------------------


def sequential(rng, *, gain=0.0, noise=0.025, most=12, min_gain=0.03):
    """A promotion that is looked at after every pair, as a session does."""
    made = []
    while len(made) < most and not clear(made, min_gain=min_gain):
        rate = 100 * (1 + gain) * math.exp(rng.gauss(0, noise * math.sqrt(2)))
        made.append(pairs([rate] * (len(made) + 1))[-1])
    return decide(made, min_gain=min_gain, planned_pairs=most, sequential=True)


def test_sequential_promotion_needs_four_pairs_at_least():
    """The interval that holds at every look is infinite before: even a hundredfold says nothing."""
    assert not clear(pairs([9000, 9001, 9002]), min_gain=0.03)
    few = decide(pairs([9000, 9001, 9002]), min_gain=0.03, planned_pairs=12, sequential=True)
    assert not few.promote
    assert "3 of 12 start pairs" in few.sentence
    assert clear(pairs([141, 142, 143, 142]), min_gain=0.03)
    assert MIN_PAIRS == 4


def test_sequential_promotion_ends_early_without_a_gain():
    """What cannot reach the gain asked for any more costs no further starts."""
    assert clear(pairs([99.9, 100.0, 100.1, 100.0, 99.9, 100.1]), min_gain=0.03)


def test_looking_after_every_pair_promotes_nothing_that_is_equal():
    """A/A: at most 2 % of simulated promotions, although each is looked at up to nine times."""
    rng = random.Random(1)
    promoted = sum(sequential(rng).promote for _ in range(400))

    assert promoted <= 8


def test_sequential_promotion_finds_what_is_there():
    """Twelve per cent at 2.5 % noise of a start: nine of ten are found within twelve pairs."""
    rng = random.Random(2)
    found = [sequential(rng, gain=0.12) for _ in range(100)]

    assert sum(each.promote for each in found) >= 90
    assert sum(each.evidence.pairs for each in found) / len(found) < 9
