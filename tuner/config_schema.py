"""P: the configuration model as words: which keys there are and what each one takes."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tuner.config import Config

WORDS = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}

Node = Mapping[str, Any]  # one node of a JSON schema


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One key of the file."""

    path: str  # dotted, `[]` behind a list of tables
    expects: str  # "a number above 0"
    default: Any  # as JSON; None when there is none
    required: bool


@cache
def schema() -> Node:
    """The JSON schema of the configuration."""
    return Config.model_json_schema()


def resolve(node: Node) -> Node:
    """A node with its reference followed; what stands beside it, such as `default`, stays."""
    reference = node.get("$ref")
    if reference is None:
        return node
    target = schema()["$defs"][str(reference).rpartition("/")[2]]
    return {**target, **{key: value for key, value in node.items() if key != "$ref"}}


def child(node: Node, key: str | int) -> Node | None:
    """The node of a key or list index below a node; None when the model has no such key."""
    node = resolve(node)
    if isinstance(key, int):
        item = node.get("items")
        return None if item is None else resolve(item)
    if key in node.get("properties", {}):
        return resolve(node["properties"][key])
    free = node.get("additionalProperties")
    return resolve(free) if isinstance(free, Mapping) else None


def at(path: Sequence[str | int]) -> Node | None:
    """The node at a path, from the root."""
    node: Node | None = schema()
    for key in path:
        node = None if node is None else child(node, key)
    return node


def describe(node: Node) -> str:
    """What a node takes, in words."""
    node = resolve(node)
    if "anyOf" in node:
        options = [describe(option) for option in node["anyOf"] if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(options))
    if "const" in node:
        return json.dumps(node["const"])
    if "enum" in node:
        return "one of " + ", ".join(json.dumps(value) for value in node["enum"])
    kind = str(node.get("type"))
    if kind == "array":
        each = node.get("prefixItems")  # of a tuple
        parts = f" of {', '.join(map(describe, each))}" if each else ""
        return f"a list{parts}" if parts else f"a list, each item {describe(node['items'])}"
    if kind == "object":
        free = node.get("additionalProperties")
        return f"a table, each value {describe(free)}" if isinstance(free, Mapping) else "a table"
    pattern = f" matching {node['pattern']}" if "pattern" in node else ""
    return WORDS.get(kind, "a string") + bounds(node) + pattern


def bounds(node: Node) -> str:
    """The limits of a number, in words."""
    words = {
        "exclusiveMinimum": "above",
        "minimum": "at least",
        "exclusiveMaximum": "below",
        "maximum": "at most",
    }
    found = [f"{word} {node[key]:g}" for key, word in words.items() if key in node]
    return " " + " and ".join(found) if found else ""


def settings() -> list[Setting]:
    """Every key of the file, in the order of the model."""
    return list(_walk(schema(), ""))


def _walk(node: Node, prefix: str) -> Iterator[Setting]:
    node = resolve(node)
    required = node.get("required", ())
    for name, raw in node.get("properties", {}).items():
        below = resolve(raw)
        path = f"{prefix}{name}"
        item = resolve(below.get("items", {}))
        if "properties" in below:
            yield from _walk(below, f"{path}.")
        elif "properties" in item:
            yield from _walk(item, f"{path}[].")
        else:
            yield Setting(
                path=path,
                expects=describe(below),
                default=below.get("default"),
                required=name in required,
            )


def sections() -> list[str]:
    """Every table of the file that has keys below it."""
    heads = {setting.path.rpartition(".")[0] for setting in settings()}
    return sorted(head.replace("[]", "") for head in heads if head)


def nearest(path: Sequence[str | int]) -> str | None:
    """The known key that an unknown one probably means, dotted; None when nothing is near.

    A key of the same table wins, then the same name in another one (`drain_s` at the top).
    """
    *parents, name = path
    table = at(parents) or {}
    dotted = join(parents)
    near = difflib.get_close_matches(str(name), list(table.get("properties", {})), n=1, cutoff=0.6)
    if near:
        return f"{dotted}.{near[0]}" if dotted else near[0]
    keys = [*(setting.path.replace("[]", "") for setting in settings()), *sections()]
    by_name = {key.rpartition(".")[2]: key for key in reversed(keys)}
    elsewhere = difflib.get_close_matches(str(name), list(by_name), n=1, cutoff=0.75)
    return by_name[elsewhere[0]] if elsewhere else None


def join(path: Sequence[str | int]) -> str:
    """A path as people write it: `drafters[0].name`."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text
