"""P: what to visit next and what is known so far, for one mixture of traffic in one engine.

Every bucket of batch sizes is a race of its own (tuner/race.py) over the rounds in which it was
busy; arms are thrown out by its always-valid intervals only. Among those left the belief
(tuner/blend.py) chooses, and learning pauses when the race is over or when the expected loss of the
choice is below RISK: on a flat top nothing is gained by telling equals apart.

A step takes as long for one text as for another, so a question that is asked again for other text
keeps the step times of the `past` and forgets all tokens: one visit to the longest length then says
what every shorter one would give.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from profiles.knobs import Knobs
from tuner.blend import Belief, beliefs, best, confidence, risk
from tuner.buckets import assemble, bucket
from tuner.cells import Cell, Cells, merge
from tuner.drafts import NGRAM_PREDICTION_ERROR, PREDICTION_ERROR, ByLength, pooled
from tuner.race import Round, Rules, Standing, standing
from tuner.stretch import NO_TRAFFIC, Stretch

RISK = 0.02  # expected loss of a choice that is good enough
UNLIKELY = 2.5  # standard deviations behind the best: not visited for now
RECENT = 3  # rounds that say where the traffic is
BUSY_SHARE = 0.1  # of the steps: a bucket with fewer is not asked about
MIN_ROUNDS = 1  # before the belief may leave an arm out: it is not thrown out by that
ROUNDS_KEPT = 200
TEXT_ROUNDS = 10  # whose tokens count: text changes while an answer to a question is in force
PAST_STEPS = 60  # that a cell of the past counts for, so that fresh steps outweigh it soon
PAST_LEAST = 4  # steps of a cell of the past below which it is noise
PAST_VISIT = 15  # steps of the past that count as one visit


@dataclass(frozen=True, kw_only=True)
class Visit:
    """What a slice with one draft length gave."""

    arm: int
    cells: Cells
    drafts: ByLength  # of all classes together


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is known about one bucket."""

    bucket: int
    choice: int
    beliefs: Mapping[int, Belief]
    risk: float  # expected loss of the choice, share of goodput
    confidence: float  # that nothing beats the choice by more than the indifference
    race: Standing
    settled: bool


