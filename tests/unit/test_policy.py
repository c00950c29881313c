"""When a profile is put in force: correctness, the operator, pins, then gain that pays."""

import math
from dataclasses import replace

import pytest

from profiles.classes import WorkloadClass
from profiles.knobs import Knobs
from profiles.profile import Evidence, Origin, Profile, default_profile
from service.policy import FOREIGN_LOSS, PIN_SHARE, Facts, Ledger, decide, switched, wanted
from service.traffic import ClassTraffic, Window
from tuner.config import PolicyConfig

NOW = 1_000_000.0
CODE, CHAT = "greedy.balanced.low", "sampled.balanced.low"
CONFIG = PolicyConfig(
    interval_s=10.0,
    dwell_s=100.0,
    switches_per_hour=2,
    patience=1.5,
    min_requests=30,
    plain_s=600.0,
)
RESTART_S = 40.0
PRICE = CONFIG.patience * RESTART_S


def profile(length, workload=CODE, *, low=0.5):
    """A profile with this draft length and this lower end of its gain."""
    drafter = None if length == "off" else "ngram"
    return Profile(
        knobs=Knobs(drafter=drafter, draft_length=length),
        platform="here",
        workload=workload,
        origin=Origin.SEARCH,
        evidence=Evidence(gain_low=low),
    )


def scheduled(k, workload=CODE, **more):
    """A profile that one live engine can have, whatever its draft length is."""
    fields = {"draft_schedule": ((1, 64, k),), **more}
    return profile(15, workload).model_copy(
        update={"knobs": Knobs(drafter="ngram", draft_length=15, live=True, **fields)}
    )


DEFAULT = default_profile("here", Knobs())
FAST, OTHER = profile(3), profile(8, CHAT)


def traffic(*shares, applications=None, requests=100, busy=1.0):
    """A window with these (workload, share) pairs."""
    classes = tuple(
        ClassTraffic(
            workload=WorkloadClass.parse(workload),
            requests=10,
            tokens=1000 * share,
            share=share,
            tok_s=10.0,
            concurrency=4.0,
            prompt_tokens=10,
            output_tokens=10,
        )
        for workload, share in shares
    )
    return Window(
        span_s=300.0,
        requests=requests,
        tok_s=10.0,
        busy=busy,
        classes=classes,
        applications=applications or {},
    )


def facts(**fields):
    """What is known in a quiet hour: code is 80 % of the traffic, and FAST was promoted for it."""
    base = {
        "now": NOW,
        "window": traffic((CODE, 0.8), (CHAT, 0.2)),
        "in_force": DEFAULT,
        "default": DEFAULT,
        "promoted": {CODE: FAST},
        "pins": {},
        "manual": None,
        "plain_waiting": 0,
        "last_plain_at": None,
        "restart_s": RESTART_S,
    }
    return Facts(**(base | fields))


def decide_until(given, ledger=None, limit=1000):
    """Decide every interval; the number of the decision that switches, and that decision."""
    ledger = ledger or Ledger()
    for number in range(1, limit):
        moment = replace(given, now=given.now + number * CONFIG.interval_s)
        decision, ledger = decide(moment, ledger, CONFIG)
        if decision.switch:
            return number, decision, ledger
    return None, decision, ledger


# --- what is wanted ------------------------------------------------------------------------------


def test_the_dominant_class_gets_its_profile():
    """The winner of the class with the most tokens is wanted, and the sentence says how many."""
    target, why, urgent = wanted(facts(), CONFIG)

    assert (FAST, False) == (target, urgent)
    assert f"{CODE} is 80 % of tokens in the last 5 min" == why


def test_a_class_that_was_never_tuned_gets_the_default():
    """No promotion: the operator's own configuration."""
    target, _, _ = wanted(facts(promoted={}, in_force=FAST), CONFIG)

    assert DEFAULT == target


@pytest.mark.parametrize("window", [traffic(), traffic((CODE, 1.0), requests=29)])
def test_too_little_traffic_changes_nothing(window):
    """Without a class, what is in force stays in force."""
    target, why, _ = wanted(facts(window=window, in_force=OTHER), CONFIG)

    assert OTHER == target
    assert "too little traffic" in why


