"""The stage of the demo: a configuration in a folder of its own, and `tuner run` upon it."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from profiles.errors import TunerError, UnavailableError
from service.demo.deepen import DemoPair
from tuner.client import ControlClient
from tuner.config_file import load
from tuner.paths import Paths

START_S = 600.0

CONFIG = """\
# Written by `tuner demo`: a demo pair of models on the CPU build of vLLM.
state_dir = {state}

[gateway]
listen = "127.0.0.1:{port}"
drain_s = 60

[engine]
model = {model}
exclusive = false # it runs beside whatever runs here
args = [
  "--served-model-name", "demo", "--max-model-len", "1024", "--enforce-eager",
  "--dtype", "float32", # oneDNN has no bfloat16 matmul without AVX-512 and falls back
]

[engine.env]
HF_HUB_OFFLINE = "1"

[engine.default]
cpu_kv_gib = 1

[[drafters]]
name = "dflash"
method = "dflash"
model = {drafter}
max_draft_length = 15

[[drafters]]
name = "ngram"
method = "ngram"
max_draft_length = 15
options = {{ prompt_lookup_max = 4, prompt_lookup_min = 2 }}

[tuning]
auto = "off"
trials = {trials}
warmup_s = 2
block_s = {block_s}
blocks = 2
pairs = 3

[tuning.space]
draft_lengths = {lengths}

[policy]
interval_s = 2
window_s = 30
min_requests = 8
dwell_s = 5
switches_per_hour = 60
patience = 0.1
probation_s = 30
"""


class Stage:
    """A running tunerd with the demo pair; used as a context manager."""

    def __init__(self, folder: Path, pair: DemoPair, *, quick: bool) -> None:
        self.folder = folder
        self.config = folder / "tuner.toml"
        self.log = folder / "tuner.log"
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        quote = json.dumps  # a JSON string is a TOML string
        self.config.write_text(
            CONFIG.format(
                state=quote(str(folder / "state")),
                port=port,
                model=quote(str(pair.target)),
                drafter=quote(str(pair.drafter)),
                trials=4 if quick else 6,
                block_s=3 if quick else 4,
                lengths=[3, 8] if quick else [1, 2, 3, 5, 8, 10, 15],
            ),
            encoding="utf-8",
        )
        self.control = ControlClient(Paths.of(load(self.config)))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "service.child", "--parent", str(os.getpid()), "--"),
                    *(sys.executable, "-m", "service.run", "--config", str(self.config)),
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything that was started, the engine first."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(180)

    def status(self) -> dict[str, Any]:
        """What `tuner status --json` shows."""
        return dict(self.control.get("/v1/status"))

    async def wait_for(self, *modes: str, timeout_s: float = START_S) -> dict[str, Any]:
        """Wait until the daemon is in one of these modes.

        Raises:
            UnavailableError: it ended, or did not get there.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                raise UnavailableError("tunerd ended.", hint=f"Its log is {self.log}.")
            status = await self.try_status()
            if status is not None and status["mode"] in modes:
                return status
            await asyncio.sleep(1.0)
        raise UnavailableError(
            f"tunerd did not reach {' or '.join(modes)} within {timeout_s:g} s.",
            hint=f"Its log is {self.log}.",
        )

    async def try_status(self) -> dict[str, Any] | None:
        """The status, None while the daemon does not answer."""
        try:
            return await asyncio.to_thread(self.status)
        except TunerError:
            return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
