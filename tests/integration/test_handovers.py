"""F21 with a real gateway: requests that come around the moment in which an engine is given up."""

import asyncio
import json
import os
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from gateway_harness import Gateway, Reply, several

# changes of engine
SCHEDULES = int(os.environ.get("TUNER_HANDOVERS", "100"))
CLIENTS = 5
LATE_S = 0.012  # requests come within so long, and the engine is given up within the same
PIECES = 3  # of an answer


@dataclass(eq=False)
class Engine:
    """An engine that says when it is asked after its end."""

    path: str
    token: str
    dice: random.Random
    asked: list[str] = field(default_factory=list)  # prompts
    running: int = 0
    ended: bool = False
    runner: web.AppRunner | None = None

    def route(self, **more: object) -> dict[str, object]:
        return {"socket": self.path, "token": self.token, "profile": "p", **more}

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/completions", self._complete)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        await web.UnixSite(self.runner, self.path).start()

    async def end(self) -> None:
        """As tunerd ends an engine: after the gateway said that nothing is at it."""
        self.ended = True
        await self.runner.cleanup()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        wanted = await request.json()
        assert not self.ended
        self.asked.append(wanted["prompt"])
        self.running += 1
        try:
            await asyncio.sleep(self.dice.random() * 0.004)
            answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await answer.prepare(request)
            for _ in range(PIECES):
                event = {"choices": [{"text": wanted["prompt"]}]}
                await answer.write(f"data: {json.dumps(event)}\n\n".encode())
                await asyncio.sleep(self.dice.random() * 0.002)
            await answer.write(b"data: [DONE]\n\n")
        finally:
            self.running -= 1
        return answer


@dataclass
class Handover:
    """One change of engine, and requests that come around it."""

    gateway: Gateway
    folder: Path
    dice: random.Random
    engines: list[Engine] = field(default_factory=list)
    cut: int = 0  # requests

    async def play(self, number: int) -> dict[str, Reply]:
        """What each request got, by its prompt."""
        old = await self._started(f"{number}a")
        await self.gateway.route(old)
        prompts = [f"{number}-{client}" for client in range(CLIENTS)]
        asked = [asyncio.create_task(self._ask(prompt)) for prompt in prompts]
        await asyncio.sleep(self.dice.random() * LATE_S)
        await self._give_up(old)
        await self.gateway.route(await self._started(f"{number}b"))
        return dict(zip(prompts, await asyncio.gather(*asked), strict=True))

    async def _started(self, token: str) -> Engine:
        engine = Engine(str(self.folder / f"{token}.sock"), token, self.dice)
        self.engines.append(engine)
        await engine.start()
        return engine

    async def _ask(self, prompt: str) -> Reply:
        await asyncio.sleep(self.dice.random() * LATE_S)
        return await self.gateway.complete(prompt, stream=True)

    async def _give_up(self, engine: Engine) -> None:
        """Hold, wait, perhaps cut what is left, and end the engine."""
        await self.gateway.route(engine, gate="hold")
        patience_s = self.dice.choice([0.0, 0.002, 5.0, 5.0])
        drain = {"json": {"deadline_s": patience_s}}
        if (await self.gateway.ask("POST", "/drain", **drain))["in_flight"]:
            self.cut = (await self.gateway.ask("POST", "/cut"))["cut"]
            await self.gateway.becomes(in_flight=0)
        else:
            assert 0 == engine.running
        await engine.end()


@pytest.fixture
async def gateway(tmp_path):
    async with several(tmp_path) as start:
        yield await start({"hold_s": 30.0})


@pytest.mark.timeout(3600 if SCHEDULES > 1000 else 300)
async def test_requests_around_a_change_of_engine_get_one_answer_each(gateway, tmp_path):
    """However they come: whole and from one engine, or visibly cut when tunerd cut some.

    Without a cut no request is sent twice, and no engine is asked after its end.
    """
    waited = broken = 0
    for number in range(SCHEDULES):
        handover = Handover(gateway, tmp_path, random.Random(number))
        replies = await handover.play(number)
        sent = Counter(prompt for engine in handover.engines for prompt in engine.asked)
        cut = [prompt for prompt, reply in replies.items() if not reply.whole]
        for prompt, reply in replies.items():
            if prompt in cut:
                assert ("cut", False) == (reply.error["type"], reply.done), number
            else:
                assert (200, prompt * PIECES, True) == (reply.status, reply.text, reply.done)
        again = sum(sent.values()) - CLIENTS
        assert set(replies) == set(sent)
        # each is shown, or sent once more, unless its engine had not heard of it yet
        assert len(cut) + again <= handover.cut, number
        waited += len(handover.engines[1].asked)
        broken += len(cut)
        await handover.engines[1].end()
    state = await gateway.becomes(in_flight=0, held=0)
    print(f"\n{SCHEDULES} changes, {SCHEDULES * CLIENTS} requests, {waited} waited, {broken} cut")

    assert SCHEDULES * CLIENTS == state["counters"]["received"]
    # it was a test: requests waited in most changes, and some were cut
    assert waited > SCHEDULES
    assert broken > SCHEDULES // 40
