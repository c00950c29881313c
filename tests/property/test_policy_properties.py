"""The policy over any facts: it never leaves the profiles it was given, and never flaps."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from profiles.classes import Lengths, RequestClass, Sampling, WorkloadClass
from profiles.knobs import Knobs
from profiles.profile import Evidence, Origin, Profile, default_profile
from service.policy import HOUR_S, Facts, Ledger, decide, switched
from service.traffic import ClassTraffic, Window
from tuner.config import PolicyConfig

CONFIG = PolicyConfig(interval_s=5.0, dwell_s=120.0, switches_per_hour=4, min_requests=1)
DEFAULT = default_profile("here", Knobs())
PROFILES = [
    Profile(
        knobs=Knobs() if length == 0 else Knobs(drafter="ngram", draft_length=length),
        platform="here",
        workload=f"w{length}",
        origin=Origin.SEARCH,
        evidence=Evidence(gain_low=low),
    )
    for length, low in [(0, None), (1, None), (2, 0.1), (3, 2.0), (4, -0.5)]
]
workloads = st.builds(
    WorkloadClass,
    request=st.builds(
        RequestClass, sampling=st.sampled_from(Sampling), lengths=st.just(Lengths.BALANCED)
    ),
    load=st.just("low"),
)
some = st.sampled_from([DEFAULT, *PROFILES])
applications = st.sampled_from("abc")


@st.composite
def windows(draw):
    """Traffic of up to three classes and applications."""
    names = draw(st.lists(workloads, max_size=3, unique=True))
    weights = [draw(st.floats(0.01, 1)) for _ in names]
    classes = [
        ClassTraffic(
            workload=name,
            requests=10,
            tokens=weight,
            share=weight / sum(weights),
            tok_s=1.0,
            concurrency=1.0,
            prompt_tokens=1,
            output_tokens=1,
        )
        for name, weight in zip(names, weights, strict=True)
    ]
    return Window(
        span_s=300.0,
        requests=10 if classes else 0,
        tok_s=None,
        busy=draw(st.floats(0, 1)),
        classes=tuple(sorted(classes, key=lambda c: -c.share)),
        applications=draw(st.dictionaries(applications, st.floats(0, 100), max_size=3)),
    )


facts = st.builds(
    Facts,
    now=st.just(0.0),
    window=windows(),
    in_force=some,
    default=st.just(DEFAULT),
    promoted=st.dictionaries(workloads.map(str), some, max_size=3),
    pins=st.dictionaries(applications, some, max_size=2),
    manual=st.none() | some,
    plain_waiting=st.integers(0, 2),
    last_plain_at=st.none() | st.floats(-4000, 0),
    restart_s=st.floats(0.1, 300),
)


@given(facts)
def test_a_decision_is_one_of_the_known_profiles(known):
    """Nothing is invented, and a switch always changes the knobs."""
    decision, _ = decide(known, Ledger(), CONFIG)
    candidates = [DEFAULT, known.in_force, *known.promoted.values(), *known.pins.values()]
    candidates += [known.manual] if known.manual is not None else []

    assert decision.profile in candidates
    assert decision.switch is (decision.profile.knobs != known.in_force.knobs)
    assert decision.why


@given(facts)
def test_a_waiting_plain_request_always_gets_a_plain_engine(known):
    """Whatever else is wished, what vLLM refuses while it speculates is served."""
    known = replace(known, plain_waiting=1)
    decision, _ = decide(known, Ledger(switched_at=(-1.0,) * 9), CONFIG)

    assert not decision.profile.knobs.speculating
    assert decision.switch or not known.in_force.knobs.speculating


@given(st.lists(facts, min_size=1, max_size=5), st.lists(st.integers(0, 4), max_size=400))
def test_the_limits_hold_for_any_series(kinds, series):
    """Without operator and refusals: never more switches than allowed, never closer than dwell."""
    ledger, in_force, at = Ledger(), DEFAULT, []
    for number, kind in enumerate(series):
        now = number * CONFIG.interval_s
        known = replace(
            kinds[kind % len(kinds)],
            now=now,
            in_force=in_force,
            manual=None,
            plain_waiting=0,
            last_plain_at=None,
        )
        decision, ledger = decide(known, ledger, CONFIG)
        if decision.switch:
            in_force, ledger = decision.profile, switched(ledger, now)
            at.append(now)

    gaps = [later - earlier for earlier, later in pairwise(at)]
    assert all(gap >= CONFIG.dwell_s for gap in gaps)
    for start in at:
        assert len([t for t in at if start <= t < start + HOUR_S]) <= CONFIG.switches_per_hour