@dataclass(frozen=True, kw_only=True)
class Learner:
    """The visits of one question; adding one gives a new learner."""

    arms: tuple[int, ...]
    rules: Rules = field(default_factory=Rules)
    prediction_error: float = PREDICTION_ERROR
    seed: int = 0
    rounds: tuple[Mapping[int, Cells], ...] = ()  # complete ones
    texts: tuple[ByLength, ...] = ()  # drafts of the last rounds
    current: Mapping[int, Cells] = field(default_factory=dict)  # the round that is going on
    current_drafts: ByLength = field(default_factory=dict)
    past: Cells = field(default_factory=dict)  # of other text in this engine: for step times
    window: Stretch = NO_TRAFFIC  # the traffic that opened the question again
    races: Mapping[int, Standing] = field(default_factory=dict)  # by bucket, after the last round

    def add(self, visit: Visit) -> "Learner":
        """With one more visit; a round is complete once every arm in the race had one."""
        mine = {key: cell for key, cell in visit.cells.items() if key[1] == visit.arm}
        drafts = pooled([self.current_drafts, visit.drafts])
        current = {**self.current, visit.arm: merge(self.current.get(visit.arm, {}), mine)}
        grown = replace(self, current=current, current_drafts=drafts)
        if not set(grown.running()) <= set(current):
            return grown
        rounds = (*self.rounds, current)[-ROUNDS_KEPT:]
        texts = (*self.texts, drafts)[-TEXT_ROUNDS:]
        grown = replace(self, rounds=rounds, texts=texts, current={}, current_drafts={})
        fresh = {
            number: standing(rounds_of(rounds, number), self.arms, self.rules)
            for number in grown.busy()
        }
        return replace(grown, races={**self.races, **fresh})

    def reopened(self, window: Stretch) -> "Learner":
        """The same question for other text, of which this much was seen already."""
        past = shortened(merge(self.past, self.cells()))
        return replace(
            self,
            past=past,
            window=window,
            rounds=(),
            texts=(),
            current={},
            current_drafts={},
            races={},
        )

    @property
    def text(self) -> Stretch:
        """The traffic that says how many tokens the present text gives."""
        rounds = [*self.rounds[-TEXT_ROUNDS:], self.current]
        return Stretch(
            cells=merge(self.window.cells, *(cells for each in rounds for cells in each.values())),
            drafts=pooled([self.window.drafts, *self.texts, self.current_drafts]),
        )

    def heard(self) -> list[Stretch]:
        """The last rounds, each as a stretch of traffic, oldest first."""
        rounds = self.rounds[-len(self.texts) :] if self.texts else ()
        return [
            Stretch(cells=merge(*each.values()), drafts=drafts)
            for each, drafts in zip(rounds, self.texts, strict=True)
        ]

    def cells(self) -> Cells:
        """Everything that was counted since the question was opened."""
        return merge(*(cells for each in (*self.rounds, self.current) for cells in each.values()))

    def busy(self) -> list[int]:
        """The buckets that the traffic has been in lately."""
        steps: dict[int, int] = {}
        recent = merge(
            {} if self.rounds else self.window.cells,
            *(cells for each in self.rounds[-RECENT:] for cells in each.values()),
        )
        for (batch, _), cell in recent.items():
            steps[bucket(batch)] = steps.get(bucket(batch), 0) + cell.steps
        enough = BUSY_SHARE * sum(steps.values())
        return sorted(number for number, count in steps.items() if count >= enough)

    def finding(self, number: int) -> Finding | None:
        """What is known about a bucket; None while there is nothing to choose by."""
        text = self.text
        known = beliefs(
            merge(self.past, self.window.cells, self.cells()),
            text.drafts,
            number,
            prediction_error=self.prediction_error,
            visits=self._visits(number),
            recent=text.cells,
        )
        race = self.races.get(number) or standing((), self.arms, self.rules)
        left = {k: belief for k, belief in known.items() if k in race.survivors}
        if not left or (number not in self.races and not self.carried(number)):
            return None
        choice = best(left, tie=self.rules.tie)
        if race.decided:
            choice = race.leader
        loss = risk(left, choice) if choice in left else 0.0
        enough = 1 if self.carried(number) else self.rules.min_rounds
        # rounds of the choice, not of the race: alone in its rounds it has nobody to race with
        seen = self._rounds(number).get(choice, 0) >= enough and set(left) == set(race.survivors)
        return Finding(
            bucket=number,
            choice=choice,
            beliefs=known,
            risk=loss,
            confidence=race.confidence
            if race.decided
            else confidence(left, choice, indifference=self.rules.indifference),
            race=race,
            settled=race.over or (seen and loss < RISK),
        )

    def findings(self) -> list[Finding]:
        """The buckets of the present traffic that something is known about."""
        found = (self.finding(number) for number in self.busy())
        return [each for each in found if each is not None]

    def known(self) -> list[Finding]:
        """All buckets that something is known about."""
        numbers = {*self.races, *(bucket(batch) for batch, _ in self.past)}
        found = (self.finding(number) for number in sorted(numbers))
        return [each for each in found if each is not None]

    @property
    def settled(self) -> bool:
        """Whether more visits are not worth their cost at present."""
        found = self.findings()
        return bool(found) and all(each.settled for each in found)

    def running(self) -> tuple[int, ...]:
        """The arms that some busy bucket still has to visit; all of them at first."""
        left = {
            arm
            for each in self.findings()
            for arm in plausible(each, least=0 if self.carried(each.bucket) else MIN_ROUNDS)
        }
        return tuple(arm for arm in self.arms if arm in left) or self.arms

    def order(self) -> tuple[int, ...]:
        """The arms that this round still has to visit, in an order that the seed decides."""
        waiting = [arm for arm in self.running() if arm not in self.current]
        return tuple(sorted(waiting or self.running(), key=self._draw))

    def next(self, besides: int | None = None) -> int | None:
        """The arm to visit next while another one is visited; None at the end of the round."""
        visited = {*self.current, besides}
        waiting = [arm for arm in self.running() if arm not in visited]
        if not waiting:
            return None
        if self.past and not self.rounds and visited == {None}:
            return max(waiting)  # its drafts tell what all shorter ones would give
        return min(waiting, key=self._draw)

    def carried(self, number: int) -> bool:
        """Whether the step times of a bucket are known from earlier traffic."""
        return sum(bucket(batch) == number for batch, _ in self.past) > 1

    def schedule(self, *, ceiling: int, fallback: int) -> tuple[tuple[int, int, int], ...]:
        """The k(b) ranges of what is known."""
        chosen = {each.bucket: each.choice for each in self.known()}
        return assemble(chosen, ceiling=ceiling, fallback=fallback)

    def _visits(self, number: int) -> dict[int, int]:
        """In how many slices each arm was in a bucket, with what the past counts for."""
        found = self._rounds(number)
        for (batch, arm), cell in self.past.items():
            if bucket(batch) == number:
                found[arm] = found.get(arm, 0) + -(-cell.steps // PAST_VISIT)
        return found

    def _rounds(self, number: int) -> dict[int, int]:
        """In how many rounds each arm was in a bucket."""
        found: dict[int, int] = {}
        for each in (*self.rounds, self.current):
            for arm, cells in each.items():
                found[arm] = found.get(arm, 0) + any(bucket(b) == number for b, _ in cells)
        return found

    def _draw(self, arm: int) -> bytes:
        return hashlib.sha256(f"{self.seed}:{len(self.rounds)}:{arm}".encode()).digest()


def shortened(cells: Cells) -> Cells:
    """What earlier traffic says about step times, without outweighing what is seen later."""
    return {
        key: Cell(
            steps=PAST_STEPS,
            tokens=round(cell.tokens * PAST_STEPS / cell.steps),
            seconds=cell.seconds * PAST_STEPS / cell.steps,
        )
        if cell.steps > PAST_STEPS
        else cell
        for key, cell in cells.items()
        if cell.steps >= PAST_LEAST
    }


def question(
    knobs: Knobs, lengths: Iterable[int], *, max_rounds: int, past: Cells | None = None
) -> Learner:
    """A fresh learner for an engine with these knobs: 0, its longest draft, and what lies between.

    `past` is what its steps took so far. The drafter's name says whether it is ngram, whose drafts
    predict each other less well.
    """
    arms = {0, knobs.draft_tokens, *(k for k in lengths if k <= knobs.draft_tokens)}
    return Learner(
        arms=tuple(sorted(arms)),
        rules=Rules(max_rounds=max_rounds),
        past={key: cell for key, cell in shortened(past or {}).items() if key[1] in arms},
        prediction_error=NGRAM_PREDICTION_ERROR
        if "ngram" in (knobs.drafter or "")
        else PREDICTION_ERROR,
    )


def plausible(finding: Finding, *, least: int = MIN_ROUNDS) -> list[int]:
    """The arms of a bucket that are in its race and may well be the best, by the belief.

    All of them before the least number of rounds.
    """
    race = finding.race
    if race.over:
        return [finding.choice]
    top = finding.beliefs.get(finding.choice)
    if top is None or race.rounds < least:
        return list(race.survivors)
    return [
        arm
        for arm in race.survivors
        if (one := finding.beliefs.get(arm)) is None
        or top.mean - one.mean < UNLIKELY * math.hypot(top.deviation, one.deviation)
    ]


def rounds_of(rounds: Sequence[Mapping[int, Cells]], number: int) -> list[Round]:
    """What the rounds say about one bucket, arm by arm and batch size by batch size."""
    found: list[Round] = []
    for each in rounds:
        here = {
            arm: {batch: cell for (batch, _), cell in cells.items() if bucket(batch) == number}
            for arm, cells in each.items()
        }
        kept = {arm: cells for arm, cells in here.items() if cells}
        if kept:
            found.append(kept)
    return found
