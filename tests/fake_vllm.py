"""A process that looks like vLLM from outside, for faults that a real one cannot be made to show.

Usage:  python tests/fake_vllm.py --uds PATH [vLLM flags]      also --host/--port and --help=all

It serves /health /version /metrics /v1/models /v1/completions /v1/chat/completions /v1/messages
(a request with tools gets a call of the first one), and for tests
/fake/state (counts), /fake/last (headers, crc32 and base64 body of the last request), and
POST /fake/reset.
`fake_engine.answer(prompt, n)` is the text it gives, whatever the knobs.

The script is JSON in the variable FAKE_VLLM, or in the file named by FAKE_VLLM_FILE, which is read
again at every request, so that a test can change its mind. Keys, all optional:

  at the start
    start_delay_s   seconds until it listens
    start_says_s    a line in the log so often meanwhile
    hang_start      true: never listens, logs nothing
    exit            {"code": 1, "log": NAME or text, "after_s": 0, "draft_lengths": [15]}
                    log names: see LOGS; draft_lengths: only with these (0 is off)
    child           true: leave a child in the process group that ignores SIGTERM
    ignore_sigterm  true
  at a request
    tokens          tokens of an answer without max_tokens (16)
    token_delay_s   between tokens (0), or
    landscape       file of landscapes/: tokens per second by draft length and running requests
    scale           multiplies that speed (1)
    chunk_bytes     pad every chunk to this size
    health          "ok", "hang", or a status
    metrics         "hang": no answer to /metrics
    frozen          true: the core does nothing any more, so that counters stay as they are; /health
                    goes on, and new requests get no answer
    fail            {"kind": KIND, "after": N chunks, "times": M requests (all), "status": 500}
      status        answer with this status and an OpenAI error
      reset         close the connection before any header
      die           SIGKILL itself after N chunks (0: before any header)
      die_headers   SIGKILL itself after the headers
      exit          exit status 0 after N chunks, as vLLM does when its core dies
      truncate      close the connection after N chunks
      no_done       end a stream cleanly without [DONE]
      error_event   after N chunks an SSE error and then [DONE], as vLLM's abort shutdown
      bad_chunks    break the chunk framing after N chunks
      hang          say nothing more after N chunks

SIGTERM aborts what runs (an SSE error, then [DONE]) and exits 0, or with --shutdown-timeout N
waits up to N seconds, as vLLM does.
"""

import argparse
import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

from aiohttp import web
from fake_engine import Answer, Engine, error_answer, json_answer
from fake_live import Live
from fake_messages import Message

MIB = 1024 * 1024
VERSION = "0.32.0+fake"
LOGS = {
    "oom": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    "no_kv": "ValueError: No available memory for the cache blocks. Try increasing "
    "`gpu_memory_utilization` when initializing the engine.",
    "foreign": "ValueError: Free memory on device cuda:0 (1.0/24.0 GiB) on startup is less than "
    "desired GPU memory utilization (0.9, 21.6 GiB).",
    "flag": "api_server.py: error: unrecognized arguments: --no-such-flag",
    "crash": "RuntimeError: CUDA error: an illegal memory access was encountered",
}
FLAGS = (
    "model", "served-model-name", "host", "port", "uds", "speculative-config", "max-num-seqs",
    "max-num-batched-tokens", "gpu-memory-utilization", "max-model-len", "dtype", "seed",
    "shutdown-timeout", "revision", "kv-cache-memory-bytes", "block-size", "tokenizer",
    "scheduler-cls", "max-num-queued-reqs", "max-num-queued-tokens", "api-server-count",
    "generation-config",
)  # fmt: skip
SWITCHES = ("enforce-eager", "enable-prefix-caching", "async-scheduling", "trust-remote-code",
            "enable-prompt-tokens-details", "disable-uvicorn-access-log",
            "enable-force-include-usage")  # fmt: skip


