"""Closed-loop load on an engine: the same requests in the same order for every candidate.

Tokens are counted from `usage`, which vLLM repeats in every chunk when asked
(`continuous_usage_stats`), so a block counts exactly the tokens that arrived between its edges,
also of requests that began before or end after it: no edge effect and no pause between blocks.
An engine that gives `usage` only at a request's end is counted there; in a steady loop what is
missing at one edge arrives at the other.

Output lengths are pinned (min_tokens = max_tokens, ignore_eos), because a configuration that
happens to answer shorter must not look faster. Grammar-bound requests end when the grammar does.
"""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from tuner.latency import Timing

Clock = Callable[[], float]

MAX_TOKENS_CAP = 512  # longer answers only make blocks longer, not rates different
COMPLETIONS_MAX_TOKENS = 16  # OpenAI's and vLLM's default for this endpoint
SEED = 20_240_917  # any constant: it makes sampled answers the same for every candidate
RETRY_S = 0.1  # pause of a worker after an error: a dead engine must not be hammered
SOCKET_ERRORS = 20  # refused connections after which the engine counts as gone
# vLLM answers 400 to these while speculation is on: they cannot be compared across candidates
UNCOMPARABLE = ("min_p", "logit_bias")
GRAMMAR = (
    "response_format", "structured_outputs", "tools", "functions",
    "guided_json", "guided_regex", "guided_choice", "guided_grammar",
)  # fmt: skip
# fields that multiply or end an answer, name it twice, or change how it is queued
DROPPED = ("best_of", "use_beam_search", "echo", "stop", "stop_token_ids", "request_id", "priority")


@dataclass(frozen=True)
class ReplayRequest:
    """One request to send again; its body is a user's text and never shown."""

    endpoint: str  # "completions" or "chat/completions"
    body: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class ReplayResult:
    """What one window of load gave."""

    seconds: float
    output_tokens: int  # from `usage`, arrived within the window
    requests: int  # answered to the end within the window
    errors: int
    refused: int  # answered with 4xx: the request's fault, the same for every candidate
    busy: float  # mean number of requests in flight
    timings: tuple[Timing, ...]  # of the answered requests


def pinned(
    request: ReplayRequest, *, cap: int = MAX_TOKENS_CAP, salt: str = ""
) -> dict[str, Any] | None:
    """The body to send for a request; None when it cannot be compared across candidates."""
    body = {key: value for key, value in request.body.items() if key not in DROPPED}
    if any(body.get(key) for key in UNCOMPARABLE):
        return None
    chat = request.endpoint.startswith("chat")
    wanted = body.pop("max_completion_tokens", None) or body.pop("max_tokens", None)
    tokens = min(int(wanted or (cap if chat else COMPLETIONS_MAX_TOKENS)), cap)
    body.update(
        max_tokens=tokens,
        n=1,
        stream=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
    )
    body.setdefault("seed", SEED)
    body.pop("min_tokens", None)
    body.pop("ignore_eos", None)
    if not _grammar_bound(body):
        body.update(min_tokens=tokens, ignore_eos=True)
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        body["prompt"] = prompt[0]  # a batch of prompts is several requests; one is enough
    if salt:
        body["cache_salt"] = salt
    return body


def _grammar_bound(body: Mapping[str, Any]) -> bool:
    """Whether a grammar decides where the answer ends; `ignore_eos` would leave it no token."""
    if body.get("response_format") == {"type": "text"}:
        body = {key: value for key, value in body.items() if key != "response_format"}
    return any(body.get(key) for key in GRAMMAR)


