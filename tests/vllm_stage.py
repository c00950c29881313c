"""A whole tunerd with a real vLLM and the demo pair, started and stopped by a test."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import psutil

from profiles.errors import TunerError
from service.engine_record import EngineRecord, members
from tuner.client import ControlClient
from tuner.config_file import load
from tuner.paths import Paths

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("TUNER_DEMO_CACHE", ROOT / ".cache"))
READY_S = 300.0

CONFIG = """
state_dir = {state}
[gateway]
listen = "127.0.0.1:{port}"
drain_s = 60
[engine]
model = {model}
exclusive = false # tests run side by side
args = [
  "--served-model-name", "demo", "--max-model-len", "1024", "--enforce-eager",
  "--dtype", "float32", # oneDNN has no bfloat16 matmul without AVX-512 and falls back
]
[engine.env]
HF_HUB_OFFLINE = "1"
[engine.default]
cpu_kv_gib = 1
{default}
[[drafters]]
name = "dflash"
method = "dflash"
model = {drafter}
[[drafters]]
name = "ngram"
method = "ngram"
options = {{ prompt_lookup_max = 4, prompt_lookup_min = 2 }}
[[drafters]]
name = "broken" # vLLM refuses a minimum above the maximum
method = "ngram"
options = {{ prompt_lookup_max = 2, prompt_lookup_min = 5 }}
[tuning]
auto = "off"
trials = {trials}
warmup_s = 1
block_s = 3
blocks = 2
pairs = 2
[tuning.space]
draft_lengths = {lengths}
[policy]
interval_s = 1
window_s = 20
min_requests = 5
dwell_s = 1
switches_per_hour = 100
patience = 0.05
probation_s = 5
plain_s = {plain_s}
[live]
learn = {learn}
"""


LIVE = """
drafter = "dflash"
draft_length = 15
live = true
"""


class VllmStage:
    """`tuner run` in a folder; ends exactly what it started."""

    def __init__(
        self, folder: Path, pair, *, trials: int = 3, plain_s: float = 600, learn: bool = False
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"
        self.config = folder / "tuner.toml"
        self.log = folder / "run.log"
        self.config.write_text(
            CONFIG.format(
                state=json.dumps(str(folder / "state")),
                port=port,
                model=json.dumps(str(pair.target)),
                drafter=json.dumps(str(pair.drafter)),
                trials=trials,
                plain_s=plain_s,
                learn=json.dumps(learn),
                default=LIVE if learn else "",
                lengths=[1, 2, 3, 5, 8] if learn else [3],
            )
        )
        self.paths = Paths.of(load(self.config))
        self.control = ControlClient(self.paths, answer_s=30)
        self.process: subprocess.Popen | None = None

    def start(self) -> "VllmStage":
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service.run", "--config", str(self.config)],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=ROOT,
            )
        return self

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(180)
        record = EngineRecord.read(self.paths.engine_record)
        if record is not None:  # a failed test must not leave an engine
            for process in members(record.token, None):
                with contextlib.suppress(psutil.Error):
                    process.kill()

    def status(self) -> dict | None:
        try:
            return self.control.get("/v1/status")
        except TunerError:
            return None

    async def until(self, condition, *, timeout_s: float = READY_S) -> dict:
        """The first status for which the condition holds."""
        deadline = time.monotonic() + timeout_s
        status = None
        while time.monotonic() < deadline:
            status = await asyncio.to_thread(self.status)
            if status is not None and condition(status):
                return status
            await asyncio.sleep(0.3)
        tail = self.log.read_text()[-3000:]
        raise AssertionError(f"not within {timeout_s} s; status {status}; log:\n{tail}")

    async def serving(self, label: str | None = None) -> dict:
        """Wait until a profile with this label is in force and the gate is open."""
        return await self.until(
            lambda s: (
                s["mode"] in {"serving", "probation"}
                and s["gateway"] is not None
                and s["gateway"]["gate"] == "open"
                and (label is None or s["engine"]["label"].startswith(label))
            )
        )

    def profile(self, **knobs) -> str:
        """Bring a profile in; its id."""
        platform = self.status()["platform"]["digest"]
        body = {
            "knobs": {"cpu_kv_gib": 1, **knobs},
            "platform": platform,
            "workload": "any",
            "origin": "import",
        }
        return self.control.post("/v1/profiles/import", {"profile": body})["id"]

    async def use(self, choice: str) -> None:
        await asyncio.to_thread(self.control.post, "/v1/use", {"profile": choice})

    def daemon_pid(self) -> int:
        return self.status()["pid"]

    def engine_processes(self) -> list[psutil.Process]:
        """Every process of every engine that this stage ever started."""
        tokens = {path.stem.rsplit("-", 1)[-1] for path in self.paths.logs.glob("engine-*.log")}
        return [process for token in tokens for process in members(token, None)]

    def engine_tokens_alive(self) -> set[str]:
        tokens = {path.stem.rsplit("-", 1)[-1] for path in self.paths.logs.glob("engine-*.log")}
        return {token for token in tokens if members(token, None)}

    def integrity(self) -> str:
        with sqlite3.connect(f"file:{self.paths.store}?mode=ro", uri=True) as connection:
            return connection.execute("PRAGMA integrity_check").fetchone()[0]


async def complete(session: aiohttp.ClientSession, prompt: str, **more) -> tuple[int, dict]:
    """One answer, not streamed."""
    body = {"model": "demo", "prompt": prompt, "max_tokens": 48, "temperature": 0, **more}
    async with session.post("/v1/completions", json=body) as answer:
        return answer.status, await answer.json()


async def stream(session: aiohttp.ClientSession, prompt: str, tokens: int) -> str:
    """The text of a complete greedy stream; raises when anything of it is missing."""
    body = {
        "model": "demo",
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    text, usage, done = "", None, 0
    async with session.post("/v1/completions", json=body) as answer:
        assert answer.status == 200, await answer.text()
        async for line in answer.content:
            if not line.startswith(b"data: "):
                continue
            if line.strip() == b"data: [DONE]":
                done += 1
                continue
            event = json.loads(line[6:])
            assert "error" not in event, event
            usage = event.get("usage") or usage
            text += "".join(choice["text"] for choice in event["choices"])
    assert (1, tokens) == (done, usage["completion_tokens"])
    return text


async def keep_streaming(session, prompts, tokens, stopping, outputs, failures) -> None:
    """One client: streams one prompt after the other until told, and keeps every text."""
    number = 0
    while not stopping.is_set():
        prompt = prompts[number % len(prompts)]
        number += 1
        try:
            outputs.append((prompt, await stream(session, prompt, tokens)))
        except Exception as error:  # noqa: BLE001  every kind of failure counts
            failures.append(repr(error))


async def reference(session, prompts, tokens) -> dict[str, set[str]]:
    """Greedy texts alone and together: what batching itself varies."""
    alone = {p: await stream(session, p, tokens) for p in prompts}
    together = await asyncio.gather(*(stream(session, p, tokens) for p in prompts))
    return {p: {alone[p], text} for p, text in zip(prompts, together, strict=True)}


def client(url: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=400))
