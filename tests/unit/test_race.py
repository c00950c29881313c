import math
import random

import pytest

from tuner.cells import Cell
from tuner.compare import interval
from tuner.race import Rules, log_ratio, radius_factor, standing

LENGTHS = (0, 1, 2, 3, 4, 6, 8, 10, 12, 15)
# published goodput in tok/s at concurrency 1 and 8
SINGLE = dict(zip(LENGTHS, (87, 135, 169, 194, 195, 188, 206, 208, 186, 183), strict=True))
EIGHT = dict(zip(LENGTHS, (585, 834, 897, 953, 875, 846, 807, 699, 717, 622), strict=True))


def cell(tok_s, steps=16):
    """A slice of so many steps at this goodput; the seconds are long to keep tokens whole."""
    return Cell(steps=steps, tokens=round(tok_s * 1000), seconds=1000.0)


def traffic(seed, landscape, *, noise=0.05, drift=0.05, slow=0.03, by=0.10):
    """Rounds without end: noise per slice, slow slices, and a drift common to a round."""
    rng = random.Random(seed)
    while True:
        common = rng.gauss(0, drift)
        yield {
            arm: {
                8: cell(
                    tok_s
                    * math.exp(common + rng.gauss(0, noise))
                    * (1 - by if rng.random() < slow else 1)
                )
            }
            for arm, tok_s in landscape.items()
        }


def quiet(landscape, rounds):
    """Rounds without noise."""
    return [{arm: {8: cell(tok_s)} for arm, tok_s in landscape.items()}] * rounds


def test_arms_are_compared_at_equal_batch_sizes_only():
    """Weights are the steps both have; what only one of them saw does not count."""
    ours = {1: cell(110, steps=10), 2: cell(240, steps=30), 3: cell(999)}
    theirs = {1: cell(100, steps=20), 2: cell(200, steps=15), 4: cell(1)}

    found = log_ratio(ours, theirs, min_steps=4)

    assert pytest.approx((10 * math.log(1.1) + 15 * math.log(1.2)) / 25) == found


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({1: cell(100)}, {2: cell(100)}),
        ({1: cell(100, steps=3)}, {1: cell(100)}),
        ({1: cell(0)}, {1: cell(100)}),
        ({1: cell(100)}, {1: Cell(steps=5, tokens=0, seconds=1.0)}),
    ],
)
def test_nothing_in_common_is_no_comparison(ours, theirs):
    """No common batch size, too few steps, or no token: the round is silent for this pair."""
    assert log_ratio(ours, theirs, min_steps=4) is None


def test_radius_without_borrowed_freedom_is_the_one_of_promotions():
    """The interval is the t-mixture of `tuner.compare`, with the degrees of freedom set free."""
    values = [0.03, -0.01, 0.05, 0.02, 0.01, 0.04]
    found = interval(values, alpha=0.01)
    deviation = math.sqrt(sum((value - found.mean) ** 2 for value in values) / 5)

    assert pytest.approx(found.high - found.mean) == deviation * radius_factor(6, 5, 0.01, 4.0)


def test_radius_is_infinite_while_there_is_too_little():
    """One round, or two without help from other arms, bound nothing."""
    assert math.inf == radius_factor(1, 0, 0.05)
    assert math.inf == radius_factor(2, 1, 0.05)
    assert math.isfinite(radius_factor(2, 10, 0.05))


def test_race_needs_an_arm():
    """An empty race is a mistake of the caller."""
    with pytest.raises(ValueError, match="at least one arm"):
        standing([], [])


def test_single_arm_has_won():
    """With nothing to choose from nothing is measured."""
    found = standing([], [3])

    assert (3, True, 0, 1.0) == (found.leader, found.decided, found.rounds, found.confidence)
    assert "draft length 3 is the best of 1 after 0 rounds" == found.sentence


def test_nothing_compared_says_so():
    """Before the first comparison the smallest arm stands in, undecided."""
    found = standing([{3: {1: cell(100)}, 5: {2: cell(100)}}, {3: {1: cell(100)}}], [5, 3])

    assert (3, False, False, 0) == (found.leader, found.decided, found.over, found.rounds)
    assert "no two arms of 2 were compared yet" == found.sentence
    assert {} == found.gains


def test_hopeless_arms_leave_in_the_first_rounds():
    """With eleven arms the pooled noise throws out 40 % worse ones by the fourth round."""
    landscape = dict.fromkeys(range(10), 100.0) | {15: 60.0}
    rounds = [each for each, _ in zip(traffic(1, landscape), range(4), strict=False)]

    found = standing(rounds, list(landscape))

    assert {15} == set(found.out)
    assert found.out[15].startswith("draft length 15 is -4")
    assert 15 not in found.survivors
    assert 0 > found.gains[15].high


def test_arm_that_left_stays_out():
    """Later rounds cannot bring it back, however good."""
    rounds = [*quiet({1: 100, 2: 50, 3: 100}, 5), *quiet({1: 100, 2: 500, 3: 100}, 40)]

    found = standing(rounds, [1, 2, 3], Rules(indifference=1e-9, max_rounds=45))

    assert {2} == set(found.out)
    assert (1, 3) == found.survivors


def test_tie_goes_to_the_smaller_arm():
    """Half a percent is not worth a longer draft."""
    found = standing(quiet({3: 100, 8: 100.5, 15: 80}, 30), [3, 8, 15])

    assert (3, True, (3, 8)) == (found.leader, found.decided, found.survivors)
    assert pytest.approx(math.log(1.005), abs=1e-4) == found.gains[8].mean
    assert f"draft length 3 is as good as any of 3 after {found.rounds} rounds; equal: 8" == (
        found.sentence
    )