def test_the_operator_wins_over_pins_and_classes():
    """`tuner use` is urgent and above everything but correctness."""
    given = facts(
        manual=OTHER, pins={"a": FAST}, window=traffic((CODE, 1.0), applications={"a": 1.0})
    )
    target, _, urgent = wanted(given, CONFIG)

    assert (OTHER, True) == (target, urgent)


def test_a_pin_wins_over_the_class():
    """A pinned application with its share of tokens gets its profile."""
    window = traffic((CODE, 1.0), applications={"a": 30.0, "b": 70.0})
    target, why, urgent = wanted(facts(window=window, pins={"a": OTHER}), CONFIG)

    assert (OTHER, False) == (target, urgent)
    assert "a is pinned to it and makes 30 % of tokens" == why


def test_a_pin_of_a_small_application_does_not_turn_the_engine():
    """Below its share a pin waits for the traffic of its application."""
    share = PIN_SHARE * 100 - 1
    window = traffic((CODE, 1.0), applications={"a": share, "b": 100 - share})

    assert FAST == wanted(facts(window=window, pins={"a": OTHER}), CONFIG)[0]


def test_of_two_pinned_applications_the_larger_one_decides():
    """One engine cannot serve two pins: the one with more tokens wins."""
    window = traffic((CODE, 1.0), applications={"a": 40.0, "b": 60.0})

    assert OTHER == wanted(facts(window=window, pins={"a": FAST, "b": OTHER}), CONFIG)[0]


def test_pins_without_traffic_are_harmless():
    """A window without tokens does not divide by zero."""
    window = traffic((CODE, 1.0), applications={"a": 0.0})

    assert FAST == wanted(facts(window=window, pins={"a": OTHER}), CONFIG)[0]


def test_a_hold_of_an_idle_engine_comes_into_force_at_once():
    """Nobody else pays for the restart, so it has to earn nothing; dwell still counts."""
    idle = facts(window=traffic(busy=0.0), held={"a": FAST}, pins={"a": FAST})
    decision, _ = decide(idle, Ledger(), CONFIG)
    recent, _ = decide(idle, Ledger(switched_at=(NOW - 1,)), CONFIG)

    assert (FAST, True) == (decision.profile, decision.switch)
    assert "a holds it, and nobody has traffic" == decision.why
    assert not recent.switch


def test_a_hold_beside_the_traffic_of_others_counts_as_a_pin():
    """One application cannot turn the engine for everybody by holding a profile."""
    others = traffic((CODE, 1.0), applications={"b": 100.0})
    shared = traffic((CODE, 1.0), applications={"a": 50.0, "b": 50.0})
    held = {"held": {"a": OTHER}, "pins": {"a": OTHER}}
    target, why, urgent = wanted(facts(window=shared, **held), CONFIG)

    assert FAST == wanted(facts(window=others, **held), CONFIG)[0]
    assert (OTHER, False) == (target, urgent)
    assert "a holds it and makes 50 % of tokens" == why


def test_of_two_holds_the_larger_application_decides_or_the_newest():
    """With traffic the one with more tokens, as with pins; without any the newest."""
    held = {"a": FAST, "b": OTHER}
    idle = facts(window=traffic(busy=0.0), held=held, pins=held)
    busy = facts(
        window=traffic((CODE, 1.0), applications={"a": 60.0, "b": 40.0}), held=held, pins=held
    )

    assert OTHER == wanted(idle, CONFIG)[0]
    assert FAST == wanted(busy, CONFIG)[0]


# --- requests that vLLM refuses while it speculates -----------------------------------------------


def test_a_waiting_plain_request_turns_speculation_off_at_once():
    """Correctness is above the operator's choice, dwell and price."""
    given = facts(in_force=FAST, manual=FAST, plain_waiting=1)
    decision, _ = decide(given, Ledger(switched_at=(NOW - 1, NOW - 2, NOW - 3)), CONFIG)

    assert (DEFAULT, True) == (decision.profile, decision.switch)
    assert "min_p" in decision.why


