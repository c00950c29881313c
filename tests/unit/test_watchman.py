"""What the watchman asks of an engine, and of which."""

import asyncio
from types import SimpleNamespace

import pytest

from service.modes import Mode
from service.watchman import Watchman
from tuner.config import Config, EngineConfig


class Engine:
    """One that shows no counters and answers nothing, and may be replaced meanwhile."""

    def __init__(self):
        self.ended, self.client = asyncio.Event(), self
        self.record = SimpleNamespace(token="t")
        self.replaced_while_read = False
        self.asked, self.killed = 0, 0

    async def metrics(self, within_s):
        if self.replaced_while_read:
            self.ended.set()

    async def silent(self, within_s):
        if self.ended.is_set():
            raise RuntimeError("Session is closed")  # as aiohttp says it
        self.asked += 1
        return True

    async def kill(self):
        self.killed += 1


class Gateway:
    """Nobody asks for anything."""

    async def state(self):
        return {"in_flight": 0, "generated_bytes": 0}


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def watchman(engine):
    """One that has no patience."""
    config = Config(engine=EngineConfig(model="org/m", canary_s=1e-9))
    parts = SimpleNamespace(config=config, gateway=Gateway(), slot=SimpleNamespace(engine=engine))

    async def say(kind, sentence):
        pass

    return Watchman(parts, SimpleNamespace(mode=Mode.SERVING), say=say)


async def test_an_engine_that_says_nothing_is_asked_and_ended(engine, watchman):
    """The first look only begins the count."""
    await watchman.look()
    await watchman.look()

    assert (1, 1) == (engine.asked, engine.killed)


async def test_an_engine_that_is_replaced_while_it_is_looked_at_is_not_asked(engine, watchman):
    """Its client is closed by then, and the question was a defect that ended tunerd."""
    await watchman.look()
    engine.replaced_while_read = True
    await watchman.look()

    assert (0, 0) == (engine.asked, engine.killed)
