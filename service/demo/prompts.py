"""Prompts for demo traffic, cut from the running interpreter's standard library."""

from __future__ import annotations

import functools
import inspect
import itertools
import random
import re
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

# Patterns, because parsing every module takes seconds and a prompt need not be exact.
_FUNCTION = re.compile(r"^ *def ", re.MULTILINE)
_DOCSTRING = re.compile(r'^ *r?"""([A-Z][^"]+)"""', re.MULTILINE)


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
def _functions(module: str) -> tuple[str, ...]:
    """Return the functions of a module that are long enough to be cut, each up to the next."""
    text = sources()[module]
    starts = [match.start() for match in _FUNCTION.finditer(text)]
    spans = (text[a:b] for a, b in itertools.pairwise([*starts, len(text)]))
    return tuple(span for span in spans if len(span) * 3 // 4 >= MIN_CHARS)


@functools.cache
def _passages(module: str) -> tuple[str, ...]:
    """Return the docstrings of a module that hold at least one prompt's worth of prose."""
    texts = (inspect.cleandoc(text) for text in _DOCSTRING.findall(sources()[module]))
    return tuple(text for text in texts if len(text) - 40 >= MIN_CHARS)


def code_prompts(n: int, seed: int) -> list[str]:
    """Return n slices of source code, each ending inside a function."""
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    usable = [name for name in sources() if _functions(name)]
    prompts: list[str] = []
    for _ in range(n):
        text = rng.choice(_functions(rng.choice(usable)))
        limit = min(MAX_CHARS, len(text) * 3 // 4)
        prompts.append(text[: rng.randint(MIN_CHARS, limit)].rstrip(" "))
    return prompts


def prose_prompts(n: int, seed: int) -> list[str]:
    """Return n passages of documentation prose, each ending after a whole word."""
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    usable = [name for name in sources() if _passages(name)]
    prompts: list[str] = []
    for _ in range(n):
        text = rng.choice(_passages(rng.choice(usable)))
        limit = min(MAX_CHARS, len(text) - 40)
        prompts.append(text[: rng.randint(MIN_CHARS, limit)].rsplit(maxsplit=1)[0])
    return prompts
