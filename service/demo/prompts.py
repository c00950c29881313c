"""Prompts for demo traffic, cut from the running interpreter's standard library."""

from __future__ import annotations

import ast
import functools
import inspect
import random
import sysconfig
from pathlib import Path

from profiles.errors import UnavailableError

# The demo pair was trained on these modules; a fixed list keeps corpus and prompts in step.
MODULES = tuple(
    """
    _collections_abc _strptime ast base64 bdb calendar cmd codecs collections/__init__
    compileall configparser contextlib copy csv ctypes/__init__ dataclasses dis fileinput
    fnmatch fractions ftplib functools getopt gettext glob gzip hashlib heapq hmac html/parser
    http/client http/server imaplib importlib/_bootstrap json/decoder json/encoder linecache
    logging/handlers lzma mimetypes ntpath numbers optparse os pathlib pdb pickle platform
    plistlib poplib posixpath pprint pstats queue random sched selectors shlex shutil smtplib
    socket socketserver ssl statistics string tempfile textwrap threading timeit tokenize trace
    traceback types unittest/case urllib/parse uuid wave weakref xmlrpc/client
    """.split()  # noqa: SIM905 - one name per line would be eighty lines
)

MIN_CHARS = 130  # about 40 tokens of the demo tokenizer
MAX_CHARS = 390  # about 120 tokens


class SourceMissingError(UnavailableError):
    """Cannot read the standard library: this interpreter ships without its source."""


@functools.cache
def sources() -> dict[str, str]:
    """Return the source text of every listed module this interpreter has, by name."""
    root = Path(sysconfig.get_path("stdlib"))
    found = {}
    for name in MODULES:
        path = root / f"{name}.py"
        if path.is_file():
            found[name] = path.read_text(encoding="utf-8")
    if not found:
        raise SourceMissingError
    return found


@functools.cache
def _functions(module: str) -> tuple[tuple[int, int], ...]:
    """Return (first line, last line) of the functions long enough to be cut."""
    tree = ast.parse(sources()[module])
    return tuple(
        (node.lineno - 1, node.end_lineno or node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 8
    )


@functools.cache
def _docstrings(module: str) -> tuple[str, ...]:
    """Return the docstrings that hold at least one prompt's worth of prose."""
    tree = ast.parse(sources()[module])
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    texts = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented))
    return tuple(inspect.cleandoc(text) for text in texts if text and len(text) > MIN_CHARS + 60)


def code_prompts(n: int, seed: int) -> list[str]:
    """Return n slices of source code, each ending inside a function."""
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    usable = [name for name in sources() if _functions(name)]
    prompts: list[str] = []
    while len(prompts) < n:
        module = rng.choice(usable)
        first, last = rng.choice(_functions(module))
        text = "".join(sources()[module].splitlines(keepends=True)[first:last])
        limit = min(MAX_CHARS, len(text) * 3 // 4)
        if limit >= MIN_CHARS:
            prompts.append(text[: rng.randint(MIN_CHARS, limit)].rstrip(" "))
    return prompts


def prose_prompts(n: int, seed: int) -> list[str]:
    """Return n passages of documentation prose, each ending after a whole word."""
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    usable = [name for name in sources() if _docstrings(name)]
    prompts: list[str] = []
    while len(prompts) < n:
        text = rng.choice(_docstrings(rng.choice(usable)))
        limit = min(MAX_CHARS, len(text) - 40)
        if limit >= MIN_CHARS:
            prompts.append(text[: rng.randint(MIN_CHARS, limit)].rsplit(maxsplit=1)[0])
    return prompts
