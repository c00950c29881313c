"""Find, read and judge the configuration file; every problem is named, not just the first."""

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from profiles.errors import ConfigError
from tuner import config_checks, config_schema
from tuner.config import Config, EngineConfig
from tuner.paths import Paths

VARIABLE = "TUNER_CONFIG"
NAME = "tuner.toml"
SOCKET_PATH_BYTES = 107  # sun_path holds 108 with its closing zero
LONGEST_TOKEN = "0" * 16  # of an engine socket
SHOWN = 60  # characters of a refused value


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong in a file."""

    path: str  # dotted key; empty for the whole file
    line: int | None
    sentence: str

    def __str__(self) -> str:
        return self.sentence if self.line is None else f"line {self.line}: {self.sentence}"


class ConfigFileError(ConfigError):
    """The configuration file is wrong."""

    hint = "Correct the file, then run `tuner config check`."

    def __init__(self, path: Path, problems: tuple[Problem, ...]) -> None:
        self.path = path
        self.problems = problems
        if len(problems) == 1:
            message = f"{path}: {problems[0]}"
        else:
            message = f"{path} has {len(problems)} problems:" + "".join(
                f"\n  {problem}" for problem in problems
            )
        super().__init__(message)


def candidates(environ: Mapping[str, str]) -> list[Path]:
    """Where a configuration file is looked for, first match wins."""
    home = environ.get("XDG_CONFIG_HOME") or "~/.config"
    folders = [Path.cwd(), Path(os.path.expanduser(home)) / "tuner", Path("/etc/tuner")]  # noqa: PTH111 - keeps ~ without a home
    return [folder / NAME for folder in folders]


def find(explicit: Path | None = None, *, environ: Mapping[str, str] | None = None) -> Path:
    """The configuration file to use.

    Raises:
        ConfigError: the named file does not exist, or none was found.
    """
    environ = os.environ if environ is None else environ
    named, by = explicit, "--config"
    if named is None and environ.get(VARIABLE):
        named, by = Path(environ[VARIABLE]), f"${VARIABLE}"
    if named is not None:
        path = named.expanduser().absolute()
        if not path.exists():
            raise ConfigError(f"{path}, named by {by}, does not exist.", hint="Check the path.")
        return path
    places = candidates(environ)
    for place in places:
        if place.is_file():
            return place.absolute()
    raise ConfigError(
        f"There is no configuration file; looked for {', '.join(map(str, places))}.",
        hint='Write one with [engine] and model = "...", or name it with --config.',
    )


def load(path: Path) -> Config:
    """The configuration in a file, with its relative paths made absolute.

    Raises:
        ConfigFileError: with every problem of the file.
    """
    path = path.expanduser().absolute()
    text, raw = _read(path)
    values = config_checks.anchored(raw, path.parent)
    odd = [(where, _odd(where)) for where in config_checks.not_json(values)]
    found: list[Found] = [*odd, *config_checks.start_problems(values), *_missing_models(values)]
    config: Config | None = None
    if not odd:
        try:
            # JSON mode: lists become tuples and strings paths, yet "5" is no number
            config = Config.model_validate_json(json.dumps(values), strict=True)
        except ValidationError as error:
            found += _of_model(error, values)
        else:
            found += _too_long(Paths.of(config))
    if config is None or found:
        unique = {str(where) + sentence: (where, sentence) for where, sentence in found}
        raise ConfigFileError(
            path,
            tuple(
                Problem(
                    path=config_schema.join(where),
                    line=config_checks.line_of(text, where) if where else None,
                    sentence=f"{sentence}.",
                )
                for where, sentence in unique.values()
            ),
        )
    return config


def load_paths(path: Path) -> Paths:
    """Where the daemon of a file listens, also when other settings of the file are wrong.

    A running daemon must stay reachable while its file is being edited.
    """
    path = path.expanduser().absolute()
    raw = _read(path)[1]
    values = config_checks.anchored(raw, path.parent)
    state, runtime = values.get("state_dir"), values.get("runtime_dir")
    if not isinstance(state, str | None) or not isinstance(runtime, str | None):
        load(path)  # says what is wrong with them
    default = Config.model_fields["state_dir"].default
    kept = Config.model_construct(
        engine=EngineConfig.model_construct(model=""),
        state_dir=default if state is None else Path(state),
        runtime_dir=None if runtime is None else Path(runtime),
    )
    return Paths.of(kept)


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_bytes().decode()
        return text, tomllib.loads(text)
    except OSError as error:
        sentence = f"Cannot read {path}: {error.strerror or error}."
        raise ConfigError(sentence, hint="Check the path and its permissions.") from error
    except UnicodeDecodeError as error:
        problem = Problem(path="", line=None, sentence=f"byte {error.start} is not UTF-8.")
        raise ConfigFileError(path, (problem,)) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigFileError(path, (_malformed(str(error), text),)) from error


def _malformed(message: str, text: str) -> Problem:
    """Where the TOML ends to be TOML."""
    place = re.search(r"\(at line (\d+), column (\d+)\)", message)
    if place:
        line, column = int(place[1]), int(place[2])
    else:  # "(at end of document)"
        lines = text.split("\n")
        line, column = len(lines), len(lines[-1]) + 1
    reason = re.sub(r"\s*\(at [^)]*\)$", "", message)
    return Problem(path="", line=line, sentence=f"column {column}: not valid TOML: {reason}.")


Found = tuple[tuple[str | int, ...], str]  # where, what without a full stop


def _odd(where: tuple[str | int, ...]) -> str:
    return f"{config_schema.join(where)} is a date, a time or no finite number"


def _missing_models(values: Mapping[str, Any]) -> Iterator[Found]:
    for where, model in config_checks.model_paths(values):
        if not Path(model).exists():
            yield where, f"{config_schema.join(where)} is {model}, which does not exist"


def _of_model(error: ValidationError, values: Mapping[str, Any]) -> Iterator[Found]:
    seen: set[tuple[str | int, ...]] = set()
    for detail in error.errors(include_url=False):
        where = _written(detail, values)
        if where in seen and detail["type"] != "value_error":
            continue  # one sentence for all members of a union
        seen.add(where)
        yield where, _sentence(detail, where)


def _written(detail: ErrorDetails, values: Mapping[str, Any]) -> tuple[str | int, ...]:
    """The location as far as it exists in the file: pydantic adds names of union members."""
    location = detail["loc"]
    if detail["type"] == "missing":
        return location
    here: Any = values
    for depth, key in enumerate(location):
        inside = isinstance(here, list) and isinstance(key, int) and key < len(here)
        if not inside and not (isinstance(here, Mapping) and key in here):
            return location[:depth]
        here = here[key]
    return location


def _sentence(detail: ErrorDetails, where: tuple[str | int, ...]) -> str:
    name = config_schema.join(where)
    if detail["type"] == "missing":
        node = config_schema.at(where)
        return f"{name} is missing; it is {config_schema.describe(node or {})} and has no default"
    if detail["type"] == "extra_forbidden":
        near = config_schema.nearest(where)
        return f"{name} is not a known key" + (f"; the nearest is {near}" if near else "")
    if detail["type"] == "value_error":
        reason = detail["msg"].removeprefix("Value error, ")
        if where and reason.startswith(f"{where[-1]} = "):
            return name + reason.removeprefix(str(where[-1]))
        return f"{name}: {reason}" if name else reason
    node = config_schema.at(where)
    expected = config_schema.describe(node) if node else detail["msg"]
    # a value of engine.env may be a secret
    shown = "" if where[:2] == ("engine", "env") else f", not {_shown(detail['input'])}"
    return f"{name} must be {expected}{shown}"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _too_long(paths: Paths) -> Iterator[Found]:
    longest = paths.engine_socket(LONGEST_TOKEN)
    length = len(os.fsencode(longest))
    if length > SOCKET_PATH_BYTES:
        sentence = (
            f"runtime_dir gives socket paths of {length} bytes ({longest}), "
            f"and a unix socket takes {SOCKET_PATH_BYTES}; set a shorter runtime_dir"
        )
        yield ("runtime_dir",), sentence
