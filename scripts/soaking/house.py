"""Where a soak takes place: the service in a folder of its own, on the fake vLLM or a real one."""

import contextlib
import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stage import MARK, Stage, UnixConnection, merged

from service.demo.deepen import DemoPair, demo_pair

STORE_MIB = {False: 32, True: 512}  # of the state folder; a real vLLM's caches lie in it too
CLOCK = Path(__file__).with_name("clock")  # of a sitecustomize
# so that faults heal within seconds, and every limit can be reached within one
BASE: dict[str, Any] = {
    "gateway": {
        "hold_s": 60.0,
        "drain_s": 20.0,
        "idle_timeout_s": 12.0,
        # longer than the gateway is stopped for: it would say 408 to those whose heads lay unread
        "header_timeout_s": 8.0,
        "body_timeout_s": 8.0,
        "write_timeout_s": 20.0,
    },
    "engine": {"start_timeout_s": 90.0, "stall_timeout_s": 90.0},
    "tuning": {
        "auto": "idle",
        "idle_s": 3.0,
        "warmup_s": 0.3,
        "block_s": 1.0,
        "sample_requests": 16,
        "sample_s": 60.0,
        "space": {"draft_lengths": [2, 3, 5, 8]},
    },
    "policy": {
        "interval_s": 0.5,
        "window_s": 20.0,
        "min_requests": 15,
        "dwell_s": 10.0,
        "probation_s": 8.0,
        "plain_s": 15.0,
    },
}
# tokens per second by draft length, one request and eight: drafting is worth something
SPEEDS = {0: (60, 400), 2: (110, 620), 3: (150, 800), 5: (130, 700), 8: (90, 450)}


class House(Stage):
    """One `tuner run` that is soaked."""

    real = False

    @property
    def clock(self) -> Path:
        """The file that says how wrong the clock of gateway and tunerd is, in seconds."""
        return self.folder / "clock"

    @property
    def needle(self) -> bytes:
        """What is in the environment of everything that was started here."""
        return f"{MARK}={self.mark}".encode()

    @property
    def normal(self) -> dict[str, Any]:
        """The script of a fake engine that does nothing wrong."""
        return {"landscape": str(self.folder / "landscape.json"), "child": True}

    def metrics(self, engine: Path) -> str:
        """The counters of an engine, as Prometheus text.

        Raises:
            OSError: it does not answer.
        """
        with contextlib.closing(UnixConnection(engine)) as connection:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()

    def furnish(self) -> None:
        """Write what the fake engine reads."""
        points = [
            {"num_speculative_tokens": k, "concurrency": at, "output_tok_s": speed}
            for k, speeds in SPEEDS.items()
            for at, speed in zip((1, 8), speeds, strict=True)
        ]
        (self.folder / "landscape.json").write_text(json.dumps({"points": points}))
        self.script(**self.normal)

    def environ(self) -> dict[str, str]:
        """With a clock that can be set."""
        found = super().environ()
        path = os.pathsep.join(filter(None, [str(CLOCK), found.get("PYTHONPATH", "")]))
        return found | {"SOAK_CLOCK": str(self.clock), "PYTHONPATH": path}


def _real(pair: DemoPair) -> dict[str, Any]:
    return {
        "engine": {
            "model": str(pair.target),
            "command": [sys.executable, "-m", "vllm.entrypoints.openai.api_server"],
            "args": [
                *("--served-model-name", "demo", "--max-model-len", "1024", "--enforce-eager"),
                *("--dtype", "float32"),
            ],
            "env": {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
            "default": {"cpu_kv_gib": 1},
            "start_timeout_s": 300.0,
            "stall_timeout_s": 300.0,
            "stop_timeout_s": 10.0,
        },
        "drafters": [
            {"name": "dflash", "method": "dflash", "model": str(pair.drafter)},
            {"name": "ngram", "method": "ngram"},
        ],
        "gateway": {"hold_s": 240.0, "idle_timeout_s": 30.0},
        "tuning": {"space": {"draft_lengths": [2, 3]}, "warmup_s": 1.0, "block_s": 3.0},
    }


@contextlib.contextmanager
def house(*, real: bool) -> Iterator[tuple[House, dict[str, str]]]:
    """A furnished house that has not been started, and what cannot be had in it and why.

    Nothing of it is left afterwards.
    """
    # a short path: a unix socket has 107 bytes
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    given = _real(demo_pair(Path(".cache").absolute())) if real else {}
    overrides = copy.deepcopy(merged(BASE, given))
    found = House(folder=folder, overrides=overrides)
    found.real = real
    lacks: dict[str, str] = {}
    found.state.mkdir(mode=0o700)
    mounted = _mount(found.state, STORE_MIB[real], lacks)
    found.furnish()
    try:
        yield found, lacks
    finally:
        found.clear()
        if mounted:
            subprocess.run(["umount", "--lazy", str(found.state)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _mount(place: Path, mib: int, lacks: dict[str, str]) -> bool:
    """Give the state a small file system of its own, where that is allowed."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "tmpfs", str(place)]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        lacks["mount"] = f"mount: {error.strerror}"
        return False
    if done.returncode:
        lacks["mount"] = done.stderr.strip() or f"mount: status {done.returncode}"
    return done.returncode == 0
