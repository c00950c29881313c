"""The applications: clients that ask all the time, each in its own manner."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
from fake_engine import answer

from soaking import answers
from soaking.faults import BROKEN, REFUSED
from soaking.history import HUNG, LEFT, UNCONNECTED, Attempt, History

WORDS = ("the", "service", "answers", "whatever", "happens", "around", "it")


@dataclass(frozen=True, kw_only=True)
class Application:
    """How one kind of client behaves."""

    name: str
    clients: int = 1
    stream: bool = True
    chat: bool = False
    tokens: tuple[int, int] = (16, 64)
    words: tuple[int, int] = (4, 40)  # of a prompt
    think_s: tuple[float, float] = (0.5, 2.0)
    temperature: float = 0.0
    retries: int = 0  # as an SDK does, after 503 and broken connections
    keep: bool = False  # connections are used again
    leaves_s: tuple[float, float] | None = None  # it goes away after so long
    slow_s: float = 0.0  # it waits so long before it reads on
    min_p: float = 0.0  # vLLM refuses this while it speculates


APPLICATIONS = (
    Application(name="chat", clients=3, chat=True, think_s=(0.3, 1.5), temperature=0.7),
    Application(name="agent", clients=2, tokens=(8, 24), words=(20, 200), think_s=(0.2, 1.0)),
    Application(name="batch", clients=2, stream=False, tokens=(32, 64)),
    Application(name="short", stream=False, tokens=(4, 12), think_s=(0.2, 0.6)),
    Application(name="sdk", clients=2, stream=False, retries=3, keep=True),
    Application(name="impatient", tokens=(100, 300), leaves_s=(0.01, 2.0)),
    Application(name="plain-impatient", stream=False, tokens=(100, 300), leaves_s=(0.01, 1.0)),
    Application(name="slow", tokens=(60, 120), slow_s=0.25),
    Application(name="sampler", stream=False, think_s=(45.0, 90.0), temperature=0.8, min_p=0.1),
)


class Traffic:
    """Runs all clients; `pause` and `go` are for everybody at once."""

    def __init__(self, history: History, *, url: str, marker: str, seed: int) -> None:
        self.history = history
        self.url = url
        self.marker = marker
        self.started = time.monotonic()
        self.busy = 0  # requests under way
        self._draw = random.Random(seed)
        self._going = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._paused_at: float | None = 0.0
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    async def __aenter__(self) -> Self:
        nothing = aiohttp.ClientTimeout(total=None, sock_connect=None)
        for keep in (False, True):
            self._sessions[keep] = aiohttp.ClientSession(
                self.url,
                timeout=nothing,
                connector=aiohttp.TCPConnector(limit=0, force_close=not keep),
                read_bufsize=2048,
            )
        for application in APPLICATIONS:
            for _ in range(application.clients):
                draw = random.Random(self._draw.random())
                self._tasks.append(asyncio.create_task(self._client(application, draw)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for session in self._sessions.values():
            await session.close()

    def go(self) -> None:
        """Let everybody ask."""
        if self._paused_at is not None:
            self.history.pauses.append((self._paused_at, self.now))
            self._paused_at = None
        self._going.set()

    async def pause(self) -> None:
        """Let nobody begin; wait until what is under way has ended."""
        self._going.clear()
        if self._paused_at is None:
            self._paused_at = self.now
        deadline = time.monotonic() + self.history.bound_s
        while self.busy and time.monotonic() < deadline:  # noqa: ASYNC110  a counter, not an event
            await asyncio.sleep(0.05)

    def check(self) -> None:
        """Raise what ended a client."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def _client(self, application: Application, draw: random.Random) -> None:
        while True:
            await asyncio.sleep(draw.uniform(*application.think_s))
            await self._going.wait()
            await self._call(application, draw)

    async def _call(self, application: Application, draw: random.Random) -> None:
        words = draw.choices(WORDS, k=draw.randint(*application.words))
        tokens = draw.randint(*application.tokens)
        for retry in range(application.retries + 1):
            attempt = Attempt(
                number=len(self.history.attempts), application=application.name, began=self.now
            )
            self.history.attempts.append(attempt)
            text = f"{self.marker} {attempt.number} {' '.join(words)}"
            self.busy += 1
            try:
                wait_s = await self._attempt(attempt, application, draw, text, tokens)
            finally:
                self.busy -= 1
                attempt.ended = self.now
            if wait_s is None or not self._going.is_set():
                return
            await asyncio.sleep(min(wait_s, 5.0) * 2**retry / 2)

    async def _attempt(
        self,
        attempt: Attempt,
        application: Application,
        draw: random.Random,
        text: str,
        tokens: int,
    ) -> float | None:
        """One request; how long an SDK would wait before it tries again, if it would."""
        leaves_s = None if application.leaves_s is None else draw.uniform(*application.leaves_s)
        try:
            async with asyncio.timeout(self.history.bound_s), asyncio.timeout(leaves_s):
                headers = await self._exchange(attempt, application, text, tokens)
        except TimeoutError:
            attempt.outcome = HUNG if leaves_s is None else LEFT
        except aiohttp.ClientConnectorError as error:
            attempt.outcome, attempt.note = UNCONNECTED, str(error.os_error)
            return 0.5
        except (aiohttp.ClientError, OSError) as error:
            attempt.outcome, attempt.note = BROKEN, type(error).__name__
            return 0.5
        else:
            if attempt.outcome == REFUSED and (attempt.status or 0) >= 500:
                return answers.retry_after_s(headers) or 0.5
        return None

    async def _exchange(
        self, attempt: Attempt, application: Application, text: str, tokens: int
    ) -> Mapping[str, str]:
        path, body, prompt = _request(application, text, tokens)
        expected = None if self.history.real else answer(prompt, tokens)
        headers = {"X-Tuner-Application": application.name}
        session = self._sessions[application.keep]
        async with session.post(path, json=body, headers=headers) as response:
            attempt.status = response.status
            if response.content_type != "text/event-stream":
                raw = await response.read()
                if response.status < 400:  # a refusal ends no outage
                    self._heard()
                attempt.outcome, attempt.note = answers.plain(
                    response.status, response.headers, raw, expected
                )
                return response.headers
            stream, complete = answers.Stream(), False
            with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                async for chunk in response.content.iter_any():
                    self._heard()
                    stream.feed(chunk)
                    if application.slow_s:
                        await asyncio.sleep(application.slow_s)
                complete = True
            attempt.outcome, attempt.note = stream.outcome(expected, complete=complete)
            return response.headers

    def _heard(self) -> None:
        self.history.progress.add(int(self.now * 10))


def _request(application: Application, text: str, tokens: int) -> tuple[str, dict[str, Any], str]:
    """Path, body and what the fake engine takes for the prompt."""
    body: dict[str, Any] = {
        "model": "demo",
        "max_tokens": tokens,
        "temperature": application.temperature,
        "ignore_eos": True,
        "stream": application.stream,
    }
    if application.min_p:
        body["min_p"] = application.min_p
    if not application.chat:
        return "/v1/completions", {**body, "prompt": text}, text
    messages = [{"role": "user", "content": text}]
    return "/v1/chat/completions", {**body, "messages": messages}, json.dumps(messages)
