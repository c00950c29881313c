"""Engines that tests share: a start of a real one costs half a minute."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from gateway_harness import fake
from vllm_stage import CACHE, VllmStage

from service.demo.deepen import PAIR, demo_pair
from service.engine_record import KEEP_ENVIRON, TOKEN_VARIABLE, members
from service.launch import SITE

READY_S = 300.0


@dataclass(frozen=True)
class EngineUnderTest:
    socket: Path
    model: str


@pytest.fixture(scope="session")
def pair():
    return demo_pair(CACHE)


@pytest.fixture(scope="module")
def engine_socket(tmp_path_factory):
    """A real vLLM by itself: the demo core with ngram drafts."""
    folder = tmp_path_factory.mktemp("engine")
    socket, log, token = folder / "e.sock", folder / "engine.log", "test-engine-socket"
    environment = {
        **os.environ,
        **KEEP_ENVIRON,
        TOKEN_VARIABLE: token,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONPATH": str(SITE),
    }
    speculation = (
        '{"method":"ngram","num_speculative_tokens":4,"prompt_lookup_max":4,"prompt_lookup_min":2}'
    )
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(PAIR / "target-core"), "--served-model-name", "demo", "--enforce-eager",
        "--dtype", "float32", "--max-model-len", "1024", "--speculative-config", speculation,
        "--uds", str(socket),
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + READY_S
        while "Application startup complete" not in log.read_text(errors="replace"):
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < deadline, "the engine did not start"
            time.sleep(0.3)
        yield EngineUnderTest(socket=socket, model="demo")
    finally:
        process.terminate()
        process.wait(60)
        for left in members(token, None):
            left.kill()


@pytest.fixture(scope="module")
def stage(tmp_path_factory, pair):
    """A whole tunerd with a real vLLM, shared by the tests of a module."""
    # plain_s: a test that sends min_p must not keep the next one from speculating
    running = VllmStage(tmp_path_factory.mktemp("stage"), pair, plain_s=2).start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def live_stage(tmp_path_factory, pair):
    """The same with live learning on, shared by the tests of a module."""
    running = VllmStage(tmp_path_factory.mktemp("live"), pair, plain_s=2, learn=True).start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def first_fake(folder):
    """A fake engine that the tests of a module share, in the folder of that module."""
    with fake(folder, "first") as engine:
        yield engine


@pytest.fixture
async def engine(first_fake):
    """A fake engine, as if just started."""
    return await first_fake.fresh()
