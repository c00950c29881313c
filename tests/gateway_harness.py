"""Starts gateways and fake engines as processes, and talks to both."""

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
from aiohttp import web

FAKE = Path(__file__).with_name("fake_vllm.py")
ROOT = FAKE.parent.parent
_starts = itertools.count(1)
DEADLINE_S = 60.0  # for a process to come up, on two busy cores
POLL_S = 0.02
CANARY = "the-canary-sings-at-dawn-4711"


async def until(condition, deadline_s=DEADLINE_S):
    """Wait for a condition, awaitable or not; its value."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s} s: {condition}")
        await asyncio.sleep(POLL_S)


def stop(process):
    """End a process that this test started."""
    if process.poll() is None:
        process.kill()
    process.wait()


@dataclass
class FakeEngine:
    """A fake vLLM on a unix socket, with a script that can be changed at any time."""

    folder: Path
    name: str
    args: tuple[str, ...] = ()
    token: str = ""
    process: subprocess.Popen | None = None

    def __post_init__(self) -> None:
        self.token = f"{self.name}-{next(_starts)}"

    @property
    def socket(self) -> Path:
        return self.folder / f"{self.name}.sock"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def script(self, **wanted: Any) -> None:
        """What it does from now on."""
        path = self.folder / f"{self.name}.json"
        path.with_suffix(".new").write_text(json.dumps(wanted))
        path.with_suffix(".new").replace(path)

    def start(self, **wanted: Any) -> "FakeEngine":
        self.script(**wanted)
        env = {**os.environ, "FAKE_VLLM_FILE": str(self.folder / f"{self.name}.json")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(FAKE), "--uds", str(self.socket), *self.args],
                env=env,
                stderr=log,
                start_new_session=True,
            )
        come_up(self.process, self.log, r"(startup complete)")
        return self

    async def fresh(self, **wanted: Any) -> "FakeEngine":
        """Like new, under a new token."""
        self.script(**wanted)
        self.token = f"{self.name}-{next(_starts)}"
        await until(lambda: self.runs(0))
        await get(self.socket, "/fake/reset", method="POST")
        return self

    async def runs(self, count: int) -> bool:
        """Whether so many requests run."""
        return (await self.state())["running"] == count

    def route(self, **more: Any) -> dict[str, Any]:
        """This engine as tunerd names it to the gateway."""
        return {
            "socket": str(self.socket),
            "token": self.token,
            "profile": f"profile-{self.token}",
            "refuses_plain": False,
            **more,
        }

    async def state(self) -> dict[str, Any]:
        return await get(self.socket, "/fake/state")

    async def last(self) -> dict[str, Any]:
        return await get(self.socket, "/fake/last")


def come_up(process, log, pattern):
    """Wait until a process says in its log that it serves; what it says."""
    end = time.monotonic() + DEADLINE_S
    while (found := re.search(pattern, log.read_text())) is None:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(POLL_S)
    return found[1]


async def get(socket, path, *, method="GET"):
    """Ask on a unix socket; None if nobody answers."""
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session,
            session.request(method, f"http://x{path}") as answer,
        ):
            return await answer.json()
    except (aiohttp.ClientError, OSError):
        return None


@dataclass
class Gateway:
    """A gateway process."""

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)  # of [gateway]
    tuning: dict[str, Any] = field(default_factory=dict)
    runtime: Path | None = None
    process: subprocess.Popen | None = None
    port: int = 0
    session: aiohttp.ClientSession | None = None
    admin: aiohttp.ClientSession | None = None
    first: int = 0  # record before this test
    before: dict[str, Any] = field(default_factory=dict)  # counters at its start

    @property
    def socket(self) -> Path:
        return (self.runtime or self.folder / "run") / "gateway.sock"

    @property
    def log(self) -> Path:
        return self.folder / "gateway.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def config(self) -> Path:
        """The configuration file."""
        settings = {"listen": "127.0.0.1:0", "hold_s": 5.0, "drain_s": 5.0, **self.settings}
        lines = [
            f"state_dir = {json.dumps(str(self.folder))}",
            f"runtime_dir = {json.dumps(str(self.socket.parent))}",
            "[engine]",
            'model = "some/model"',
            "[gateway]",
            *(f"{key} = {json.dumps(value)}" for key, value in settings.items()),
            "[tuning]",
            *(f"{key} = {json.dumps(value)}" for key, value in self.tuning.items()),
        ]
        self.folder.mkdir(exist_ok=True)
        path = self.folder / "tuner.toml"
        path.write_text("\n".join(lines))
        return path

    def spawn(self, *, prefix=(), **options: Any) -> subprocess.Popen:
        """Start the process without waiting for it."""
        config = self.config()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "service.gateway", "--config", str(config)],
                stderr=log,
                cwd=ROOT,
                start_new_session=True,
                **options,
            )
        return self.process

    def start(self, **options: Any) -> "Gateway":
        process = self.spawn(**options)
        self.port = int(come_up(process, self.log, r"serving http://127\.0\.0\.1:(\d+)"))
        return self

    async def open(self) -> "Gateway":
        """Connect; a gateway that served another test is emptied first."""
        timeout = aiohttp.ClientTimeout(total=30)
        self.session = aiohttp.ClientSession(
            self.url, timeout=timeout, connector=aiohttp.TCPConnector(limit=0)
        )
        self.admin = aiohttp.ClientSession(
            "http://gateway", connector=aiohttp.UnixConnector(str(self.socket), limit=0)
        )
        await self.route(None, gate="hold")
        state = await self.becomes(in_flight=0, held=0)
        self.first, self.before = state["records_next"], state["counters"]
        return self

    async def close(self) -> None:
        for session in (self.session, self.admin):
            if session is not None:
                await session.close()
        self.session = self.admin = None
        await asyncio.sleep(POLL_S)  # transports close in later turns of the loop

    async def route(self, engine: FakeEngine | None, *, gate: str = "open", **more: Any) -> Any:
        """Set the route as tunerd does."""
        wish = {"gate": gate, "reason": f"test {gate}", "eta_s": None, "ttl_s": None}
        refuses = more.pop("refuses_plain", False)
        wish["engine"] = None if engine is None else engine.route(refuses_plain=refuses)
        return await self.ask("PUT", "/route", json={**wish, **more})

    async def ask(self, method: str, path: str, **options: Any) -> Any:
        async with self.admin.request(method, path, **options) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def state(self) -> dict[str, Any]:
        return await self.ask("GET", "/state")

    async def records(self, after: int = 0, wait_s: float = 0.0) -> list[dict[str, Any]]:
        """Records of this test, after the first so many."""
        params = {"after": self.first + after, "wait_s": wait_s}
        return (await self.ask("GET", "/records", params=params))["records"]

    async def counters(self) -> dict[str, Any]:
        """What was counted since this test began."""
        now = (await self.state())["counters"]
        return {name: value - self.before[name] for name, value in now.items()}

    async def outcomes(self, count: int) -> list[str]:
        """The outcomes of the first requests, once there are so many."""

        async def enough():
            found = await self.records()
            return [record["outcome"] for record in found] if len(found) >= count else None

        return await until(enough)

    async def becomes(self, **wanted: Any) -> dict[str, Any]:
        """The state, once it has these values."""

        async def there():
            state = await self.state()
            return state if all(state[key] == value for key, value in wanted.items()) else None

        return await until(there)

    async def complete(self, prompt: str = "hello", **more: Any) -> "Reply":
        """One completion, read to its end or to its breaking."""
        body = {"model": "fake", "prompt": prompt, "max_tokens": 8, "temperature": 0, **more}
        reply = Reply()
        with contextlib.suppress(aiohttp.ClientError):
            async with self.session.post("/v1/completions", json=body) as answer:
                reply.status, reply.headers = answer.status, answer.headers
                async for chunk in answer.content.iter_any():
                    reply.body += chunk
                reply.whole = True
        return reply


@dataclass
class Reply:
    """What a client received."""

    status: int | None = None
    headers: Any = None
    body: bytes = b""
    whole: bool = False  # ended as HTTP says an answer ends

    @property
    def text(self) -> str:
        """The generated text, of a stream or not."""
        if not self.body.startswith((b"data:", b":")):
            return json.loads(self.body)["choices"][0]["text"]
        return "".join(
            choice["text"] for event in self.events for choice in event.get("choices", [])
        )

    @property
    def events(self) -> list[dict[str, Any]]:
        """The JSON events of a stream."""
        lines = [
            line[5:].strip() for line in self.body.decode().splitlines() if line[:5] == "data:"
        ]
        return [json.loads(line) for line in lines if line != "[DONE]"]

    @property
    def done(self) -> bool:
        return b"data: [DONE]" in self.body

    @property
    def error(self) -> dict[str, Any]:
        """The error that it carries, in an event or as its body."""
        if not self.body.lstrip().startswith((b"data:", b":")):
            return json.loads(self.body)["error"]
        return next(event["error"] for event in self.events if "error" in event)


@contextlib.contextmanager
def started(gateway, **options):
    """A gateway process, in whose log no text of a request and no defect may be."""
    try:
        yield gateway.start(**options)
    finally:
        stop(gateway.process)
    log = gateway.log.read_text()
    assert CANARY not in log
    assert "Traceback" not in log
    assert "Cannot serve a request" not in log


@contextlib.asynccontextmanager
async def several(folder):
    """Starts any number of gateways, each in a folder of its own, and ends them all."""
    with contextlib.ExitStack() as stack:
        made = []

        async def start(settings=None, runtime=None, **options):
            gateway = Gateway(folder / f"g{len(made)}", settings or {}, runtime=runtime)
            made.append(gateway)
            stack.enter_context(started(gateway, **options))
            return await gateway.open()

        yield start
        for gateway in made:
            await gateway.close()


@contextlib.asynccontextmanager
async def answering(folder, handler):
    """What routes to an engine that answers everything by this handler."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    socket = folder / "odd.sock"
    try:
        await web.UnixSite(runner, str(socket)).start()
        wanted = {"socket": str(socket), "token": folder.name, "profile": "p"}
        yield SimpleNamespace(route=lambda **more: {**wanted, **more})
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def fake(folder, name, *args, **wanted):
    """A fake engine process."""
    engine = FakeEngine(folder, name, args)
    try:
        yield engine.start(**wanted)
    finally:
        stop(engine.process)


async def raw(gateway, text):
    """Send bytes on a connection of their own; everything that comes back until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    data = b""
    try:
        writer.write(text)
        with contextlib.suppress(ConnectionError):
            data = await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return data


def terminate(process: subprocess.Popen) -> None:
    """Ask a process to end."""
    process.send_signal(signal.SIGTERM)
