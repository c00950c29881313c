"""A model of an engine on live traffic: what a slice at a draft length gives."""

import math
import random

from tuner.cells import Cell
from tuner.drafts import Drafts
from tuner.learner import Visit

ARMS = (0, 1, 2, 3, 4, 6, 8, 10, 12, 15)
# share of drafts in which at least so many tokens were accepted
SURVIVAL = (
    0.64, 0.37, 0.24, 0.16, 0.107, 0.07, 0.05, 0.043, 0.032, 0.03,
    0.018, 0.016, 0.016, 0.016, 0.013,
)  # fmt: skip
NOISE, SLOW, SLOWER = 0.08, 0.03, 1.5  # of a step


def shares(k, survival=SURVIVAL):
    """The probability of 0, 1, ... k accepted tokens."""
    reached = (1.0, *survival[:k], 0.0)
    return [reached[a] - reached[a + 1] for a in range(k + 1)]


def step_s(batch, k):
    """Seconds of a step: a fixed part, one per token, and the drafter's."""
    return 0.008 + 0.0004 * batch * (k + 1) + (0.001 if k else 0.0)


def goodput(batch, k, seconds_of=step_s):
    """Tokens per second of the whole batch, on average."""
    return batch * (1 + sum(SURVIVAL[:k])) / seconds_of(batch, k)


def visit(rng, arm, batch=8, slice_s=0.25, seconds_of=step_s, survival=SURVIVAL):
    """A slice of steps with their noise."""
    steps, spent = 0, 0.0
    while spent < slice_s:
        slow = SLOWER if rng.random() < SLOW else 1.0
        spent += seconds_of(batch, arm) * math.exp(rng.gauss(0, NOISE)) * slow
        steps += 1
    counts = [0] * (arm + 1)
    for a in rng.choices(range(arm + 1), shares(arm, survival), k=steps * batch):
        counts[a] += 1
    tokens = sum((1 + a) * n for a, n in enumerate(counts))
    drafts = Drafts(
        request_steps=steps * batch,
        drafts=steps * batch if arm else 0,
        drafted=arm * steps * batch,
        accepted=tuple(counts),
    )
    cell = Cell(steps=steps, tokens=tokens, seconds=spent)
    return Visit(arm=arm, cells={(batch, arm): cell}, drafts={arm: drafts})


def learn(learner, seed, *, seconds=60.0, slice_s=0.25, batch=8, **model):
    """The learner after so many simulated seconds of slices, or once it has settled."""
    rng = random.Random(seed)
    left = round(seconds / slice_s)
    while left > 0 and not learner.settled:
        for arm in learner.order():
            learner = learner.add(visit(rng, arm, batch, slice_s, **model))
            left -= 1
    return learner
