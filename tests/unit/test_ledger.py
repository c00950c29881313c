"""What a switch costs and gives, and which ones were avoided."""

import pytest

from profiles.classes import RequestClass
from profiles.knobs import Knobs
from profiles.profile import Evidence, Origin, Profile, default_profile
from profiles.records import Account, StayKind
from service.ledger import Wish, demand, episode, kind, lost, served, totals
from service.traffic import Record

CODE, CHAT = "greedy.balanced", "sampled.balanced"
DEFAULT = default_profile("here", Knobs())


def profile(length, low=0.25, origin=Origin.SEARCH):
    return Profile(
        knobs=Knobs(drafter="ngram", draft_length=length),
        platform="here",
        workload=f"{CODE}.low",
        origin=origin,
        evidence=Evidence(gain=0.5, gain_low=low),
    )


def record(tokens, *, under, request=CODE, outcome="ok"):
    return Record(
        at=1.0,
        application="web",
        request=RequestClass.parse(request),
        outcome=outcome,
        prompt_tokens=5,
        completion_tokens=tokens,
        output_bytes=0,
        ttft_s=0.1,
        duration_s=1.0,
        held_s=0.0,
        profile=under.id,
        plain=False,
    )


FAST, OTHER = profile(3), profile(8)


def test_gained_is_what_the_default_would_not_have_made():
    """At 1.25 times the rate a fifth of the tokens is gained: the lower end, not the point."""
    found = served([record(600, under=FAST), record(400, under=FAST)], FAST)

    assert (1000.0, 200.0) == pytest.approx((found.tokens, found.gained))


@pytest.mark.parametrize(
    ("odd", "tokens"),
    [({"request": CHAT}, 1500), ({"under": OTHER}, 1000), ({"outcome": "truncated"}, 1000)],
    ids=str,
)
def test_nothing_is_gained_that_was_not_proven(odd, tokens):
    """Another class was served but proves nothing; another profile and a failure do not count."""
    rows = [record(1000, under=FAST), record(500, **{"under": FAST, **odd})]
    found = served(rows, FAST)

    assert (tokens, 200.0) == pytest.approx((found.tokens, found.gained))


@pytest.mark.parametrize(
    "without", [DEFAULT, profile(3, low=None), profile(3, origin=Origin.IMPORT)]
)
def test_a_profile_without_a_proof_gains_nothing(without):
    """The default, an unproven profile and an import serve, and that is all."""
    found = served([record(1000, under=without)], without)

    assert (1000.0, 0.0) == (found.tokens, found.gained)


def test_demand_is_what_was_asked_for_per_second():
    """Failures asked for nothing that could be counted; no span, no demand."""
    rows = [record(300, under=FAST), record(99, under=FAST, outcome="error")]

    assert 10.0 == demand(rows, 30.0)
    assert 0.0 == demand(rows, 0.0)


@pytest.mark.parametrize(
    ("before", "after", "live", "tuned", "expected"),
    [
        (DEFAULT, FAST, False, False, StayKind.RESTART),
        (DEFAULT, FAST, True, False, StayKind.LIVE),
        (DEFAULT, FAST, False, True, StayKind.TUNED),
        (FAST, FAST, False, False, StayKind.AGAIN),
        (None, FAST, False, False, StayKind.AGAIN),
    ],
)
def test_how_a_profile_came_into_force(before, after, live, tuned, expected):
    """A boot and a repeated start are no switches; a search ends with a start anyway."""
    assert expected is kind(before, after, live=live, tuned=tuned)


def test_only_a_restart_for_its_own_sake_costs():
    """Seconds times demand; everything else is free."""
    free = {each: lost(each, 40.0, 25.0) for each in StayKind if each is not StayKind.RESTART}

    assert (40.0, 1000.0) == lost(StayKind.RESTART, 40.0, 25.0)
    assert {(None, 0.0)} == set(free.values())


def test_a_switch_is_avoided_once_per_episode():
    """It is counted when what was wanted is not wanted any more."""
    wish, avoided = None, []
    for wanted in (None, FAST, FAST, FAST, None, None, FAST, None):
        wish, ended = episode(wish, wanted, "code is 80 %", DEFAULT, switch=False)
        avoided += [ended] if ended is not None else []

    assert [Wish(profile=FAST, why="code is 80 %")] * 2 == avoided
    assert wish is None


def test_another_wish_ends_the_first():
    """Two better profiles in turn are two episodes."""
    wish, _ = episode(None, FAST, "code", DEFAULT, switch=False)
    wish, ended = episode(wish, OTHER, "chat", DEFAULT, switch=False)

    assert (OTHER, FAST) == (wish.profile, ended.profile)


def test_what_is_in_force_is_not_wished_for():
    """A decision from before the switch does not open an episode after it."""
    assert (None, None) == episode(None, FAST, "code", FAST, switch=False)


def test_a_switch_that_was_decided_is_not_avoided():
    """Once a switch was counted as avoided while its engine was being started."""
    wish, _ = episode(None, FAST, "code", DEFAULT, switch=False)

    assert (None, None) == episode(wish, None, "code", DEFAULT, switch=True)


def test_totals_are_sums():
    """All profiles together; none is zero everywhere."""
    accounts = [
        Account(profile="a", switches=2, lost_tokens=400.0, gained_tokens=90.0, restart_s=40.0),
        Account(profile="b", switches=1, live_switches=7, avoided=5, served_tokens=10.0),
    ]
    found = totals(accounts)

    assert (3, 7, 5) == (found.switches, found.live_switches, found.avoided)
    assert (40.0, 400.0, 10.0, 90.0) == (
        found.restart_s,
        found.lost_tokens,
        found.served_tokens,
        found.gained_tokens,
    )
    assert 0 == totals([]).switches
