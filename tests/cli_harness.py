"""A scripted daemon with its configuration, and what it knows."""

import os
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_control import FakeControl

from profiles.knobs import Knobs
from profiles.profile import Evidence, Origin, Profile
from tuner.cli import (
    main,
)
from tuner.version import version

ROOT = Path(__file__).resolve().parents[1]


NOW = time.time()


PROFILE = Profile(
    knobs=Knobs(drafter="ngram", draft_length=8, cpu_kv_gib=4),
    platform="f00d",
    workload="greedy.balanced.low",
    origin=Origin.SEARCH,
    evidence=Evidence(
        tok_s=578.0,
        default_tok_s=231.0,
        gain=1.5,
        gain_low=1.42,
        gain_high=1.58,
        pairs=3,
        trials=12,
        sentence="3 pairs of starts: +150 %.",
    ),
    created_at=NOW,
)


STATUS = {
    "v": 1,
    "version": version(),
    "pid": 12,
    "mode": "serving",
    "sentence": "Serving with ngram k=8.",
    "since": NOW,
    "uptime_s": 273_600.0,
    "listen": "http://127.0.0.1:8000/v1",
    "engine": {
        "pid": 99,
        "token": "t",
        "label": "ngram k=8",
        "vllm_version": "0.32.0",
        "model": "/models/pair",
        "state": "running",
    },
    "profile": {
        "id": PROFILE.id,
        "label": "ngram k=8",
        "workload": PROFILE.workload,
        "origin": "search",
        "since": NOW,
        "why": "greedy.balanced.low is 83 % of tokens in the last 5 min",
        "evidence": PROFILE.evidence.model_dump(),
    },
    "traffic": {
        "window_s": 300.0,
        "requests": 413,
        "tok_s_now": 561.2,
        "classes": [
            {
                "workload": "greedy.balanced.low",
                "share": 0.83,
                "requests": 412,
                "profile": PROFILE.id,
                "state": "promoted 2 d ago",
                "gain": 1.5,
                "gain_low": 1.42,
                "gain_high": 1.58,
                "default_tok_s": 231.0,
                "tuned_tok_s": 578.0,
            },
            {
                "workload": "sampled.long-out.single",
                "share": 0.17,
                "requests": 1,
                "profile": None,
                "state": "not tuned yet",
                "gain": None,
                "gain_low": None,
                "gain_high": None,
            },
        ],
    },
    "telemetry": dict.fromkeys(
        ("power_w", "temperature_c", "gpu_memory_mib", "host_cpu", "host_memory_mib")
    ),
    "gateway": {
        "gate": "open",
        "in_flight": 2,
        "held": 0,
        "plain_waiting": 0,
        "counters": {"answered": 1234, "failed": 0, "held_s_max": 37.9},
    },
    "pins": [{"application": "nightly", "profile": "77c000112233", "label": "off"}],
    "tuning": None,
    "events": [{"at": NOW, "kind": "switch", "sentence": "default → ngram k=8"}],
}


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A configuration whose daemon is in a short folder."""
    path = tmp_path / "tuner.toml"
    path.write_text(
        'state_dir = "s"\n[engine]\nmodel = "org/name"\n'
        '[[drafters]]\nname = "ngram"\nmethod = "ngram"\n'
    )
    monkeypatch.setenv("TUNER_CONFIG", str(path))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return path


@pytest.fixture
def daemon(config):
    """A scripted daemon at that configuration."""
    with FakeControl().serving(config.parent / "s" / "run") as script:
        yield script


def tuner(*arguments, **more):
    """What a command answers."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], **more)


TRIALS = {
    "v": 1,
    "trials": [
        {
            "id": 2,
            "opened_at": NOW,
            "label": "ngram k=8",
            "status": "done",
            "measurements": [
                {
                    "workload": "greedy.balanced.low",
                    "phase": "search",
                    "tok_s": 570.25,
                    "acceptance_length": 3.456,
                    "invalid": None,
                    "failure": None,
                },
                {"workload": "sampled.long-out.low", "tok_s": None, "invalid": "load fell"},
            ],
        },
        {
            "id": 1,
            "opened_at": NOW,
            "knobs": {"draft_length": "off", "max_num_seqs": 64},
            "status": "failed",
            "failure": {"kind": "no_kv_memory", "sentence": "No room for KV."},
            "measurements": [],
        },
    ],
}


PROFILES = {
    "v": 1,
    "platform": "f00d",
    "in_force": PROFILE.id,
    "profiles": [
        {"id": PROFILE.id, **PROFILE.model_dump(mode="json"), "label": "ngram k=8, kv 4 GiB"},
        {"id": "beef", "platform": "other", "knobs": {"draft_length": "off"}},
    ],
}


# PYTHONUNBUFFERED would make a large write to a closed pipe end early without an error
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}


def command_line(*arguments):
    """The command as a shell would start it."""
    return [sys.executable, "-m", "tuner.cli", *arguments]