@pytest.mark.parametrize(("ago", "switch"), [(599.0, False), (601.0, True)])
def test_speculation_comes_back_only_after_a_while(ago, switch):
    """Within plain_s of the last such request even the operator's choice waits."""
    given = facts(manual=FAST, last_plain_at=NOW - ago)
    decision, _ = decide(given, Ledger(), CONFIG)

    assert switch is decision.switch
    assert (FAST if switch else DEFAULT) == decision.profile


def test_a_recent_plain_request_does_not_hurry():
    """When none waits, the way to a plain engine has to pay like any other."""
    decision, _ = decide(facts(in_force=FAST, last_plain_at=NOW - 1), Ledger(), CONFIG)

    assert not decision.switch


def test_the_operators_own_speculation_is_their_own_affair():
    """When the default itself speculates, a refused request was refused before us as well."""
    speculating = default_profile("here", Knobs(drafter="ngram", draft_length=2))
    given = facts(default=speculating, in_force=speculating, plain_waiting=3, manual=FAST)

    assert FAST == wanted(given, CONFIG)[0]


def test_a_plain_choice_of_the_operator_is_kept():
    """Requests with min_p do not keep a profile away that does not speculate."""
    plain = Profile(
        knobs=Knobs(max_num_seqs=8), platform="here", workload="any", origin=Origin.IMPORT
    )

    for in_force in (DEFAULT, FAST):
        given = facts(in_force=in_force, manual=plain, plain_waiting=1)
        target, _, urgent = wanted(given, CONFIG)

        assert (plain, True) == (target, urgent)


# --- whether it pays ------------------------------------------------------------------------------


def test_a_switch_has_to_earn_its_restart_first():
    """The gain that was forgone, at the present demand, reaches the price before the switch."""
    number, decision, ledger = decide_until(facts())

    gain_s = 0.5 * 0.8 * CONFIG.interval_s
    assert math.ceil(PRICE / gain_s) == number
    assert FAST == decision.profile
    assert ledger.forgone_s[FAST.id] >= PRICE


def test_a_decision_that_waits_names_what_it_waits_for():
    """The ledger counts the switches that were wanted and never paid; a switch is none of them."""
    waiting, _ = decide(facts(), Ledger(), CONFIG)
    _, switching, _ = decide_until(facts())
    settled, _ = decide(facts(in_force=FAST), Ledger(), CONFIG)

    assert (FAST, None, None) == (waiting.wanted, switching.wanted, settled.wanted)


def test_an_idle_hour_earns_nothing():
    """Half the busy time, half the speed at which a restart is earned; none, never."""
    half, _, _ = decide_until(facts(window=traffic((CODE, 0.8), busy=0.5)))
    whole, _, _ = decide_until(facts(window=traffic((CODE, 0.8), busy=1.0)))
    never, _, _ = decide_until(facts(window=traffic((CODE, 0.8), busy=0.0)))

    assert (2 * whole, None) == (half, never)


def test_a_gain_that_is_not_certain_earns_nothing():
    """The lower end of the interval counts: no credit for hope."""
    for low in (None, -0.2, 0.0):
        number, _, _ = decide_until(facts(promoted={CODE: profile(3, low=low)}))

        assert number is None


def test_waiting_says_how_far_it_is():
    """The sentence names what is wanted and what is missing."""
    decision, _ = decide(facts(), Ledger(), CONFIG)

    assert DEFAULT == decision.profile
    assert decision.why.endswith("waiting: 4 of 60 s of gain that a restart has to earn")


def test_classes_that_alternate_do_not_flap():
    """Gain forgone for one profile is forgotten when another one is wanted."""
    one = facts(promoted={CODE: FAST, CHAT: OTHER})
    two = replace(one, window=traffic((CHAT, 0.8), (CODE, 0.2)))
    ledger, switches = Ledger(), 0
    for number in range(200):
        moment = replace(one if number % 2 else two, now=NOW + number * CONFIG.interval_s)
        decision, ledger = decide(moment, ledger, CONFIG)
        switches += decision.switch

    assert 0 == switches


