"""The inside of `fake_vllm.py`: tokens, counters, and the ways in which an answer goes wrong."""

import asyncio
import contextlib
import json
import os
import signal
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

ACCEPTANCE = 0.8  # of each further draft token


def answer(prompt: str, tokens: int) -> str:
    """The text of an answer: a function of the prompt and of nothing else."""
    return "".join(words(prompt, 0, tokens))


def words(prompt: str, start: int, end: int) -> list[str]:
    """The tokens from `start` to `end`."""
    return [f" w{zlib.crc32(f'{prompt}|{i}'.encode()) % 1000}" for i in range(start, end)]


def tool(asked: dict[str, Any]) -> str:
    """The tool that an answer calls: the first one, in the form of either API; empty: none."""
    for each in asked.get("tools") or ():
        return str(each.get("function", each)["name"])
    return ""


def arguments(text: str, *, first: bool = True, last: bool = True) -> str:
    """The text as the arguments of a tool, or a piece of them; no token needs an escape."""
    return ('{"text": "' if first else "") + text + ('"}' if last else "")


@dataclass
class Engine:
    """Counters and what the command line asked for."""

    model: str
    draft_length: int
    running: int = 0
    requests: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    sent_bytes: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    steps: int = 0
    step_s: float = 0.0
    drafts: int = 0
    accepted: list[int] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    aborting: asyncio.Event = field(default_factory=asyncio.Event)

    def step(self, left: int, seconds: float) -> int:
        """One decoding step of one request; how many tokens it gave."""
        k = self.draft_length
        good = min(round(sum(ACCEPTANCE**i for i in range(1, k + 1))), left - 1) if k else 0
        self.accepted = self.accepted or [0] * k
        for position in range(good):
            self.accepted[position] += 1
        self.drafts += 1 if k else 0
        self.steps += 1
        self.step_s += seconds
        self.generation_tokens += 1 + good
        return 1 + good

    def token_delay(self, wanted: dict[str, Any]) -> float:
        """Seconds per token of one request at the load of this moment."""
        if "landscape" not in wanted:
            return float(wanted.get("token_delay_s", 0.0))
        points = json.loads(Path(wanted["landscape"]).read_text(encoding="utf-8"))["points"]
        usable = [
            p for p in points if p["output_tok_s"] and p["num_speculative_tokens"] is not None
        ]
        k, load = self.draft_length, max(self.running, 1)
        best = min(
            usable,
            key=lambda p: (
                abs(p["num_speculative_tokens"] - k),
                abs((p["concurrency"] or 1) - load),
            ),
        )
        at = best["concurrency"] or 1  # fewer requests than measured: no more than their share
        return max(load, at) / (best["output_tok_s"] * float(wanted.get("scale", 1.0)))

    def metrics(self) -> str:
        """Prometheus text with vLLM's names."""
        label = f'engine="0",model_name="{self.model}"'
        values: dict[str, float] = {
            "num_requests_running": self.running,
            "num_requests_waiting": 0,
            "kv_cache_usage_perc": min(self.running / 100, 1.0),
            "prompt_tokens_total": self.prompt_tokens,
            "generation_tokens_total": self.generation_tokens,
            "num_preemptions_total": 0,
            "iteration_tokens_total_sum": self.generation_tokens,
            "iteration_tokens_total_count": self.steps,
            "inter_token_latency_seconds_sum": self.step_s,
            "inter_token_latency_seconds_count": self.steps,
        }
        if self.draft_length:
            values["spec_decode_num_drafts_total"] = self.drafts
            values["spec_decode_num_draft_tokens_total"] = self.drafts * self.draft_length
            values["spec_decode_num_accepted_tokens_total"] = sum(self.accepted)
        lines = [f"vllm:{name}{{{label}}} {float(value)}" for name, value in values.items()]
        per_position = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
        lines += [
            f'{per_position}{{{label},position="{i}"}} {float(count)}'
            for i, count in enumerate(self.accepted)
        ]
        return "\n".join(lines) + "\n"