class Load:
    """A closed loop of `concurrency` workers; load goes on between windows.

    The first request of each worker is cut to a different share of its length, so that requests
    of one length do not march in step and prefill all at once.
    """

    def __init__(
        self,
        *,
        socket: Path,
        requests: Sequence[ReplayRequest],
        concurrency: int,
        max_tokens: int = MAX_TOKENS_CAP,
        clock: Clock = time.monotonic,
    ) -> None:
        self._requests = [request for request in requests if pinned(request) is not None]
        if not self._requests:
            raise ValueError("there is no request that can be replayed")
        self._socket = socket
        self._concurrency = concurrency
        self._max_tokens = max_tokens
        self._clock = clock
        self._order = itertools.count()
        self._salt = ""
        self._tokens = 0
        self._errors = 0
        self._refused = 0
        self._unreachable = 0
        self._busy_s = 0.0
        self._sent_at: dict[int, float] = {}
        self._timings: list[Timing] = []
        self._workers: list[asyncio.Task[None]] = []
        self._gone = asyncio.Event()
        self._session: aiohttp.ClientSession | None = None

    @property
    def gone(self) -> bool:
        """Whether the engine refuses connections, so that waiting for it is no use."""
        return self._gone.is_set()

    @property
    def tokens(self) -> int:
        """Output tokens received so far, warm-up included."""
        return self._tokens

    @property
    def replayable(self) -> int:
        """Requests that are replayed; the others cannot be compared across candidates."""
        return len(self._requests)

    async def __aenter__(self) -> Self:
        # one session for all: a connection per worker, kept alive
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=str(self._socket), limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            read_bufsize=2**20,  # one SSE line with logprobs may be long
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            worker.cancel()  # closes the connection: vLLM then aborts the request
        await asyncio.gather(*self._workers, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def window(self, seconds: float, *, salt: str = "", first: int = 0) -> ReplayResult:
        """Load for some seconds; every window sends the requests in order from number `first`.

        `salt` makes the prefix cache cold for the window: the same state for every candidate.
        """
        self._salt = salt
        self._order = itertools.count(first)
        if not self._workers:
            self._workers = [
                asyncio.create_task(self._work(number), name=f"replay-{number}")
                for number in range(self._concurrency)
            ]
        begin = self._clock()
        tokens, errors, refused = self._tokens, self._errors, self._refused
        answered, busy_s = len(self._timings), self._busy_until(begin)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._gone.wait(), seconds)
        end = self._clock()
        for worker in self._workers:
            if worker.done() and not worker.cancelled():
                worker.result()  # a defect of ours must not look like a slow engine
        elapsed = max(end - begin, 1e-9)
        timings = tuple(self._timings[answered:])
        return ReplayResult(
            seconds=elapsed,
            output_tokens=self._tokens - tokens,
            requests=len(timings),
            errors=self._errors - errors,
            refused=self._refused - refused,
            busy=(self._busy_until(end) - busy_s) / elapsed,
            timings=timings,
        )

    async def metrics(self) -> str:
        """The engine's Prometheus text."""
        async with self._client.get("http://engine/metrics") as answer:
            answer.raise_for_status()
            return await answer.text()

    @property
    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the load is used outside its context")
        return self._session

    def _busy_until(self, now: float) -> float:
        """Request-seconds in flight so far: finished ones and those still running."""
        return self._busy_s + sum(now - sent for sent in self._sent_at.values())

    def _next_body(self, number: int, *, opening: bool) -> tuple[str, dict[str, Any]]:
        lap, index = divmod(next(self._order), len(self._requests))
        request = self._requests[index]
        # a new salt per lap: a faster candidate must not earn cache hits by coming round sooner
        salt = f"{self._salt}-{lap}" if self._salt else ""
        body = pinned(request, cap=self._max_tokens, salt=salt)
        if body is None:  # filtered in __init__
            raise RuntimeError("an uncomparable request is in the order")
        if opening:
            cut = max(1, body["max_tokens"] * (number + 1) // self._concurrency)
            body["max_tokens"] = cut
            if "min_tokens" in body:
                body["min_tokens"] = cut
        return request.endpoint, body

    async def _work(self, number: int) -> None:
        opening = True
        while True:
            endpoint, body = self._next_body(number, opening=opening)
            opening = False
            sent = self._clock()
            self._sent_at[number] = sent
            try:
                await self._ask(endpoint, body, sent)
                self._unreachable = 0
            except aiohttp.ClientConnectorError:
                self._errors += 1
                self._unreachable += 1
                if self._unreachable >= SOCKET_ERRORS:
                    self._gone.set()
            except (aiohttp.ClientError, OSError, _BrokenAnswerError):
                self._errors += 1
            else:
                continue
            finally:
                self._busy_s += self._clock() - self._sent_at.pop(number)
            await asyncio.sleep(RETRY_S)

    async def _ask(self, endpoint: str, body: dict[str, Any], sent: float) -> None:
        """Send one request and count its tokens as they arrive."""
        first = last = None
        counted = 0
        ended = False
        async with self._client.post(f"http://engine/v1/{endpoint}", json=body) as answer:
            if 400 <= answer.status < 500:
                self._refused += 1
                await answer.read()
                return
            if answer.status != 200:
                raise _BrokenAnswerError
            async for line in answer.content:
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                if data == b"[DONE]":
                    ended = True
                    break
                tokens = _completion_tokens(data)
                if tokens is not None and tokens > counted:
                    last = self._clock()
                    first = last if first is None else first
                    self._tokens += tokens - counted
                    counted = tokens
        if not ended:
            raise _BrokenAnswerError
        self._timings.append(
            Timing(sent_s=sent, first_token_s=first, last_token_s=last, output_tokens=counted)
        )


class _BrokenAnswerError(Exception):
    """The engine answered with an error, or its stream ended early."""


def _completion_tokens(data: bytes) -> int | None:
    """Tokens of the answer so far, as the engine counts them; chunks are not tokens."""
    try:
        event = json.loads(data)
    except ValueError as error:
        raise _BrokenAnswerError from error
    if not isinstance(event, dict) or "error" in event:
        raise _BrokenAnswerError  # vLLM sends an error and then [DONE] when it is stopped
    usage = event.get("usage")
    return usage.get("completion_tokens") if isinstance(usage, dict) else None


async def replay(
    *,
    socket: Path,
    requests: Sequence[ReplayRequest],
    concurrency: int,
    seconds: float,
    clock: Clock = time.monotonic,
) -> ReplayResult:
    """Load an engine for some seconds and end at once; see `Load` for several windows in a row."""
    async with Load(socket=socket, requests=requests, concurrency=concurrency, clock=clock) as load:
        return await load.window(seconds)
