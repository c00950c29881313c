"""The doctor's checks of vLLM."""

import json
import os
import stat
import sys

import pytest

from profiles.errors import UnavailableError
from tuner import doctor_engine
from tuner.config import Config
from tuner.flags import VllmInfo
from tuner.paths import Paths

INFO = VllmInfo(version="0.32.0", flags=frozenset({"--uds", "--speculative-config"}))


def config_of(folder, **more):
    """A configuration with its state in a folder."""
    return Config.model_validate(
        {"engine": {"model": "org/name"}, "state_dir": str(folder / "s"), **more}
    )


def paths_of(folder):
    """Its paths."""
    return Paths.of(config_of(folder))


def test_no_vllm(tmp_path, monkeypatch):
    """A missing vLLM is a failure with how to install it."""

    async def accepted(command, env, cache):
        raise UnavailableError("There is no vLLM.", hint="Install it.")

    monkeypatch.setattr(doctor_engine, "accepted_flags", accepted)
    found = list(doctor_engine.checks(config_of(tmp_path), paths_of(tmp_path)))[-1]

    assert ("vLLM", "fail", "Install it.") == (found.name, found.state, found.hint)


def test_flags_that_vllm_lacks(tmp_path):
    """Knobs that the installed vLLM does not take are named before the search drops them."""
    config = config_of(
        tmp_path,
        drafters=[{"name": "ngram", "method": "ngram"}],
        tuning={"space": {"max_num_seqs": [8]}},
    )
    found = doctor_engine.flags(config, INFO)

    assert "warn" == found.state
    assert "vLLM 0.32.0 has no --max-num-seqs." == found.sentence
    assert "fail" == doctor_engine.flags(config, VllmInfo(version="0", flags=frozenset())).state
    assert "ok" == doctor_engine.flags(config_of(tmp_path), INFO).state


def test_performance_mode_that_vllm_lacks(tmp_path):
    """A value that the installed vLLM does not offer is named."""
    config = config_of(tmp_path, tuning={"space": {"performance_mode": ["throughput"]}})
    flag = "--performance-mode"
    info = VllmInfo(
        version="0.32.0", flags=INFO.flags | {flag}, choices={flag: ("balanced", "interactivity")}
    )

    assert "vLLM has no performance mode throughput." == doctor_engine.flags(config, info).sentence


def test_cache_of_another_user_is_not_used(tmp_path, monkeypatch):
    """A check by root must not leave files that the daemon's user cannot write."""
    seen = []

    async def accepted(command, env, cache):
        seen.append(cache)
        return INFO

    monkeypatch.setattr(doctor_engine, "accepted_flags", accepted)
    paths = paths_of(tmp_path)
    paths.state.mkdir()
    doctor_engine.ask(config_of(tmp_path), paths)
    uid = os.geteuid()
    monkeypatch.setattr(doctor_engine.os, "geteuid", lambda: uid + 1)
    doctor_engine.ask(config_of(tmp_path), paths)

    assert paths.flags == seen[0]
    assert not seen[1].is_relative_to(paths.state)


def test_models(tmp_path):
    """A local model is a folder with config.json; a hub id is left to the engine."""
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "config.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    states = [
        doctor_engine.model("model", text).state
        for text in ("org/name", str(tmp_path / "good"), str(tmp_path / "empty"), "/no/such")
    ]

    assert ["ok", "ok", "fail", "fail"] == states


@pytest.mark.parametrize(
    ("versions", "wrong"),
    [
        ({"torch": "2.13.0+cpu", "torchvision": "0.28.0"}, ["torchvision 0.28.0"]),
        ({"torch": "2.13.0+cpu", "torchaudio": "2.13.0+cpu"}, []),
        ({"torch": "2.13.0", "torchvision": "0.28.0"}, []),
        ({}, []),
    ],
)
def test_companions_of_torch(versions, wrong):
    """A CUDA torchvision beside the CPU torch breaks vLLM's import."""
    assert wrong == doctor_engine.mismatched(versions)


def fake_python(folder, versions):
    """A Python that answers with these versions."""
    path = folder / "python3"
    path.write_text(f"#!{sys.executable}\nprint({json.dumps(json.dumps(versions))})\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_torch_of_the_engines_python(tmp_path):
    """Versions are read with the interpreter of engine.command, and the fix is a command."""
    python = fake_python(tmp_path, {"torch": "2.13.0+cpu", "torchvision": "0.28.0"})
    found = doctor_engine.torch(
        config_of(tmp_path, engine={"model": "m", "command": [python, "-m", "vllm"]})
    )

    assert "fail" == found.state
    assert f"Run `{python} -m pip uninstall torchvision`." == found.hint


def test_interpreter_of_a_console_script(tmp_path):
    """The Python of `vllm` is the one beside it; a program alone has none."""
    script = tmp_path / "vllm"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)

    assert doctor_engine.interpreter(str(script)) is None
    (tmp_path / "python").write_text("")
    assert str(tmp_path / "python") == doctor_engine.interpreter(str(script))
    assert doctor_engine.interpreter("no-such-program-here") is None


@pytest.mark.parametrize(
    ("args", "unknown"),
    [
        (["--swap-space", "4"], "--swap-space"),
        (["--disable-log-requests"], "--disable-log-requests"),
        (["--swap_space=4", "--u", "x"], "--swap_space"),
        (["--dtype", "half", "--max_model_len=8", "-tp", "2", "--", "--uds"], None),
        (["--compilation-config.mode", "3"], None),
    ],
)
def test_arguments_that_vllm_does_not_know_are_named(tmp_path, args, unknown):
    """A flag of an older vLLM would end every start; underscores and dotted keys are its own."""
    known = INFO.flags | {"--dtype", "--max-model-len", "--compilation-config"}
    config = config_of(tmp_path, engine={"model": "org/name", "args": args})
    found = doctor_engine.flags(config, VllmInfo(version="0.32.0", flags=known))

    assert ("ok" if unknown is None else "fail") == found.state
    assert unknown is None or f"vLLM 0.32.0 does not know {unknown}." == found.sentence
