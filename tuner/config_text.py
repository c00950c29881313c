"""P: a configuration as TOML for people, secrets left out."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from tuner.config import Config

SECRET = re.compile(r"token|key|secret|password|credential", re.IGNORECASE)
HIDDEN = "(hidden)"
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def redacted(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with environment variables hidden whose name looks like a secret."""
    shown = json.loads(json.dumps(values))
    environment = shown.get("engine", {}).get("env", {})
    for name in environment:
        if SECRET.search(name):
            environment[name] = HIDDEN
    return dict(shown)


def to_toml(values: Mapping[str, Any], config: Config | None = None) -> str:
    """Dotted TOML keys, one setting a line; with the model, defaults are marked."""
    lines = []
    for path, value, given in _leaves(values, config, ()):
        name = ".".join(_key(part) for part in path)
        if value is None:
            lines.append(f"# {name} is not set")
        else:
            mark = "" if given or config is None else "  # default"
            lines.append(f"{name} = {_value(value)}{mark}")
    return "\n".join(lines)


def _leaves(
    values: Mapping[str, Any], model: BaseModel | None, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any, bool]]:
    for key, value in values.items():
        below = getattr(model, key, None) if model is not None else None
        if isinstance(value, Mapping) and (isinstance(below, BaseModel) or model is None):
            yield from _leaves(value, below if isinstance(below, BaseModel) else None, (*path, key))
        else:
            yield (*path, key), value, model is None or key in model.model_fields_set


def _key(text: str) -> str:
    return text if BARE_KEY.fullmatch(text) else _value(text)


def _value(value: Any) -> str:
    if isinstance(value, str):
        # TOML takes JSON's strings, except that it forbids a bare DEL and has no surrogate pairs
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        items = (f"{_key(key)} = {_value(item)}" for key, item in value.items() if item is not None)
        return f"{{{', '.join(items)}}}"
    if isinstance(value, list):
        return f"[{', '.join(_value(item) for item in value)}]"
    return json.dumps(value)
