"""What the model cannot say about a configuration: reserved flags, relative paths, lines."""

import datetime as dt
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from profiles.knobs import CAP_FLAGS, CPU_KV_VARIABLE, PLAIN_FLAGS, SPECULATIVE_FLAG

LOCAL_PREFIXES = ("/", "./", "../", "~")  # of a model that is a path; `org/name` is a hub id

_SPECULATION = "[[drafters]] and engine.default.draft_length"
_SOCKET = "nothing: tunerd gives each engine its own unix socket; set gateway.listen"
_PLAIN_HTTP = "nothing: the engine is behind a private unix socket; protect gateway.listen instead"

# flag of vLLM -> what to use instead
RESERVED: Mapping[str, str] = {
    **{flag: f"engine.default.{knob}" for knob, flag in {**PLAIN_FLAGS, **CAP_FLAGS}.items()},
    SPECULATIVE_FLAG: _SPECULATION,
    "-sc": _SPECULATION,
    "--spec-method": _SPECULATION,
    "--spec-model": _SPECULATION,
    "--spec-tokens": _SPECULATION,
    "--model": "engine.model",
    "--uds": _SOCKET,
    "--host": _SOCKET,
    "--port": _SOCKET,
    "--api-key": _PLAIN_HTTP,
    "--ssl-keyfile": _PLAIN_HTTP,
    "--ssl-certfile": _PLAIN_HTTP,
    "--scheduler-cls": "nothing: live knobs need it; live.enabled = false leaves vLLM's own",
    "--config": "engine.args for what is in that file, so that no knob is set where nobody sees it",
}
RESERVED_ENV: Mapping[str, str] = {
    CPU_KV_VARIABLE: "engine.default.cpu_kv_gib",
    "VLLM_API_KEY": _PLAIN_HTTP,
}
SHORTEST_ABBREVIATION = 6  # argparse takes prefixes such as `--max-num-s`


def reserved_flag(argument: str) -> str | None:
    """The reserved flag that an argument sets, whatever its spelling; None for any other."""
    head = re.split(r"[=.]", argument, maxsplit=1)[0]
    if head.startswith("--"):
        head = head.replace("_", "-")
    if head in RESERVED:
        return head
    if not head.startswith("--") or len(head) < SHORTEST_ABBREVIATION:
        return None
    return next((flag for flag in RESERVED if flag.startswith(head)), None)


def start_problems(raw: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Problems with the command, and with arguments and variables that tunerd sets itself."""
    engine = _table(raw.get("engine"))
    if engine.get("command") == []:
        yield ("engine", "command"), "engine.command is empty; it starts vLLM's API server"
    args = engine.get("args")
    for argument in args if isinstance(args, list) else []:
        flag = reserved_flag(argument) if isinstance(argument, str) else None
        if flag is not None:
            yield ("engine", "args"), f"engine.args must not set {flag}; use {RESERVED[flag]}"
    for name in _table(engine.get("env")):
        if name in RESERVED_ENV:
            yield (
                ("engine", "env", name),
                f"engine.env must not set {name}; use {RESERVED_ENV[name]}",
            )


def not_json(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Paths of TOML values that no setting takes: dates, times, infinities and nan."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from not_json(below, (*path, key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from not_json(below, (*path, index))
    elif isinstance(value, dt.date | dt.time) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        yield path


def looks_local(text: str) -> bool:
    """Whether a model or command names a file here rather than a hub id or a program."""
    return text in {".", ".."} or text.startswith(LOCAL_PREFIXES)


def anchored(raw: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The file's values with every path made absolute: relative ones start at the file's folder."""

    def path(value: Any, *, always: bool = False) -> Any:
        if not isinstance(value, str) or not value or not (always or looks_local(value)):
            return value
        return str(folder / os.path.expanduser(value))  # noqa: PTH111 - Path raises for an unknown ~user

    values = dict(raw)
    for key in ("state_dir", "runtime_dir"):
        if key in values:
            values[key] = path(values[key], always=True)
    if isinstance(values.get("gateway"), dict) and "keys_file" in values["gateway"]:
        gateway = values["gateway"]
        values["gateway"] = {**gateway, "keys_file": path(gateway["keys_file"], always=True)}
    if isinstance(values.get("engine"), dict):
        engine = dict(values["engine"])
        if "model" in engine:
            engine["model"] = path(engine["model"])
        if isinstance(engine.get("command"), list) and engine["command"]:
            engine["command"] = [path(engine["command"][0]), *engine["command"][1:]]
        values["engine"] = engine
    if isinstance(values.get("drafters"), list):
        values["drafters"] = [
            {**item, "model": path(item["model"])}
            if isinstance(item, dict) and "model" in item
            else item
            for item in values["drafters"]
        ]
    return values


def model_paths(values: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Key and path of every local model in anchored values."""
    model = _table(values.get("engine")).get("model")
    if isinstance(model, str) and looks_local(model):
        yield ("engine", "model"), model
    drafters = values.get("drafters")
    for index, item in enumerate(drafters if isinstance(drafters, list) else []):
        drafter = _table(item).get("model")
        if isinstance(drafter, str) and looks_local(drafter):
            yield ("drafters", index, "model"), drafter


def line_of(text: str, path: Sequence[str | int]) -> int | None:
    """The line that sets a key, or that of the nearest table or key above it; None at the top."""
    lines = _lines(text)
    for length in range(len(path), 0, -1):
        if (found := lines.get(tuple(path[:length]))) is not None:
            return found
    return None


def _lines(text: str) -> dict[tuple[str | int, ...], int]:
    """The line of every table and key that is written at the start of a line."""
    lines: dict[tuple[str | int, ...], int] = {}
    counts: dict[str, int] = {}
    table: tuple[str | int, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*(\[\[?)\s*([\w.\"'-]+)\s*\]", line)
        key = re.match(r"\s*([\w.\"'-]+)\s*=", line)
        if header:
            table = _parts(header[2])
            if header[1] == "[[":
                counts[header[2]] = counts.get(header[2], -1) + 1
                table = (*table, counts[header[2]])
            lines.setdefault(table, number)
        elif key:
            lines.setdefault((*table, *_parts(key[1])), number)
    return lines


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