class Answer:
    """One completion on its way."""

    def __init__(
        self,
        engine: Engine,
        request: web.Request,
        asked: dict[str, Any],
        wanted: dict[str, Any],
        kind: str | None,
        after: int,
    ) -> None:
        self.engine, self.request, self.asked, self.wanted = engine, request, asked, wanted
        self.kind, self.after = kind, after
        self.chat = request.path != "/v1/completions"
        self.tool = tool(asked)
        text = asked.get("messages") if self.chat else asked.get("prompt")
        self.prompt = text if isinstance(text, str) else json.dumps(text)
        self.limit = asked.get("max_completion_tokens") or asked.get("max_tokens")
        self.tokens = int(self.limit or wanted.get("tokens", 16))
        self.usage = {
            "prompt_tokens": max(len(self.prompt) // 4, 1),
            "completion_tokens": self.tokens,
            "total_tokens": max(len(self.prompt) // 4, 1) + self.tokens,
        }
        engine.prompt_tokens += self.usage["prompt_tokens"]

    async def give(self) -> web.StreamResponse:
        if self.asked.get("stream"):
            return await self.stream()
        made = 0
        while made < self.tokens:
            if self.kind in {"die", "exit", "truncate"} and made >= self.after:
                return await self.break_off(None)
            if self.kind == "hang":
                await asyncio.sleep(3600)
            if self.engine.aborting.is_set():
                return await error_answer(500, "EngineCore encountered an issue.")
            made += await self.pace(self.tokens - made)
        pad = " " * int(self.wanted.get("chunk_bytes", 0))
        return await json_answer(
            self.body(answer(self.prompt, self.tokens) + pad, usage=self.usage)
        )

    async def stream(self) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(self.request)
        if self.kind == "die_headers":
            response._payload_writer.send_headers()  # aiohttp keeps them until the first byte
            await asyncio.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)
        made = chunks = 0
        while made < self.tokens:
            if self.kind not in {None, "no_done"} and chunks >= self.after:
                return await self.break_off(response)
            if self.engine.aborting.is_set():
                self.kind = "error_event"
                return await self.break_off(response)
            count = await self.pace(self.tokens - made)
            text = "".join(words(self.prompt, made, made + count))
            made, chunks = made + count, chunks + 1
            pad = " " * int(self.wanted.get("chunk_bytes", 0))
            await self.chunk(response, text + pad, first=chunks == 1, last=made >= self.tokens)
        await self.end(response)
        await response.write_eof()
        return response

    async def chunk(
        self, response: web.StreamResponse, text: str, *, first: bool, last: bool
    ) -> None:
        """The tokens of one step."""
        body = self.body(text, done=last)
        if self.tool:
            calls = [self.call(text, first=first, last=last)]
            body["choices"][0]["delta"] = {"role": "assistant", "tool_calls": calls}
        await self.send(response, json.dumps(body))

    async def end(self, response: web.StreamResponse) -> None:
        """What follows the last token."""
        if (self.asked.get("stream_options") or {}).get("include_usage"):
            last = self.body("", usage=self.usage)
            await self.send(response, json.dumps({**last, "choices": []}))
        if self.kind != "no_done":
            await self.send(response, "[DONE]")

    def call(self, text: str, *, first: bool = True, last: bool = True) -> dict[str, Any]:
        """A call of the first tool with the text as its argument, or a piece of one."""
        function = {"arguments": arguments(text, first=first, last=last)}
        if not first:
            return {"index": 0, "function": function}
        function["name"] = self.tool
        return {"index": 0, "id": "call_fake", "type": "function", "function": function}

    async def send(self, response: web.StreamResponse, text: str, name: str = "") -> None:
        data = (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()
        await response.write(data)
        self.engine.sent_bytes += len(data)

    async def pace(self, left: int) -> int:
        """Wait as long as one step takes."""
        delay_s = self.engine.token_delay(self.wanted)
        # the step is known before it is waited for: its tokens set its length
        started = time.monotonic()
        count = self.engine.step(left, 0.0)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.engine.aborting.wait(), delay_s * count)
        self.engine.step_s += time.monotonic() - started
        return count

    async def break_off(self, response: web.StreamResponse | None) -> web.StreamResponse:
        self.engine.failed += 1
        transport = self.request.transport
        await asyncio.sleep(0.05)  # what was written goes out first
        match self.kind:
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(0)
            case "bad_chunks":
                transport.write(b"zz\r\nnot a chunk\r\n")
                transport.close()
            case "hang":
                await asyncio.sleep(3600)
            case "error_event" if response is not None:
                await self.error_event(response)
                await response.write_eof()
            case _:
                transport.close()
        return response or web.Response()

    async def error_event(self, response: web.StreamResponse) -> None:
        """How vLLM's abort ends a stream."""
        error = {"message": "EngineCore encountered an issue.", "code": 500}
        await self.send(response, json.dumps({"error": error}))
        await self.send(response, "[DONE]")

    def body(self, text: str, *, usage: dict[str, int] | None = None, done: bool = True) -> Any:
        reason = "tool_calls" if self.tool else "length" if self.limit else "stop"
        part: dict[str, Any] = {"index": 0, "finish_reason": reason if done else None}
        if not self.chat:
            part["text"] = text
        elif self.asked.get("stream"):
            part["delta"] = {"role": "assistant", "content": text}
        elif self.tool:
            calls = [self.call(text)]
            part["message"] = {"role": "assistant", "content": None, "tool_calls": calls}
        else:
            part["message"] = {"role": "assistant", "content": text}
        name = "chat.completion" if self.chat else "text_completion"
        name += ".chunk" if self.chat and self.asked.get("stream") else ""
        body = {"id": "cmpl-fake", "object": name, "model": self.engine.model, "choices": [part]}
        return body if usage is None else {**body, "usage": usage}


async def json_answer(body: Any, status: int = 200) -> web.Response:
    return web.json_response(body, status=status)


async def error_answer(status: int, message: str) -> web.Response:
    kind = "BadRequestError" if status < 500 else "InternalServerError"
    error = {"message": message, "type": kind, "param": None, "code": status}
    return await json_answer({"error": error}, status)