def test_last_survivor_wins():
    """A clear winner ends the race as soon as the others are out."""
    found = standing(quiet({3: 100, 8: 120}, 30), [3, 8], noun="batch cap")

    assert (8, True, True, (8,)) == (found.leader, found.decided, found.over, found.survivors)
    assert found.sentence.startswith("batch cap 8 is the best of 2 after")
    assert found.rounds < 30
    assert 2 * found.rounds == found.slices
    assert 0.95 <= found.confidence


def test_race_that_cannot_tell_says_undecided():
    """At the last round the leader is named with what could not be told apart from it."""
    found = standing(traffic(3, {3: 100, 8: 102}, noise=0.2), [3, 8], Rules(max_rounds=20))

    assert (20, True, False) == (found.rounds, found.over, found.decided)
    assert found.sentence.startswith("undecided after 20 rounds: draft length ")
    assert 0.95 > found.confidence


def test_race_under_way_says_who_leads():
    """Between two rounds `tuner status` shows the leader and who is left."""
    rounds = [each for each, _ in zip(traffic(3, {3: 100, 8: 103}), range(5), strict=False)]

    found = standing(rounds, [3, 8])

    assert not found.over
    assert "leads after 5 rounds; still in the race: " in found.sentence


def test_one_round_proves_nothing():
    """Even when rules ask for one round only, two arms that met once are not told apart."""
    found = standing(quiet({3: 100, 8: 50}, 1), [3, 8], Rules(min_rounds=1))

    assert ((3, 8), False, 0.0) == (found.survivors, found.decided, found.confidence)
    assert -math.inf == found.gains[8].low


def test_arm_that_was_never_visited_stays_in_the_race():
    """An arm without a comparison is neither thrown out nor ignored for the decision."""
    found = standing(quiet({3: 100, 8: 120}, 30), [3, 8, 15], Rules(max_rounds=25))

    assert (8, False, (8, 15)) == (found.leader, found.decided, found.survivors)
    assert 15 not in found.gains


def test_rounds_of_other_batch_sizes_do_not_count():
    """A round in which this bucket was not served does not use up the race."""
    empty = [{3: {}, 8: {}}] * 300

    assert 0 == standing(empty, [3, 8]).rounds


def test_one_stall_does_not_hold_the_race_up():
    """A slice of one tenth of the speed costs little: it is drawn in to three deviations."""
    rounds = [each for each, _ in zip(traffic(4, {3: 100, 8: 90}), range(60), strict=False)]
    stalled = [*rounds[:7], {3: {8: cell(10)}, 8: rounds[7][8]}, *rounds[8:]]

    found = standing(stalled, [3, 8])

    assert (3, True) == (found.leader, found.decided)
    assert found.rounds <= standing(rounds, [3, 8]).rounds + 15


@pytest.mark.parametrize(
    ("landscape", "most_rounds", "most_slices"), [(SINGLE, 100, 300), (EIGHT, 20, 90)]
)
def test_published_landscapes_are_decided_soon_and_well(landscape, most_rounds, most_slices):
    """Ten draft lengths, 5 % noise: half of the races end within a minute of slices, all well."""
    found = [standing(traffic(seed, landscape), LENGTHS) for seed in range(60)]
    best = max(landscape.values())

    assert 59 <= sum(landscape[each.leader] >= 0.98 * best for each in found)
    assert 58 <= sum(each.decided for each in found)
    assert most_rounds >= sorted(each.rounds for each in found)[30]
    assert most_slices >= sorted(each.slices for each in found)[30]


@pytest.mark.parametrize("slow", [{"slow": 0.03, "by": 0.1}, {"slow": 0.01, "by": 0.5}])
def test_equal_arms_stay_in_the_race(slow):
    """A/A: in at most 5 % of races that never stop early a given arm is thrown out."""
    equal, rules = dict.fromkeys((0, 3, 8), 500), Rules(indifference=1e-9, max_rounds=60)

    out = [3 in standing(traffic(seed, equal, **slow), [0, 3, 8], rules).out for seed in range(120)]

    assert sum(out) <= 6


def correlated(seed, arms, rounds, correlation=0.3):
    """Equal arms whose noise lasts from one round to the next."""
    rng = random.Random(seed)
    state = dict.fromkeys(arms, 0.0)
    fresh = 0.05 * math.sqrt(1 - correlation**2)
    for _ in range(rounds):
        state = {arm: correlation * state[arm] + rng.gauss(0, fresh) for arm in arms}
        yield {arm: {8: cell(500 * math.exp(state[arm]))} for arm in arms}


def test_rounds_that_resemble_their_neighbours_are_trusted_less(monkeypatch):
    """One text lasts for several rounds: taken as independent they throw out far more arms."""
    arms, rules = (0, 3, 8, 15), Rules(indifference=1e-9, max_rounds=50)

    def thrown_out():
        races = [standing(correlated(seed, arms, 50), arms, rules) for seed in range(50)]
        return sum(len(race.out) for race in races)

    trusted_less = thrown_out()
    monkeypatch.setattr("tuner.race.ECHO", 0.0)

    assert trusted_less <= 0.10 * 50 * len(arms)
    assert trusted_less <= 0.75 * thrown_out()
