"""The ledger over any series of decisions and switches."""

from hypothesis import given
from hypothesis import strategies as st

from profiles.classes import CODES
from profiles.knobs import Knobs
from profiles.profile import Evidence, Origin, Profile, default_profile
from profiles.records import StayKind
from service import ledger
from service.traffic import Record

DEFAULT = default_profile("here", Knobs())
PROFILES = [
    DEFAULT,
    *(
        Profile(
            knobs=Knobs(drafter="ngram", draft_length=length),
            platform="here",
            workload=f"{CODES[length]}.low",
            origin=Origin.SEARCH,
            evidence=Evidence(gain_low=low),
        )
        for length, low in [(1, None), (2, 0.0), (3, 0.4), (4, 3.0)]
    ),
]
some = st.sampled_from(PROFILES)
amounts = st.floats(0, 1e6)


@st.composite
def records(draw):
    """A finished request of any class under any profile."""
    return Record(
        at=draw(amounts),
        application="web",
        request=draw(st.sampled_from(CODES)),
        outcome=draw(st.sampled_from(["ok", "engine_error"])),
        prompt_tokens=None,
        completion_tokens=draw(st.integers(0, 10_000)),
        output_bytes=0,
        ttft_s=None,
        duration_s=1.0,
        held_s=0.0,
        profile=draw(some).id,
        plain=False,
    )


@given(some | st.none(), some, st.booleans(), st.booleans(), st.floats(-1, 1e4), st.floats(-1, 1e4))
def test_costs_are_never_negative_and_live_switches_are_free(
    before, after, live, tuned, restart_s, demand
):
    """A restart-free change costs nothing, and no clock or counter makes a cost a gain."""
    how = ledger.kind(before, after, live=live, tuned=tuned)
    seconds, tokens = ledger.lost(how, restart_s, demand)

    assert tokens >= 0
    assert (how is StayKind.RESTART) == (seconds is not None)
    if live:
        assert 0 == tokens


@given(st.lists(records(), max_size=20), some, st.randoms())
def test_the_order_of_records_does_not_matter(rows, profile, rng):
    """Gained is part of served, and sums do not depend on who answered first."""
    shuffled = [*rows]
    rng.shuffle(shuffled)
    one, other = ledger.served(rows, profile), ledger.served(shuffled, profile)

    assert one.tokens == other.tokens
    assert abs(one.gained - other.gained) <= 1e-6 * max(1.0, one.tokens)
    assert 0 <= one.gained <= one.tokens


@given(st.lists(records(), max_size=20), st.integers(0, 20), some)
def test_entries_may_be_cut_anywhere(rows, at, profile):
    """Two entries of one stay hold what one entry would."""
    whole = ledger.served(rows, profile)
    parts = [ledger.served(part, profile) for part in (rows[:at], rows[at:])]

    assert whole.tokens == sum(part.tokens for part in parts)


@given(st.lists(st.tuples(some | st.none(), st.booleans()), max_size=40), some)
def test_no_more_is_avoided_than_was_wished_for(series, in_force):
    """Every wish ends once: fulfilled by a switch, avoided, or still open; in their order."""
    wish, avoided, begun, fulfilled = None, [], [], []
    for wanted, switch in series:
        before = wish
        wish, ended = ledger.episode(wish, wanted, "why", in_force, switch=switch)
        if wish is not None and (before is None or before.profile.id != wish.profile.id):
            begun.append(wish.profile.id)
        if switch and before is not None:
            fulfilled.append(len(avoided) + len(fulfilled))
        avoided += [] if ended is None else [ended.profile.id]

    still_open = 0 if wish is None else 1
    ended = begun[: len(begun) - still_open]
    assert avoided == [each for place, each in enumerate(ended) if place not in fulfilled]
    assert in_force.id not in begun