def test_dwell_and_the_hourly_limit_hold_a_switch_back():
    """Neither gain nor patience brings two switches close together."""
    rich = {FAST.id: 10 * PRICE}
    close, _ = decide(facts(), Ledger(forgone_s=rich, switched_at=(NOW - 99,)), CONFIG)
    apart, _ = decide(facts(), Ledger(forgone_s=rich, switched_at=(NOW - 101,)), CONFIG)
    many, _ = decide(facts(), Ledger(forgone_s=rich, switched_at=(NOW - 3000, NOW - 200)), CONFIG)
    old, _ = decide(facts(), Ledger(forgone_s=rich, switched_at=(NOW - 3601, NOW - 200)), CONFIG)

    assert (False, True, False, True) == (close.switch, apart.switch, many.switch, old.switch)
    assert "switched 99 s ago, dwell is 100 s" in close.why
    assert "2 switches within the hour" in many.why


def test_the_operator_does_not_wait():
    """`tuner use` ignores dwell, limit and price."""
    ledger = Ledger(switched_at=(NOW - 3, NOW - 2, NOW - 1))
    decision, _ = decide(facts(manual=OTHER), ledger, CONFIG)

    assert (OTHER, True) == (decision.profile, decision.switch)


def test_equal_knobs_are_no_switch():
    """The same engine under another name: nothing to restart, and nothing is forgone."""
    same = profile(3, CHAT)
    decision, ledger = decide(facts(in_force=same), Ledger(forgone_s={"x": 5.0}), CONFIG)

    assert (same, False) == (decision.profile, decision.switch)
    assert {} == ledger.forgone_s


def test_a_pin_pays_by_itself():
    """Somebody asked for it: every busy second counts in full, whatever its evidence."""
    window = traffic((CODE, 1.0), applications={"a": 1.0})
    pinned = profile(5, low=None)
    number, decision, _ = decide_until(facts(window=window, pins={"a": pinned}))

    assert math.ceil(PRICE / CONFIG.interval_s) == number
    assert pinned == decision.profile


@pytest.mark.parametrize(
    "kept", [None, profile("off", CHAT, low=None), profile("off", CHAT, low=-0.3)]
)
def test_the_default_comes_back_when_its_class_does(kept):
    """A profile of another class does not stay for ever, tuned or not is the class that came."""
    promoted = {CODE: FAST} | ({} if kept is None else {CHAT: kept})
    given = facts(in_force=FAST, promoted=promoted, window=traffic((CHAT, 1.0)))
    number, decision, _ = decide_until(given)

    assert math.ceil(PRICE / (0.25 * CONFIG.interval_s)) == number
    assert DEFAULT.knobs == decision.profile.knobs


def test_a_profile_without_evidence_loses_something_elsewhere():
    """What was only pinned or imported does not outstay the traffic it was meant for."""
    imported = profile(5, low=None)
    given = facts(in_force=imported, promoted={}, window=traffic((CHAT, 1.0)))
    number, _, _ = decide_until(given)

    assert number == pytest.approx(PRICE / (FOREIGN_LOSS * CONFIG.interval_s), abs=1)


def test_an_empty_window_forgets_what_was_forgone():
    """A night without traffic is no reason to switch in the morning."""
    given = facts(window=traffic(requests=0, busy=0.0), manual=None, in_force=OTHER)
    _, ledger = decide(given, Ledger(forgone_s={FAST.id: 50.0}), CONFIG)

    assert {} == ledger.forgone_s


def test_a_switch_is_remembered_for_an_hour():
    """The ledger after a switch: nothing forgone, and only the switches of the last hour."""
    ledger = switched(Ledger(forgone_s={"x": 1.0}, switched_at=(NOW - 3601, NOW - 10)), NOW)

    assert Ledger(switched_at=(NOW - 10, NOW)) == ledger


