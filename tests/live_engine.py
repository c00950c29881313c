"""A simulated engine behind a link: counters grow by the time that code under test sleeps."""

import asyncio
import random
from types import SimpleNamespace

from live_model import visit

from profiles.knobs import Knobs
from profiles.schedule import length_at
from service.engine_site import tuner_layout as layout
from service.live_files import LiveKnobs, Telemetry
from tuner.cells import merge
from tuner.drafts import ClassCount, pooled

LIVE = Knobs(drafter="dflash", draft_length=15, live=True)


class Link:
    """What a scheduler would do with its knobs, without a scheduler."""

    can_admit = True

    def __init__(self, *, batch=8, code=1, seed=0):
        self.batch, self.code, self.idle = batch, code, False
        self.model = {}  # of tests/live_model.py
        self.wish, self.generation, self.puts = LiveKnobs.constant(15), 0, []
        self._rng, self._cells, self._classes, self._now = random.Random(seed), {}, {}, 0.0

    @property
    def length(self):
        return length_at(self.wish.lengths, self.batch)

    def put(self, wish):
        self.wish, self.generation = wish, self.generation + 1
        self.puts.append(wish)
        return self.generation

    def put_after(self, generation, wish):
        return self.put(wish) if generation == self.generation else None

    def spend(self, seconds):
        """Let the engine run for so long."""
        self._now += seconds
        if self.idle or seconds <= 0:
            return
        seen = visit(self._rng, self.length, self.batch, seconds, **self.model)
        self._cells = merge(self._cells, seen.cells)
        old = self._classes.get(self.code)
        lengths = pooled([{} if old is None else old.by_length, seen.drafts])
        self._classes[self.code] = ClassCount(by_length=lengths, tokens=0, requests=0)

    def read(self):
        fields = {**dict.fromkeys(layout.FIELDS, 0), "max_num_seqs": 64, "capabilities": 7}
        return Telemetry(
            longest=15,
            fields={**fields, "generation": self.generation},
            cells=dict(self._cells),
            classes=dict(self._classes),
            read_at=self._now,
        )

    async def confirmed(self, generation, *, timeout_s=5.0):
        return None if self.idle else self.read()


def engine(link, knobs=LIVE):
    return SimpleNamespace(link=link, knobs=knobs)


def clock(monkeypatch, link, *modules):
    """Sleeping in these modules lets the engine run instead of waiting."""
    real = asyncio.sleep

    async def sleep(seconds):
        link().spend(seconds)
        await real(0)

    for module in modules:
        monkeypatch.setattr(module.asyncio, "sleep", sleep)
    return real
