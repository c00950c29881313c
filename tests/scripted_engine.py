"""An OpenAI-shaped server on a unix socket whose tokens come on a schedule, for replay tests."""

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web


@dataclass
class ScriptedEngine:
    """What the engine does and what it has seen."""

    socket: Path
    token_s: float = 0.002  # between two chunks of one request
    tokens_per_chunk: int = 3  # speculation: a chunk is not a token
    status: int = 200
    error_event: bool = False  # a stopped vLLM: an error, then [DONE]
    truncate: bool = False  # ends without [DONE]
    foreign_tokens: int = 0  # generated for somebody else at each scrape
    cached: float = 0.0  # share of prompt tokens that its prefix cache has
    falling: bool = False  # its counters fall from scrape to scrape, as if it was replaced
    bodies: list[dict] = field(default_factory=list)
    in_flight: int = 0
    in_flight_max: int = 0
    aborted: int = 0
    generated: int = 0
    steps: int = 0
    scrapes: int = 0

    async def complete(self, request):
        body = await request.json()
        self.bodies.append(body)
        if self.status != 200:
            return web.json_response({"error": {"message": "no"}}, status=self.status)
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        try:
            return await self.stream(request, body)
        except (asyncio.CancelledError, ConnectionResetError):
            self.aborted += 1
            raise
        finally:
            self.in_flight -= 1

    async def stream(self, request, body):
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        done = 0
        await self.event(answer, {"choices": [{}], "usage": {"completion_tokens": 0}})
        while done < body["max_tokens"]:
            await asyncio.sleep(self.token_s)
            if self.error_event and done:
                await self.event(answer, {"error": {"message": "stopped", "code": 500}})
                break
            step = min(self.tokens_per_chunk, body["max_tokens"] - done)
            done += step
            self.generated += step
            self.steps += 1
            usage = {"prompt_tokens": 5, "completion_tokens": done}
            await self.event(answer, {"choices": [{"text": "x"}], "usage": usage})
        if not self.truncate:
            await answer.write(b"data: [DONE]\n\n")
        return answer

    @staticmethod
    async def event(answer, data):
        await answer.write(b"data: " + json.dumps(data).encode() + b"\n\n")

    async def metrics(self, request):
        self.generated += self.foreign_tokens
        self.scrapes += 1
        total = 10**6 - self.scrapes if self.falling else self.generated
        lines = {
            "vllm:generation_tokens_total": total,
            "vllm:inter_token_latency_seconds_sum": self.steps * self.token_s,
            "vllm:inter_token_latency_seconds_count": self.steps,
            "vllm:prefix_cache_queries_total": 10 * len(self.bodies),
            "vllm:prefix_cache_hits_total": 10 * len(self.bodies) * self.cached,
            "vllm:spec_decode_num_drafts_total": self.steps,
            "vllm:spec_decode_num_draft_tokens_total": 2 * self.steps,
            "vllm:spec_decode_num_accepted_tokens_total": 2 * self.steps,
        }
        text = "".join(f'{name}{{engine="0"}} {value}\n' for name, value in lines.items())
        return web.Response(text=text)


@contextlib.asynccontextmanager
async def scripted_engine(folder, **behaviour):
    """A running engine, stopped at the end."""
    engine = ScriptedEngine(socket=folder / "engine.sock", **behaviour)
    app = web.Application()
    app.router.add_post("/v1/{endpoint:.*}", engine.complete)
    app.router.add_get("/metrics", engine.metrics)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    await web.UnixSite(runner, str(engine.socket)).start()
    try:
        yield engine
    finally:
        await runner.cleanup()


async def until(condition, *, seconds=5.0):
    """Wait for what another task makes true."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the state is the server's, it tells nobody
            await asyncio.sleep(0.01)
