"""A sweep inside a simulated engine."""

from dataclasses import replace
from pathlib import Path

import pytest
from live_engine import LIVE, Link, clock
from live_model import goodput

from profiles.schedule import length_at
from service import sweeper as module
from service import visits
from service.live_files import LiveKnobs
from service.sweeper import Sweep, expected_s, sweep
from tuner.config import LiveConfig

LENGTHS = (1, 2, 3, 4, 6, 8)


class Load:
    """Load that is always there."""

    def __init__(self, **_):
        pass

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def window(self, seconds):
        pass


@pytest.fixture
def link(monkeypatch):
    made = Link()
    clock(monkeypatch, lambda: made, visits, module)
    monkeypatch.setattr(module, "Load", Load)
    moments = iter(range(10_000))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(moments) * 0.5)
    return made


def plan(**more):
    return Sweep(knobs=LIVE, lengths=LENGTHS, requests=(), concurrency=8, seconds=200.0, **more)


async def test_the_draft_length_is_learned_and_left_in_force(link):
    """Within 2 % of the best of the simulated engine."""
    knobs = await sweep(plan(), link, Path("/s"), LiveConfig())
    chosen = length_at(knobs.lengths, 8)

    assert goodput(8, chosen) >= 0.98 * max(goodput(8, k) for k in (0, *LENGTHS, 15))
    assert LiveKnobs.of(knobs) == link.wish
    assert knobs.cold() == LIVE


async def test_a_sweep_ends_at_its_deadline(link):
    """No seconds: what is known of one round is taken."""
    short = Sweep(knobs=LIVE, lengths=LENGTHS, requests=(), concurrency=8, seconds=0.4)
    await sweep(short, link, Path("/s"), LiveConfig())

    assert len(link.puts) < 20


def test_clients_are_told_how_long_a_sweep_with_caps_may_take():
    """Caps used to be left out, and who was held heard of half the time."""
    assert expected_s(30.0, (), ()) < 32
    one, both = expected_s(30.0, (4, 8), ()), expected_s(30.0, (4, 8), (512,))
    assert 30 + 8 * 3 * 2.7 <= one < both


@pytest.mark.parametrize(("better", "expected"), [(True, 4), (False, None)])
async def test_a_cap_is_kept_only_when_it_is_shown_to_be_better(link, better, expected):
    """A cap of four that makes steps three times as fast, or half as fast."""
    factor = 1 / 3 if better else 2.0

    def seconds_of(batch, k):
        return 0.02 * (factor if link.wish.active == 4 else 1.0)

    link.model = {"seconds_of": seconds_of}
    knobs = await sweep(plan(active=(4,)), link, Path("/s"), LiveConfig())

    assert expected == knobs.max_active_seqs


async def test_caps_of_the_profile_stay_in_force_while_lengths_are_visited(link):
    """Draft lengths are learned for the batch that the cap admits: visits used to lift it."""
    capped = LIVE.model_copy(update={"max_active_seqs": 4})
    await sweep(replace(plan(), knobs=capped), link, Path("/s"), LiveConfig())

    assert {4} == {wish.active for wish in link.puts}