# --- switches that need no restart ----------------------------------------------------------------


def live_facts(**fields):
    """The engine has live knobs, and the class wants another schedule of it."""
    return facts(in_force=scheduled(3), promoted={CODE: scheduled(8)}, live=True, **fields)


def test_a_live_switch_happens_at_once():
    """It is free: no gain has to be earned, and neither dwell nor hourly limit holds it back."""
    full = Ledger(switched_at=(NOW - 3, NOW - 2, NOW - 1))
    decision, ledger = decide(live_facts(), full, CONFIG)

    assert (scheduled(8), True, True) == (decision.profile, decision.switch, decision.live)
    assert f"{CODE} is 80 % of tokens in the last 5 min" == decision.why
    assert full == ledger


def test_a_live_switch_keeps_what_was_forgone_for_a_restart():
    """Changing live knobs must not make a profile that needs a restart wait anew."""
    rich = Ledger(forgone_s={"x": 30.0}, switched_at=(NOW - 3601, NOW - 10))
    _, ledger = decide(live_facts(), rich, CONFIG)

    assert Ledger(forgone_s={"x": 30.0}, switched_at=(NOW - 10,)) == ledger


@pytest.mark.parametrize(
    "in_force",
    [DEFAULT, profile(15), scheduled(3, max_num_seqs=4), OTHER],
)
def test_what_is_started_differently_needs_a_restart(in_force):
    """Live knobs do not change a drafter, a size, or whether there is a table."""
    given = facts(in_force=in_force, promoted={CODE: scheduled(8)}, live=True)
    decision, _ = decide(given, Ledger(), CONFIG)

    assert (False, False) == (decision.switch, decision.live)
    assert "a restart has to earn" in decision.why


def test_an_engine_without_live_knobs_is_restarted():
    """The same two profiles, and a scheduler that is not ours."""
    given = replace(live_facts(), live=False)
    decision, _ = decide(given, Ledger(), CONFIG)

    assert (False, False) == (decision.switch, decision.live)


def test_another_cap_is_a_restart_where_caps_are_not_live():
    """Before vLLM 0.31 such a switch was called free, and then restarted past the account."""
    capped = scheduled(8, max_active_seqs=4)
    given = replace(live_facts(), promoted={CODE: capped})

    assert decide(given, Ledger(), CONFIG)[0].live
    assert not decide(replace(given, live_caps=False), Ledger(), CONFIG)[0].live
    same = replace(live_facts(), live_caps=False)
    assert decide(same, Ledger(), CONFIG)[0].live


def test_equal_knobs_are_no_live_switch():
    """What is in force is not put in force again every ten seconds."""
    decision, _ = decide(facts(in_force=FAST, live=True), Ledger(), CONFIG)

    assert (FAST, False, False) == (decision.profile, decision.switch, decision.live)


@pytest.mark.parametrize(
    ("wish", "fixed"),
    [
        ({}, False),
        ({"manual": scheduled(8)}, True),
        ({"pins": {"a": scheduled(8)}}, True),
        ({"pins": {"b": scheduled(8)}}, False),  # its application sends nothing
    ],
)
@pytest.mark.parametrize("in_force", [scheduled(3), scheduled(8)])
def test_what_somebody_chose_is_fixed(wish, fixed, in_force):
    """Nothing is learned over a pin or a choice by hand, once it is in force or on the way."""
    window = traffic((CODE, 1.0), applications={"a": 1.0})
    given = facts(in_force=in_force, promoted={CODE: scheduled(8)}, window=window, live=True)
    decision, _ = decide(replace(given, **wish), Ledger(), CONFIG)

    assert fixed is decision.fixed
    assert decision.switch is decision.live is (in_force == scheduled(3))


def test_a_plain_request_is_above_live_knobs():
    """Speculation has to go: a schedule of zeros is not enough, vLLM refuses all the same."""
    decision, _ = decide(live_facts(plain_waiting=1), Ledger(), CONFIG)

    assert (DEFAULT, True, False) == (decision.profile, decision.switch, decision.live)
