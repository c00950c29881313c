"""The stream that is a hold, at a daemon that cannot decide."""

import json
from types import SimpleNamespace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from profiles.errors import UnavailableError
from profiles.knobs import Knobs
from profiles.profile import default_profile
from service.hold_routes import HoldRoutes
from service.holds import Holds

PROFILE = default_profile("f00d", Knobs())


class Daemon:
    """One whose gateway is away."""

    def __init__(self):
        self.parts, self.steward = SimpleNamespace(holds=Holds()), self

    async def chosen(self, _):
        return PROFILE

    async def consider(self):
        raise UnavailableError("The gateway does not answer.")

    async def say(self, kind, sentence):
        pass


@pytest.fixture
async def daemon():
    return Daemon()


@pytest.fixture
async def client(daemon):
    app = web.Application()
    app.add_routes([web.post("/v1/holds", HoldRoutes(daemon).hold)])
    async with TestClient(TestServer(app)) as made:
        yield made


async def test_a_hold_outlives_a_decision_that_cannot_be_made(daemon, client):
    """The gateway was away for a moment: the hold broke off, without a word about why."""
    async with client.post("/v1/holds", json={"application": "a", "profile": "x"}) as answer:
        first = json.loads(await answer.content.readline())
        assert {"a": PROFILE} == daemon.parts.holds.profiles()
        daemon.parts.holds.clear("enough")
        last = json.loads(await answer.content.readline())

    assert (f"a holds {PROFILE.id}", "enough") == (first["sentence"], last["released"])
