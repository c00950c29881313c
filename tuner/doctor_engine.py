"""Checks of vLLM: is it there, does it take our flags, are the models there?"""

import asyncio
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from profiles.errors import UnavailableError
from profiles.knobs import PLAIN_FLAGS, SPECULATIVE_FLAG, required_flags
from tuner.check import Check, fail, guarded, ok, warn
from tuner.config import Config
from tuner.config_checks import looks_local
from tuner.flags import VllmInfo, accepted_flags
from tuner.paths import Paths

SOCKET_FLAG = "--uds"
TORCH_S = 30.0
# built for CUDA beside the CPU torch: `RuntimeError: operator torchvision::nms does not exist`
COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
_VERSIONS = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def checks(config: Config, paths: Paths) -> Iterator[Check]:
    """Everything about the engine."""
    yield guarded("model", lambda: model("model", config.engine.model))
    for drafter in config.drafters:
        if drafter.model is not None:
            yield guarded("drafter", partial(model, f"drafter {drafter.name}", drafter.model))
    yield guarded("torch", lambda: torch(config))
    try:
        info = ask(config, paths)
    except UnavailableError as error:
        yield fail("vLLM", error.message, error.hint)
        return
    yield ok("vLLM", f"vLLM {info.version}, {len(info.flags)} flags.")
    yield guarded("flags", lambda: flags(config, info))


def ask(config: Config, paths: Paths) -> VllmInfo:
    """What vLLM accepts, from the daemon's cache where this user owns it."""
    with tempfile.TemporaryDirectory(prefix="tuner-doctor-") as folder:
        cache = Path(folder) / "flags.json"
        # a folder made by root would shut the daemon's own user out
        if paths.state.exists() and paths.state.stat().st_uid == os.geteuid():
            cache = paths.flags
        command, env = config.engine.command, config.engine.env
        return asyncio.run(accepted_flags(command, env, cache))


def flags(config: Config, info: VllmInfo) -> Check:
    """Whether the installed vLLM takes every flag that the search would use."""
    space = config.tuning.space
    wanted = {SOCKET_FLAG} | required_flags(config.engine.default)
    if config.drafters:
        wanted.add(SPECULATIVE_FLAG)
    wanted |= {flag for knob, flag in PLAIN_FLAGS.items() if getattr(space, knob)}
    missing = sorted(wanted - info.flags)
    if SOCKET_FLAG in missing:
        return fail("flags", f"vLLM {info.version} has no {SOCKET_FLAG}.", "Install vLLM 0.32.")
    unknown = unknown_flags(config.engine.args, info.flags)
    if unknown:
        hint = "Remove them from engine.args; the engine would not start with them."
        return fail("flags", f"vLLM {info.version} does not know {', '.join(unknown)}.", hint)
    if missing:
        hint = "These knobs are not searched; empty them in [tuning.space] or upgrade vLLM."
        return warn("flags", f"vLLM {info.version} has no {', '.join(missing)}.", hint)
    offered = info.choices.get(PLAIN_FLAGS["performance_mode"], ())
    strange = [mode for mode in space.performance_mode if offered and mode not in offered]
    if strange:
        hint = f"It knows {', '.join(offered)}."
        return warn("flags", f"vLLM has no performance mode {', '.join(strange)}.", hint)
    return ok("flags", f"vLLM takes all {len(wanted)} that are needed.")


def unknown_flags(args: Sequence[str], known: frozenset[str]) -> list[str]:
    """Long options of a command line that an installed vLLM refuses; beginnings are allowed."""
    heads = [re.split(r"[=.]", arg, maxsplit=1)[0] for arg in args if arg.startswith("--")]
    return [
        head
        for head in dict.fromkeys(heads)
        if len(head) > len("--")
        and not any(flag.startswith(head.replace("_", "-")) for flag in known)
    ]


def model(name: str, text: str) -> Check:
    """Whether a local model looks like one."""
    if not looks_local(text):
        return ok(name, f"{text} is a hub id; the engine fetches it at its first start.")
    path = Path(text)
    if not path.exists():
        return fail(name, f"{path} does not exist.", "Set the path of the model's folder.")
    if path.is_dir() and not (path / "config.json").exists():
        hint = "Set the folder that holds the weights and config.json."
        return fail(name, f"{path} has no config.json.", hint)
    return ok(name, f"{path} is there.")


def torch(config: Config) -> Check:
    """Whether companions of torch belong to its build."""
    python = interpreter(config.engine.command[0])
    if python is None:
        return ok("torch", "n/a: engine.command does not say which Python it runs.")
    answer = subprocess.run(  # the program comes from the configuration
        [python, "-I", "-c", _VERSIONS, "torch", *COMPANIONS],
        capture_output=True,
        text=True,
        timeout=TORCH_S,
        check=True,
    )
    versions: dict[str, str] = json.loads(answer.stdout)
    if "torch" not in versions:
        return ok("torch", "n/a: there is no torch in that environment.")
    wrong = mismatched(versions)
    if wrong:
        return fail(
            "torch",
            f"{', '.join(wrong)} is not built for torch {versions['torch']}; vLLM will not start.",
            f"Run `{python} -m pip uninstall {' '.join(name.split()[0] for name in wrong)}`.",
        )
    return ok("torch", f"torch {versions['torch']}, nothing of another build beside it.")


def mismatched(versions: dict[str, str]) -> list[str]:
    """Companions of another build beside a CPU torch, with their versions."""
    if not versions.get("torch", "").endswith("+cpu"):
        return []
    beside = {name: versions[name] for name in COMPANIONS if name in versions}
    return [f"{name} {have}" for name, have in beside.items() if not have.endswith("+cpu")]


def interpreter(program: str) -> str | None:
    """The Python behind a program: itself, or the one in the folder of a console script."""
    found = shutil.which(program)
    if found is None:
        return None
    if Path(found).name.startswith("python"):
        return found
    beside = Path(found).parent / "python"
    return str(beside) if beside.exists() else None
