"""Histories that violate each invariant of the soak, and ones that only look as if they did."""

import pytest
from soaking.checker import check, outage_s
from soaking.history import (
    DOUBLED,
    HUNG,
    LEFT,
    MALFORMED,
    UNCONNECTED,
    WHOLE,
    WRONG,
    Attempt,
    History,
    Sample,
    Struck,
)

LENGTH_S = 600.0


def history(**more):
    """Ten minutes in which nothing went wrong."""
    return History(length_s=LENGTH_S, **more)


def attempt(outcome, began=100.0, ended=101.0, application="chat"):
    """One request."""
    return Attempt(
        number=1, application=application, began=began, ended=ended, outcome=outcome, status=200
    )


def struck(fault, began=100.0, ended=100.0, healed=103.0, **more):
    """One fault."""
    return Struck(number=1, fault=fault, began=began, ended=ended, healed=healed, **more)


def violated(found):
    """The names of the invariants that do not hold."""
    return {verdict.name for verdict in check(found) if not verdict.held}


def test_nothing_is_violated_by_what_went_well():
    """Whole answers, clients that left and a healed fault are no evidence."""
    good = history(attempts=[attempt(WHOLE), attempt(LEFT)], struck=[struck("kill engine")])

    assert set() == violated(good)


@pytest.mark.parametrize(
    ("outcome", "name"),
    [
        (HUNG, "every request has one end, in time"),
        (DOUBLED, "every request has one end, in time"),
        (None, "every request has one end, in time"),
        (WRONG, "no answer is wrong"),
        (MALFORMED, "errors have OpenAI's shape, 503 has Retry-After"),
        (UNCONNECTED, "nobody is refused a connection"),
        ("cut", "requests fail only where a fault explains it"),
        ("broken", "requests fail only where a fault explains it"),
        ("refused", "requests fail only where a fault explains it"),
    ],
)
def test_an_end_that_is_never_right_is_caught(outcome, name):
    """Each wrong end violates its invariant, and the evidence names the request."""
    found = history(attempts=[attempt(WHOLE), attempt(outcome)])

    assert {name} == violated(found)
    (evidence,) = next(v.evidence for v in check(found) if v.name == name)
    assert evidence.startswith("request 1 of chat, 100.0 s to ")


def test_an_answer_that_takes_too_long_is_no_end_in_time():
    """A whole answer after the bound of a request is late."""
    late = history(attempts=[attempt(WHOLE, ended=301.0)], bound_s=200.0)
    just = history(attempts=[attempt(WHOLE, ended=299.0)], bound_s=200.0)

    assert {"every request has one end, in time"} == violated(late)
    assert set() == violated(just)


UNEXPLAINED = {"requests fail only where a fault explains it"}


@pytest.mark.parametrize(
    ("fault", "outcome", "began", "wrong"),
    [
        ("kill engine", "cut", 99.5, False),  # under way
        ("kill engine", "cut", 102.0, True),  # came while the next engine started
        ("kill engine", "refused", 99.5, True),  # what has no answer yet is sent again
        ("kill engine", "broken", 99.5, True),  # never without a word
        ("kill gateway", "broken", 99.5, False),
        ("kill gateway", "broken", 102.0, True),  # the socket is held
        ("kill tunerd", "cut", 99.5, True),
        ("engine fails to start", "refused", 102.0, False),
        ("engine fails to start", "refused", 106.0, True),  # after the recovery
        ("disk full", "refused", 100.5, True),
    ],
)
def test_a_fault_explains_what_its_row_allows_and_nothing_else(fault, outcome, began, wrong):
    """Which effect, and on requests of which time, is a matter of the table."""
    found = history(
        attempts=[attempt(outcome, began=began, ended=began + 3)], struck=[struck(fault)]
    )

    assert (UNEXPLAINED if wrong else set()) == violated(found)


def test_a_request_that_was_over_before_is_not_explained():
    """A fault has no effect on the past."""
    found = history(
        attempts=[attempt("cut", began=90.0, ended=99.0)], struck=[struck("kill engine")]
    )

    assert UNEXPLAINED == violated(found)


