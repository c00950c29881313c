"""What the status says of live knobs, over a simulated engine."""

import random
from types import SimpleNamespace

from live_engine import Link, engine
from live_model import visit

from service.live_files import LiveKnobs
from service.live_status import live_status
from service.mixture import Mixture
from tuner.allowance import Allowance
from tuner.learner import Learner

CHOSEN = ((1, 4, 8), (5, 64, 2))


def slot(link=None, fault=None):
    return SimpleNamespace(engine=None if link is None else engine(link), live_fault=fault)


def loop(*mixtures, key="greedy.balanced"):
    found = {one.name: one for one in mixtures}
    return SimpleNamespace(mixtures=found, mixture=found.get(key), sentence="learning, 3 rounds")


def mixture(name="greedy.balanced", rounds=0, **more):
    rng, learner = random.Random(0), Learner(arms=(0, 2, 15))
    for _ in range(rounds):
        for arm in learner.order():
            learner = learner.add(visit(rng, arm))
    return Mixture(name=name, learner=learner, allowance=Allowance(), **more)


def test_engine_without_live_knobs_says_why():
    """By restart, with the reason, and nothing that would look like a measurement."""
    link_less = SimpleNamespace(engine=SimpleNamespace(link=None), live_fault="no telemetry")
    for given in (slot(fault="no telemetry"), link_less):
        found = live_status(given, None)

        assert ("by restart", "no telemetry") == (found["knobs"], found["fault"])
        assert (None, None, None, []) == (
            found["in_force"], found["counters"], found["mixture"], found["mixtures"],
        )  # fmt: skip


def test_knobs_in_force_are_those_of_the_engine():
    """Schedule, caps and the engine's own counters; a cap that is not set is none."""
    link = Link()
    link.put(LiveKnobs(lengths=CHOSEN, active=4))
    found = live_status(slot(link), loop())

    assert "live" == found["knobs"]
    assert {
        "schedule": [[1, 4, 8], [5, 64, 2]],
        "label": "1-4: 8, 5+: 2",
        "active": 4,
        "budget": None,
    } == found["in_force"]
    assert {"generation": 1, "rejected": 0, "errors": 0, "steps": 0} == found["counters"]


def test_mixture_that_is_being_learned_has_no_figures_yet():
    """Before the first round: arms and rounds, and None for what nobody knows."""
    found = live_status(slot(Link()), loop(mixture()))
    (shown,) = found["mixtures"]

    assert "greedy.balanced" == found["mixture"]
    assert (None, None, None) == (shown["label"], shown["settled_at"], shown["expected_loss"])
    assert (3, 3, 0) == (shown["arms"], shown["left"], shown["rounds"])


def test_settled_mixture_shows_what_it_found_and_what_it_cost():
    """The schedule, the loss that is expected of it, and the account of the visits."""
    spent = Allowance().earn(10.0, 1000).spend(2.0, probe_tok_s=50.0, schedule_tok_s=100.0)
    known = mixture(rounds=4, schedule=CHOSEN, settled_at=5.0, reopened=1, moved="it fell")
    known.allowance = spent
    (shown,) = live_status(slot(Link()), loop(known))["mixtures"]

    assert ("1-4: 8, 5+: 2", 5.0, 4) == (shown["label"], shown["settled_at"], shown["rounds"])
    assert 0 <= shown["expected_loss"] < 0.02
    assert 0 < shown["confidence"] <= 1
    assert shown["left"] < shown["arms"]
    assert (0.2, 1, "it fell") == (shown["explored_share"], shown["reopened"], shown["moved"])
    assert 0 < shown["forgone_share"] < 0.1


def test_mixture_that_appears_meanwhile_breaks_no_status():
    """The status is read on a thread of its own while the loop adds a mixture."""
    first, found = mixture(), loop()
    found.mixtures["greedy.balanced"] = first

    class Slow(Learner):
        """A learner during whose findings another mixture arrives."""

        def findings(self):
            found.mixtures["sampled.balanced"] = mixture("sampled.balanced")
            return super().findings()

    first.learner = Slow(arms=(0, 2))

    assert ["greedy.balanced"] == [one["name"] for one in live_status(slot(), found)["mixtures"]]
