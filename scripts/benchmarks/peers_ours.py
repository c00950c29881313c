"""tunerd itself: `tuner run`, traffic of one application, `tuner tune`, and its verdict."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Container
from pathlib import Path
from typing import Any, Self

import aiohttp
from peers_candidates import (
    BROKEN,
    BROKEN_LENGTH,
    CONCURRENCY,
    ENGINE_ARGS,
    TOKENS,
    Budget,
    title,
)
from peers_process import end_group, free_port, watched
from peers_read import our_trials, plain
from peers_result import Found, now
from peers_stage import CPU_ENV, PAIR, PEERS, ROOT, WARMUP_S, requests
from peers_venv import STARTS, base_env, commands, ours, starts

from profiles.errors import TunerError
from profiles.store import Store
from tuner.client import ControlClient
from tuner.config_file import load
from tuner.paths import Paths

BLOCKS = 3
SEEN = 4 * CONCURRENCY  # requests of the application before its class is tuned
LIMIT_S = 1800.0
ANY_PHASE: tuple[str, ...] = ()

CONFIG = """
state_dir = {state}
[gateway]
listen = "127.0.0.1:{port}"
[engine]
model = {model}
command = [{python}, "-m", "vllm.entrypoints.openai.api_server"]
args = {args}
[engine.env]
{env}
[engine.default]
cpu_kv_gib = 1
[[drafters]]
name = "dflash"
method = "dflash"
model = {drafter}
max_draft_length = {longest}
[[drafters]]
name = {broken}
method = "ngram"
max_draft_length = {broken_length}
options = {{ prompt_lookup_max = 2, prompt_lookup_min = 5 }} # vLLM refuses it
[tuning]
auto = "off"
trials = {trials}
warmup_s = {warmup_s}
block_s = {block_s}
blocks = {blocks}
pairs = {pairs}
[tuning.space]
draft_lengths = {lengths}
[policy]
interval_s = 1
window_s = 60
min_requests = {seen}
"""


class Service:
    """`tuner run` in a folder of its own; used as a context manager."""

    def __init__(self, budget: Budget, folder: Path, env: dict[str, str]) -> None:
        port, quote = free_port(), json.dumps
        self.url, self._folder, self._env = f"http://127.0.0.1:{port}", folder, env
        # the KV cache is a knob of ours, so it must not be in the environment
        engine_env = {k: v for k, v in CPU_ENV.items() if k != "VLLM_CPU_KVCACHE_SPACE"}
        self.config = folder / "tuner.toml"
        self.config.write_text(
            CONFIG.format(
                state=quote(str(folder / "state")),
                port=port,
                model=quote(str(PAIR.target)),
                python=quote(str(commands(PEERS / "bin") / "python")),
                args=quote(["--served-model-name", "demo", *ENGINE_ARGS]),
                env="\n".join(f"{name} = {quote(value)}" for name, value in engine_env.items()),
                drafter=quote(str(PAIR.drafter)),
                longest=max(budget.lengths),
                broken=quote(BROKEN.name),
                broken_length=BROKEN_LENGTH,
                trials=budget.trials,
                warmup_s=WARMUP_S,
                block_s=budget.seconds / BLOCKS,
                blocks=BLOCKS,
                pairs=budget.pairs,
                lengths=quote(sorted({*budget.lengths, BROKEN_LENGTH})),
                seen=SEEN // 2,
            ),
            encoding="utf-8",
        )
        self.control = ControlClient(Paths.of(load(self.config)))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with (self._folder / "run.log").open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service.run", "--config", str(self.config)],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=ROOT,
                env=self._env,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            end_group(self._process, patience_s=120)

    async def until(self, *modes: str, phases: Container[str | None] = ANY_PHASE) -> dict[str, Any]:
        """Wait for one of the modes, and for one of the phases of the search if some are named.

        Raises:
            SystemExit: it did not come, or the service ended.
        """
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                break
            try:
                status = dict(await asyncio.to_thread(self.control.get, "/v1/status"))
            except TunerError:
                status = {"mode": None}
            found = (status.get("tuning") or {}).get("phase")
            if status["mode"] in modes and (phases is ANY_PHASE or found in phases):
                return status
            await asyncio.sleep(0.5)
        raise SystemExit(f"tunerd did not get to {' or '.join(modes)}; see {self._folder}/run.log.")


def tunerd(budget: Budget, folder: Path) -> Found:
    """The whole way of an operator who has just installed it."""
    return asyncio.run(_tunerd(budget, folder))


async def _tunerd(budget: Budget, folder: Path) -> Found:
    env = {**base_env(), STARTS: str(folder / "starts"), "PYTHONPATH": str(ROOT)}
    began, marks = now(), {}
    with watched(env) as watch, Service(budget, folder, watch.env) as service:
        start = time.monotonic()
        await service.until("serving", "probation")
        marks["first start"] = time.monotonic() - start
        workload = await _traffic(service)
        marks["traffic"] = time.monotonic() - start - marks["first start"]
        asked = time.monotonic()
        await asyncio.to_thread(service.control.post, "/v1/tune", {"classes": [workload]})
        # a search that finds the default best goes without a promotion
        await service.until("tuning", "serving", "probation", phases=("promotion", "done"))
        marks["search"] = time.monotonic() - asked
        await service.until("serving", "probation", phases=("done",))
        marks["promotion"] = time.monotonic() - asked - marks["search"]
        wall_s = time.monotonic() - start
        get = service.control.get
        profiles = (await asyncio.to_thread(get, "/v1/profiles"))["profiles"]
        trials = (await asyncio.to_thread(get, "/v1/trials?limit=100"))["trials"]
    (folder / "trials.json").write_text(json.dumps(trials, indent=1), encoding="utf-8")
    (folder / "profiles.json").write_text(json.dumps(profiles, indent=1), encoding="utf-8")
    return outcome(folder, wall_s=wall_s, phases=marks, left_behind=watch.left_behind, began=began)


def outcome(
    folder: Path, *, wall_s: float, phases: dict[str, float], left_behind: int, began: str
) -> Found:
    """What the service said, and what its store holds of the leader of the search."""
    profiles = json.loads((folder / "profiles.json").read_text(encoding="utf-8"))
    trials = json.loads((folder / "trials.json").read_text(encoding="utf-8"))
    winner = max(profiles, key=lambda profile: profile["created_at"])
    evidence, kept = winner["evidence"], winner["origin"] != "search"
    leader = plain(promoted(folder, winner["platform"])) if kept and evidence["pairs"] else None
    mine = plain(winner["knobs"])
    return Found(
        tool="tunerd",
        versions=ours("tunerd"),
        measured="requests sampled from its own traffic, which was ours",
        wall_s=wall_s,
        starts=starts(folder / "starts"),
        trials=our_trials(trials),
        winner=mine.given(),
        winner_label=title(mine),
        claimed_tok_s=evidence["default_tok_s" if kept else "tok_s"],
        left_behind=left_behind,
        verdict=evidence["sentence"],
        refused=None if leader is None else leader.given(),
        refused_label=None if leader is None else title(leader),
        refused_tok_s=None if leader is None else evidence["tok_s"],
        phases=phases,
        began_at=began,
    )


def promoted(folder: Path, platform: str) -> dict[str, Any]:
    """The knobs of the candidate of the last promotion, its learned schedule included."""
    with Store.open(Paths.of(load(folder / "tuner.toml")).store, now=time.time()) as store:
        rows = store.measurements(platform, phase="promotion")
    found = [dict(json.loads(row.knobs)) for row in rows]
    return [knobs for knobs in found if knobs.get("drafter")][-1]


async def _traffic(service: Service) -> str:
    """Eight clients of one application until their class is known; its name."""
    bodies = [dict(request.body) for request in requests("code")]
    stopping, sent = asyncio.Event(), iter(range(10**9))

    async def client(session: aiohttp.ClientSession) -> None:
        while not stopping.is_set():
            body = {**bodies[next(sent) % len(bodies)], "max_tokens": TOKENS, "ignore_eos": True}
            async with session.post("/v1/completions", json=body) as answer:
                answer.raise_for_status()
                await answer.read()

    async with aiohttp.ClientSession(service.url) as session, asyncio.TaskGroup() as group:
        for _ in range(CONCURRENCY):
            group.create_task(client(session))
        while True:
            await asyncio.sleep(1.0)
            found = await asyncio.to_thread(service.control.get, "/v1/classes")
            full = [
                name
                for name, seen in found["seen"].items()
                if seen["requests"] >= SEEN and round(seen["concurrency"]) == CONCURRENCY
            ]
            if full:
                stopping.set()
                return str(full[0])
