"""Synthetic requests of a class, from the standard library's own text, when no sample is kept."""

import ast
import functools
import random
import sysconfig
from pathlib import Path
from typing import Any

from profiles.classes import BYTES_PER_TOKEN, RequestClass, Sampling
from profiles.errors import UnavailableError
from tuner.replay import ReplayRequest

# long modules with much prose, in every CPython since 3.11
MODULES = (
    "argparse", "ast", "calendar", "configparser", "datetime", "difflib", "doctest", "enum",
    "fractions", "heapq", "inspect", "mailbox", "optparse", "pathlib", "pickletools", "random",
    "statistics", "tarfile", "textwrap", "threading", "typing", "zipfile",
)  # fmt: skip


def synthetic_requests(
    request_class: RequestClass,
    *,
    prompt_tokens: int,
    max_tokens: int,
    n: int,
    seed: int,
    model: str,
) -> list[ReplayRequest]:
    """Completions whose lengths match a class; equal arguments give equal requests.

    A token is taken for 4 bytes, as everywhere where nobody has counted. The text is code for
    greedy and structured requests and prose for sampled ones.

    Raises:
        UnavailableError: this Python has no source of its standard library.
    """
    text = _prose() if request_class.sampling is Sampling.SAMPLED else _code()
    if not text:
        raise UnavailableError(
            "This Python has no source of its standard library to make requests from.",
            hint='Set tuning.sampling = "memory" so that live requests are replayed.',
        )
    rng = random.Random(f"{request_class}:{seed}")  # noqa: S311 - repeatable, not secret
    size = max(1, prompt_tokens) * BYTES_PER_TOKEN
    return [
        ReplayRequest(
            endpoint="completions",
            body={
                "model": model,
                "prompt": _slice(text, rng.randrange(len(text)), size),
                "max_tokens": max_tokens,
                **_sampling(request_class.sampling, rng),
            },
        )
        for _ in range(n)
    ]


def _sampling(sampling: Sampling, rng: random.Random) -> dict[str, Any]:
    if sampling is Sampling.GREEDY:
        return {"temperature": 0.0}
    if sampling is Sampling.SAMPLED:
        return {"temperature": 1.0, "seed": rng.randrange(2**31)}
    return {"temperature": 0.0, "response_format": {"type": "json_object"}}


def _slice(text: str, start: int, size: int) -> str:
    """A piece of the text from the beginning of a line, coming round at its end."""
    line = text.rfind("\n", 0, start) + 1
    piece = text[line : line + size]
    while len(piece) < size:
        piece += text[: size - len(piece)]
    return piece


@functools.cache
def _sources() -> tuple[str, ...]:
    folder = Path(sysconfig.get_path("stdlib"))
    files = (folder / f"{name}.py" for name in MODULES)
    return tuple(file.read_text(encoding="utf-8") for file in files if file.is_file())


@functools.cache
def _code() -> str:
    return "\n".join(_sources())


@functools.cache
def _prose() -> str:
    """All docstrings of two lines and more."""
    found: list[str] = []
    for source in _sources():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text and "\n" in text:
                    found.append(text)
    return "\n\n".join(found)