def script() -> dict[str, Any]:
    """What the test wants now."""
    path = os.environ.get("FAKE_VLLM_FILE")
    if path and Path(path).exists():
        return json.loads(Path(path).read_text(encoding="utf-8") or "{}")
    return json.loads(os.environ.get("FAKE_VLLM", "{}"))


async def thawed() -> dict[str, Any]:
    """The same for a request, which a frozen core does not even see."""
    wanted = script()
    if wanted.get("frozen"):
        await asyncio.sleep(3600)
    return wanted


def parser() -> argparse.ArgumentParser:
    """The flags that this vLLM accepts; any other one ends it."""
    made = argparse.ArgumentParser(prog="api_server.py", add_help=False)
    made.add_argument("--help", "-h", nargs="?", const="all", help="Show this.")
    for name in FLAGS:
        made.add_argument(f"--{name}", help="A flag of vLLM.")
    for name in SWITCHES:
        made.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, help="A switch.")
    made.add_argument("--performance-mode", choices=["balanced", "interactivity", "throughput"])
    return made


class Service:
    """The HTTP side."""

    def __init__(self, engine: Engine, live: Live | None = None) -> None:
        self.engine = engine
        self.page = engine.metrics()  # as it was last counted
        self.count = live.run if live is not None else lambda _: None  # the steps of an answer

    def application(self) -> web.Application:
        app = web.Application(client_max_size=2**30)
        app.add_routes(
            [
                web.get("/health", self.health),
                web.get("/version", lambda _: json_answer({"version": VERSION})),
                web.get("/metrics", self.metrics),
                web.get("/v1/models", self.models),
                web.get("/fake/state", self.state),
                web.get("/fake/last", self.last),
                web.post("/fake/reset", self.reset),
                web.post("/v1/completions", self.generate),
                web.post("/v1/chat/completions", self.generate),
                web.post("/v1/messages", self.generate),
                web.route("*", "/{path:.*}", self.other),
            ]
        )
        return app

    async def health(self, _: web.Request) -> web.Response:
        wanted = script().get("health", "ok")
        if wanted == "hang":
            await asyncio.sleep(3600)
        return web.Response(status=200 if wanted == "ok" else int(wanted))

    async def metrics(self, _: web.Request) -> web.Response:
        wanted = script()
        if wanted.get("metrics") == "hang":
            await asyncio.sleep(3600)
        if not wanted.get("frozen"):
            self.page = self.engine.metrics()
        return web.Response(text=self.page)

    async def models(self, _: web.Request) -> web.Response:
        card = {"id": self.engine.model, "object": "model", "max_model_len": 4096}
        return await json_answer({"object": "list", "data": [card]})

    async def state(self, _: web.Request) -> web.Response:
        kept = ("requests", "running", "finished", "cancelled", "failed", "sent_bytes")
        return await json_answer({key: getattr(self.engine, key) for key in kept})

    async def last(self, _: web.Request) -> web.Response:
        return await json_answer(self.engine.last)

    async def reset(self, _: web.Request) -> web.Response:
        fresh = Engine(model=self.engine.model, draft_length=self.engine.draft_length)
        kept = {"running", "stopping", "aborting"}
        for name, value in vars(fresh).items():
            if name not in kept:
                setattr(self.engine, name, value)
        return await json_answer({})

    async def other(self, request: web.Request) -> web.Response:
        await self.note(request)
        return await json_answer({"detail": "Not Found", "path": request.raw_path}, 404)

    async def note(self, request: web.Request) -> bytes:
        raw = await request.read()
        self.engine.last = {
            "path": request.raw_path,
            "headers": [[k, v] for k, v in request.headers.items()],
            "crc32": zlib.crc32(raw),
            "body": base64.b64encode(raw[:MIB]).decode(),
        }
        return raw

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """One completion; counted as running until it is answered, failed or cancelled."""
        engine, wanted = self.engine, await thawed()
        engine.requests += 1
        fail = dict(wanted.get("fail", {}))
        if engine.requests > fail.get("times", engine.requests):
            fail = {}
        raw = await self.note(request)
        kind, after = fail.get("kind"), int(fail.get("after", 0))
        if engine.stopping.is_set():
            return await error_answer(500, "cannot schedule new futures after shutdown")
        if kind == "status":
            engine.failed += 1
            return await error_answer(int(fail.get("status", 500)), "the engine failed")
        if kind == "die" and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "reset":
            engine.failed += 1
            request.transport.abort()
            return web.Response()
        try:
            asked = json.loads(raw)
        except ValueError:
            return await error_answer(400, "invalid JSON")
        if engine.draft_length and (asked.get("min_p") or asked.get("logit_bias")):
            return await error_answer(
                400,
                "The min_p and logit_bias sampling parameters are not yet supported with "
                "speculative decoding.",
            )
        engine.running += 1
        try:
            form = Message if request.path == "/v1/messages" else Answer
            made = form(self.engine, request, asked, wanted, kind, after)
            done = await made.give()
            self.count(made.tokens)
        except asyncio.CancelledError:
            engine.cancelled += 1
            raise
        except ConnectionError:
            engine.cancelled += 1
            raise
        finally:
            engine.running -= 1
        engine.finished += kind is None
        return done