@pytest.mark.parametrize(
    ("before", "began", "wrong"),
    [
        ("kill engine", 200.0, False),
        ("engine hangs", 200.0, False),
        ("kill engine", 20.0, True),  # long ago: the engine has served since
        ("kill tunerd", 200.0, True),  # no engine died of it
    ],
)
def test_an_engine_that_dies_again_may_be_left_alone_for_a_while(before, began, wrong):
    """Tunerd pauses then, and everybody gets 503: a fault of its own would not explain it."""
    found = history(
        attempts=[attempt("refused", began=501.0, ended=502.0)],
        struck=[
            struck(before, began=began, ended=began, healed=began + 5.0),
            struck("kill engine", began=500.0, ended=500.0, healed=510.0),
        ],
    )

    assert (UNEXPLAINED if wrong else set()) == violated(found)


def test_a_slow_reader_may_miss_the_last_word():
    """The gateway says it within half a second; only a slow reader is excused."""
    slow = attempt("broken", began=99.0, application="slow")
    chat = attempt("broken", began=99.0)

    assert set() == violated(history(attempts=[slow], struck=[struck("kill engine")]))
    assert UNEXPLAINED == violated(history(attempts=[chat], struck=[struck("kill engine")]))


def test_a_fault_that_heals_late_is_caught():
    """The bound is the fault's own, and longer for a real vLLM."""
    late = struck("kill tunerd", healed=251.0)
    just = struck("kill tunerd", healed=249.0)
    name = "served again in time after every fault"

    assert {name} == violated(history(struck=[late]))
    assert set() == violated(history(struck=[just]))
    assert set() == violated(history(struck=[late], real=True))


def test_a_fault_that_does_not_heal_is_caught():
    """And what fails until the end is explained by it."""
    found = history(
        attempts=[attempt("refused", began=400.0, ended=401.0)],
        struck=[struck("engine fails to start", healed=None)],
    )

    assert {"served again in time after every fault"} == violated(found)


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("two_engines", "at most one engine"),
        ("quiet", "nothing in flight when traffic has stopped"),
        ("unequal", "store, tunerd, gateway and engine agree"),
        ("ended", "the service never ended by itself"),
        ("left_over", "no process is left over"),
        ("marked", "no prompt is on disk"),
    ],
)
def test_what_was_seen_is_evidence(field, name):
    """Every list of sightings belongs to one invariant."""
    assert {name} == violated(history(**{field: ["seen"]}))


def test_tracebacks_are_counted():
    """The last line of each, and how often."""
    found = history(tracebacks={"ValueError: x": 3})

    assert {"no traceback in the log"} == violated(found)
    (verdict,) = [v for v in check(found) if not v.held]
    assert ("3 times ValueError: x",) == verdict.evidence


def life(role, grow, pid=7, seconds=600):
    """A process that grows by so much per second: MiB, descriptors, threads."""
    return [
        Sample(
            at=float(at),
            role=role,
            pid=pid,
            rss_mib=50.0 + grow[0] * at + (at % 7),
            descriptors=20 + round(grow[1] * at) + at % 5,
            threads=5 + round(grow[2] * at),
        )
        for at in range(seconds)
    ]


@pytest.mark.parametrize("grow", [(0.05, 0, 0), (0, 0.05, 0), (0, 0, 0.05)])
def test_a_leak_is_caught_through_the_noise_of_traffic(grow):
    """3 MiB, 3 descriptors or 3 threads a minute are a leak, in gateway and tunerd."""
    name = "memory, descriptors and threads are flat"

    assert {name} == violated(history(samples=life("gateway", grow)))
    assert {name} == violated(history(samples=life("tunerd", grow)))
    assert set() == violated(history(samples=life("other", grow)))


def test_another_process_is_another_life():
    """A gateway that was killed and came back with less is no line from one to the other."""
    flat = life("gateway", (0, 0, 0))
    after = [
        Sample(at=s.at + 600, role="gateway", pid=8, rss_mib=90.0, descriptors=80, threads=5)
        for s in flat
    ]

    assert set() == violated(history(samples=flat + after))


def test_an_outage_is_the_longest_silence():
    """From the fault to the healing; unknown where nobody asked."""
    found = history(progress=set(range(1000)) - set(range(505, 530)))
    fault = struck("kill engine", began=50.0, healed=56.0)

    assert 2.5 == outage_s(fault, found)
    found.pauses.append((55.0, 70.0))
    assert outage_s(fault, found) is None
    assert outage_s(struck("kill engine", began=80.0, healed=None), found) is None
    assert outage_s(struck("kill engine", began=80.0, healed=81.0, lull=True), found) is None
