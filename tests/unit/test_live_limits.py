"""Limits per class on a simulated engine that runs two classes in one batch."""

import math
import random
from types import SimpleNamespace

import pytest
from live_engine import Link, clock, engine

from profiles.errors import UnavailableError
from service import live_limits, live_loop, visits
from service.engine_site import tuner_layout as layout
from service.live_files import LiveKnobs
from service.live_limits import WITH, WITHOUT, LimitQuestion
from service.live_loop import LiveLoop
from tuner.allowance import Allowance
from tuner.cells import Cell, merge
from tuner.config import LiveConfig
from tuner.drafts import ClassCount, Drafts, pooled, since
from tuner.telemetry import Snapshot

GOOD, BAD = 1, 5  # greedy.balanced and sampled.balanced
EASY = tuple(0.9 * 0.9**place for place in range(15))
HOPELESS = tuple(0.1 * 0.3**place for place in range(15))


class MixedLink(Link):
    """Four requests of each class; a step takes 20 ms and 1 ms for each verified token."""

    def __init__(self, *, bad=HOPELESS, per_token_s=0.001, **kind):
        super().__init__(**kind)
        self.kinds, self.per_token_s, self.asynchronous = {GOOD: EASY, BAD: bad}, per_token_s, False

    def _emitted(self, code, k):
        limit = self.wish.limits.get(code, k)
        accepted = 0
        for place in range(min(k, limit)):
            before = self.kinds[code][place - 1] if place else 1.0
            if self._rng.random() >= self.kinds[code][place] / before:
                break
            accepted += 1
        return min(k, limit), accepted

    def spend(self, seconds):
        self._now += seconds
        left = 0.0 if self.idle else seconds
        while left > 0:
            k, tokens, verified = self.length, 0, 0
            for code in self.kinds:
                counts, drafted = [0] * (k + 1), 0
                for _ in range(self.batch // 2):
                    length, accepted = self._emitted(code, k)
                    counts[accepted] += 1
                    drafted += length
                    tokens += 1 + accepted
                    verified += 1 + length
                one = Drafts(
                    request_steps=self.batch // 2,
                    drafts=self.batch // 2,
                    drafted=drafted,
                    accepted=tuple(counts),
                )
                old = self._classes.get(code)
                lengths = pooled([{} if old is None else old.by_length, {k: one}])
                self._classes[code] = ClassCount(by_length=lengths, tokens=0, requests=0)
            took = 0.02 + self.per_token_s * verified * math.exp(self._rng.gauss(0, 0.05))
            cell = Cell(steps=1, tokens=tokens, seconds=took)
            self._cells = merge(self._cells, {(self.batch, k): cell})
            left -= took

    def read(self):
        found = super().read()
        if self.asynchronous:
            found.fields["capabilities"] |= layout.ASYNC
        return found


SCHEDULE = ((1, 64, 6),)


async def asked(link, monkeypatch, *, rounds=12):
    """A question after ten seconds of traffic at k = 6 and so many rounds."""
    clock(monkeypatch, lambda: link, visits)
    base = LiveKnobs(lengths=SCHEDULE)
    link.put(LiveKnobs.constant(3))
    link.spend(2.0)
    link.put(base)
    before = link.read()
    link.spend(10.0)
    question, allowance = LimitQuestion(), Allowance(burst_s=20.0)
    question.hear(since(before.classes, link.read().classes))
    for _ in range(rounds):
        now = link.read()
        if question.asked(now, SCHEDULE, {(8, 6): Cell(steps=9)}):
            allowance = await question.round(link, base, allowance)
    return question, allowance


async def test_limits_that_win_are_put_in_force(monkeypatch):
    """A class whose drafts are never accepted gets none verified once a race has shown it."""
    link = MixedLink()
    question, allowance = await asked(link, monkeypatch)

    assert question.over
    assert {BAD: 0} == dict(question.in_force.longest)
    assert "limits per class (sampled.balanced 0): +" in question.sentence
    assert allowance.explored_s > 0
    assert LiveKnobs(lengths=SCHEDULE) == link.wish  # in force is for the loop to put


async def test_limits_that_do_not_win_are_not(monkeypatch):
    """Where a step costs the same however much it verifies, the race says so."""
    link = MixedLink(per_token_s=0.001)
    clock(monkeypatch, lambda: link, visits)
    question, _ = await asked(link, monkeypatch, rounds=1)
    assert WITH in question.rounds[0]
    link.per_token_s = 0.0  # the step line of before promised what is not there now
    base, allowance = LiveKnobs(lengths=SCHEDULE), Allowance()
    question.rounds.clear()
    while not question.over:
        allowance = await question.round(link, base, allowance)

    assert {} == dict(question.in_force.longest)
    assert "not better" in question.sentence


@pytest.mark.parametrize("kind", ["alike", "asynchronous"])
async def test_no_race_without_a_reason(monkeypatch, kind):
    """Classes alike, or a scheduler that has placeholders instead of drafts: nothing is visited."""
    link = MixedLink(bad=EASY if kind == "alike" else HOPELESS)
    link.asynchronous = kind == "asynchronous"
    question, _ = await asked(link, monkeypatch)

    assert ([], False) == (question.rounds, question.over)
    assert 3 == len(link.puts) + 1


async def test_both_orders_are_taken(monkeypatch):
    """The arms change places from round to round: what drifts hits both alike."""
    link = MixedLink()
    await asked(link, monkeypatch, rounds=2)
    seen = [bool(wish.limits) for wish in link.puts[2:]]

    assert [True, False, False, False, True, False] == seen


async def test_a_round_ends_with_the_traffic(monkeypatch):
    """An engine that falls idle ends the round, and no limit is left behind."""
    link = MixedLink()
    clock(monkeypatch, lambda: link, visits)
    question, _ = await asked(link, monkeypatch, rounds=1)
    link.idle = True

    with pytest.raises(UnavailableError):
        await question.round(link, LiveKnobs(lengths=SCHEDULE), Allowance())
    assert {} == dict(link.wish.limits)
    assert 1 == len(question.rounds)


def test_drafts_are_heard_only_before_the_race():
    """Trimmed drafts would make a class look worse than it is."""
    one = {6: Drafts(request_steps=10, drafts=10, drafted=60, accepted=(10,))}
    question = LimitQuestion()
    question.hear({BAD: one})
    question.rounds.append({WITHOUT: {}, WITH: {}})
    question.hear({BAD: one})

    assert {BAD: one} == dict(question.by_class)


async def test_the_loop_learns_lengths_first_and_limits_then(monkeypatch):
    """The whole way: a length for the mixture, a race, limits in force and said."""
    random.seed(0)
    link = MixedLink()
    slot = SimpleNamespace(engine=engine(link))
    clock(monkeypatch, lambda: link, live_loop, visits)

    async def learned(*_):
        return None

    loop = LiveLoop(
        LiveConfig(),
        slot,
        SimpleNamespace(snapshot=Snapshot),
        lengths=(1, 2, 3, 4, 6, 8),
        may_learn=lambda: None,
        learned=learned,
    )
    for _ in range(300):
        await loop._tick()
        if loop.mixture is not None and loop.mixture.limits.over:
            break
    await loop._tick()
    mixture = loop.mixture

    assert "greedy.balanced + sampled.balanced" == mixture.name
    assert mixture.limits.in_force.longest[BAD] <= 1
    assert link.wish.limits == mixture.limits.in_force.longest
    assert live_limits.WITH == 1
    for _ in range(30):  # trimmed drafts are accepted less far: that is no drift
        await loop._tick()
    assert 0 == mixture.reopened