def say(text: str) -> None:
    """One line in vLLM's log format."""
    sys.stderr.write(f"(APIServer pid={os.getpid()}) INFO 01-01 00:00:00 [fake.py:1] {text}\n")
    sys.stderr.flush()


def start(wanted: dict[str, Any], draft_length: int) -> None:
    """What happens before it listens."""
    if wanted.get("ignore_sigterm"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if wanted.get("child"):
        code = "import signal,time;signal.signal(signal.SIGTERM,signal.SIG_IGN);time.sleep(600)"
        subprocess.Popen([sys.executable, "-c", code])
    if wanted.get("hang_start"):
        time.sleep(3600)
    leave = wanted.get("exit")
    if leave and draft_length in leave.get("draft_lengths", [draft_length]):
        time.sleep(leave.get("after_s", 0))
        sys.stderr.write(LOGS.get(leave.get("log", ""), leave.get("log", "")) + "\n")
        sys.exit(leave.get("code", 1))
    say("Starting to load model")
    delay_s = wanted.get("start_delay_s", 0)
    every_s = wanted.get("start_says_s", delay_s or 1)
    for number in range(round(delay_s / every_s)):
        time.sleep(every_s)
        say(f"Loading safetensors checkpoint shards: {number}")


async def serve(arguments: argparse.Namespace, draft_length: int) -> None:
    """Serve until SIGTERM."""
    live = Live(draft_length) if arguments.scheduler_cls else None
    name = arguments.served_model_name or arguments.model or "fake"
    engine = Engine(model=name, draft_length=draft_length)
    runner = web.AppRunner(
        Service(engine, live).application(),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=1.0,
    )
    await runner.setup()
    if arguments.uds:
        await web.UnixSite(runner, arguments.uds, backlog=2048).start()
    else:
        await web.TCPSite(
            runner, arguments.host or "127.0.0.1", int(arguments.port or 8000)
        ).start()
    loop = asyncio.get_running_loop()
    if not script().get("ignore_sigterm"):
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, engine.stopping.set)
    say("Application startup complete.")
    await engine.stopping.wait()
    deadline = time.monotonic() + float(arguments.shutdown_timeout or 0)
    while engine.running and time.monotonic() < deadline:  # noqa: ASYNC110 - a fake
        await asyncio.sleep(0.02)
    engine.aborting.set()
    while engine.running and time.monotonic() < deadline + 1:  # noqa: ASYNC110 - a fake
        await asyncio.sleep(0.02)
    await runner.cleanup()
    say("Application shutdown complete.")


def main() -> None:
    """Parse, fail if the script says so, serve."""
    made = parser()
    arguments = made.parse_args()
    if arguments.help:
        made.print_help()
        return
    config = json.loads(arguments.speculative_config or "{}")
    draft_length = int(config.get("num_speculative_tokens", 0))
    start(script(), draft_length)
    asyncio.run(serve(arguments, draft_length))


if __name__ == "__main__":
    main()
