"""Two applications that send traffic and check every answer."""

import asyncio
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp

from service.demo.prompts import code_prompts, prose_prompts

MAX_TOKENS = 96
PROMPTS = 48
SEED = 7


@dataclass(kw_only=True)
class Tally:
    """What an application saw: the only count that matters."""

    sent: int = 0
    answered: int = 0
    failed: int = 0
    tokens: int = 0
    longest_s: float = 0.0  # longest wait for a first byte, holds included
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Application:
    """One client program: its name and what it asks for."""

    name: str
    temperature: float
    prompts: Sequence[str]

    def body(self, index: int, *, stream: bool) -> dict[str, Any]:
        """The request number `index`."""
        body: dict[str, Any] = {
            "model": "demo",
            "prompt": self.prompts[index % len(self.prompts)],
            "max_tokens": MAX_TOKENS,
            "temperature": self.temperature,
            "ignore_eos": True,
            "stream": stream,
        }
        if stream:
            body["stream_options"] = {"include_usage": True}
        return body


def editor() -> Application:
    """An editor that completes code greedily."""
    return Application(name="editor", temperature=0.0, prompts=code_prompts(PROMPTS, SEED))


def writer() -> Application:
    """A writing aid that samples free text at temperature 1."""
    return Application(name="writer", temperature=1.0, prompts=prose_prompts(PROMPTS, SEED))


class Load:
    """Closed-loop clients of one application; used as an async context manager."""

    def __init__(self, url: str, application: Application, clients: int, tally: Tally) -> None:
        self._url = url
        self._application = application
        self._clients = clients
        self._tally = tally
        self._numbers = itertools.count()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            self._url,
            timeout=aiohttp.ClientTimeout(total=None, sock_read=600),
            connector=aiohttp.TCPConnector(limit=0),
        )
        self._tasks = [asyncio.create_task(self._client(n)) for n in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let every client finish the request that it has sent."""
        self._stopping = True
        try:
            await asyncio.gather(*self._tasks)
        finally:
            if self._session is not None:
                await self._session.close()

    async def _client(self, number: int) -> None:
        while not self._stopping:
            tally = self._tally
            index = next(self._numbers)
            tally.sent += 1
            stream = (index + number) % 2 == 0
            try:
                tally.tokens += await self._ask(index, stream=stream)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError) as error:
                tally.failed += 1
                tally.failures.append(f"{type(error).__name__}: {error}"[:200])
                await asyncio.sleep(0.5)
            else:
                tally.answered += 1

    async def _ask(self, index: int, *, stream: bool) -> int:
        """Tokens of a complete answer; raises on anything else."""
        if self._session is None:
            raise RuntimeError("not entered")
        clock = asyncio.get_running_loop().time
        start = clock()
        async with self._session.post(
            "/v1/completions",
            json=self._application.body(index, stream=stream),
            headers={"X-Tuner-Application": self._application.name},
        ) as answer:
            self._tally.longest_s = max(self._tally.longest_s, clock() - start)
            raw = await answer.read()
            if answer.status != 200:
                raise ValueError(f"HTTP {answer.status}")
            usage = _stream_usage(raw) if stream else json.loads(raw)["usage"]
        if usage["completion_tokens"] != MAX_TOKENS:
            raise ValueError(f"{usage['completion_tokens']} tokens instead of {MAX_TOKENS}")
        return int(usage["completion_tokens"])


def _stream_usage(raw: bytes) -> dict[str, int]:
    events = [line[6:] for line in raw.splitlines() if line.startswith(b"data: ")]
    if not events or events[-1] != b"[DONE]":
        raise ValueError("the stream has no end")
    if any(event.startswith(b'{"error"') for event in events):
        raise ValueError("an error within the stream")
    return dict(json.loads(events[-2])["usage"])
