"""Demo prompts are repeatable cuts of source code and of prose."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

from service.demo import prompts as module
from service.demo.prompts import (
    MAX_CHARS,
    MIN_CHARS,
    SourceMissingError,
    code_prompts,
    prose_prompts,
    sources,
)


@pytest.mark.parametrize("make", [code_prompts, prose_prompts])
def test_same_seed_same_prompts(make: Callable[[int, int], list[str]]) -> None:
    """A seed fixes the prompts, another seed gives others."""
    assert make(20, 7) == make(20, 7)
    assert make(20, 7) != make(20, 8)


@pytest.mark.parametrize("make", [code_prompts, prose_prompts])
def test_fewer_prompts_are_the_first_of_more(make: Callable[[int, int], list[str]]) -> None:
    """Asking for more prompts extends the sequence."""
    assert make(40, 7)[:15] == make(15, 7)


def test_code_is_cut_inside_a_function() -> None:
    """A code prompt starts a function that its module goes on with."""
    for prompt in code_prompts(50, 3):
        assert prompt.lstrip().startswith("def ")
        assert any(prompt in text for text in sources().values())


def test_prose_is_no_code() -> None:
    """A prose prompt does not parse as Python."""
    for prompt in prose_prompts(50, 3):
        with pytest.raises(SyntaxError):
            ast.parse(prompt)


@pytest.mark.parametrize("make", [code_prompts, prose_prompts])
def test_lengths_suit_the_model(make: Callable[[int, int], list[str]]) -> None:
    """Prompts are between about forty and a hundred and twenty tokens long."""
    for prompt in make(50, 3):
        assert MIN_CHARS // 2 <= len(prompt) <= MAX_CHARS


def test_interpreter_without_source_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interpreter without .py files is an error that says so."""
    monkeypatch.setattr(module.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(SourceMissingError, match="without its source"):
        sources.__wrapped__()
