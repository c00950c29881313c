"""A sweep inside one engine: draft lengths, then batch caps, learned under replayed load."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from profiles.knobs import Knobs
from profiles.schedule import Schedule
from service.live_files import LiveKnobs
from service.live_link import LiveLink
from service.visits import CONFIRM_S, Visits
from tuner.cells import Cell
from tuner.config import LiveConfig
from tuner.learner import question
from tuner.race import Rules, standing
from tuner.replay import Load, ReplayRequest

log = logging.getLogger(__name__)

SETTLE_S = 1.5  # of load before the first visit: requests must not march in step
CAP_SLICE_S, CAP_SETTLE_S = 2.0, 0.7  # a lower cap is in force only as requests end
CAP_ROUNDS = 8


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What to learn, with what load."""

    knobs: Knobs  # of the engine that runs
    lengths: tuple[int, ...]
    requests: Sequence[ReplayRequest]
    concurrency: int
    seconds: float  # at most, for the draft lengths
    active: tuple[int, ...] = ()  # candidate caps
    budget: tuple[int, ...] = ()


def expected_s(plan_s: float, active: Sequence[int], budget: Sequence[int]) -> float:
    """How long a sweep may take: its draft lengths, and a race for each kind of cap."""
    rounds = sum(1 + len(caps) for caps in (active, budget) if caps)
    return plan_s + SETTLE_S + CAP_ROUNDS * rounds * (CAP_SETTLE_S + CAP_SLICE_S)


async def sweep(plan: Sweep, link: LiveLink, socket: Path, config: LiveConfig) -> Knobs:
    """The best live knobs under this load; they are in force when this returns.

    Raises:
        UnavailableError: the engine stopped taking steps.
    """
    load = Load(socket=socket, requests=plan.requests, concurrency=plan.concurrency)
    async with load as running:
        await running.window(SETTLE_S)
        knobs = plan.knobs
        if knobs.live:
            schedule = await _lengths(plan, link, config)
            knobs = knobs.model_copy(update={"draft_schedule": schedule})
        knobs = await _caps(plan, knobs, link)
    await asyncio.to_thread(link.put, LiveKnobs.of(knobs))
    return knobs


async def _lengths(plan: Sweep, link: LiveLink, config: LiveConfig) -> Schedule:
    knobs, began = plan.knobs, time.monotonic()
    learner = question(knobs, plan.lengths, max_rounds=config.rounds)
    visits, base = Visits(link), LiveKnobs.of(knobs)
    # one whole round in any case: a length that nobody visited cannot be chosen
    while not learner.settled and time.monotonic() - began < plan.seconds:
        for arm in learner.order():
            if learner.rounds and time.monotonic() - began > plan.seconds:
                break
            visit = await visits.move(arm, config.slice_s, active=base.active, budget=base.budget)
            if visit is not None:
                learner = await asyncio.to_thread(learner.add, visit)
        visit = await visits.end(LiveKnobs.of(knobs))  # the round is complete with it
        if visit is not None:
            learner = await asyncio.to_thread(learner.add, visit)
    found = link.read()
    ceiling = plan.concurrency if found is None else found.fields["max_num_seqs"]
    for each in learner.findings():
        log.info("sweep concurrency=%d %s", plan.concurrency, each.race.sentence)
    return learner.schedule(ceiling=ceiling, fallback=knobs.draft_tokens)


async def _caps(plan: Sweep, knobs: Knobs, link: LiveLink) -> Knobs:
    """Race the caps against none at all; only what is shown to be better is kept."""
    for name, candidates in (
        ("max_active_seqs", plan.active),
        ("max_scheduled_tokens", plan.budget),
    ):
        arms = (0, *candidates)
        if len(arms) > 1:
            wishes = {cap: knobs.model_copy(update={name: cap or None}) for cap in arms}
            knobs = wishes[await _race(wishes, link)]
    return knobs


async def _race(wishes: Mapping[int, Knobs], link: LiveLink) -> int:
    """The cap with the most tokens per second of the whole engine, prefills and queue included."""
    arms = tuple(wishes)
    rounds: list[dict[int, dict[int, Cell]]] = []
    for number in range(CAP_ROUNDS):
        each: dict[int, dict[int, Cell]] = {}
        for arm in arms if number % 2 == 0 else reversed(arms):
            generation = await asyncio.to_thread(link.put, LiveKnobs.of(wishes[arm]))
            await link.confirmed(generation, timeout_s=CONFIRM_S)
            await asyncio.sleep(CAP_SETTLE_S)
            before = link.read()
            await asyncio.sleep(CAP_SLICE_S)
            after = link.read()
            if before is not None and after is not None:
                added = after.total - before.total
                # by the clock: waiting for the engine costs too
                each[arm] = {1: replace(added, seconds=after.read_at - before.read_at)}
        rounds.append(each)
        found = standing(rounds, arms, Rules(max_rounds=CAP_ROUNDS), noun="cap")
        if found.over:
            break
    gain = found.gains.get(0)  # of no cap against the leader
    return found.leader if found.leader and gain is not None and gain.high < 0 else 0
