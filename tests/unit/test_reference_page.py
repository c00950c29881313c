"""docs/reference.md says what the code does."""

import importlib.machinery
import importlib.util
import re
from pathlib import Path

import pytest

from profiles.errors import ExitCode
from tuner import config_checks, config_schema

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def docs():
    """The script as a module."""
    loader = importlib.machinery.SourceFileLoader("docs_script", str(ROOT / "scripts" / "docs"))
    spec = importlib.util.spec_from_loader("docs_script", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_page_is_fresh(docs):
    """The generated parts are those that `scripts/docs` makes now."""
    assert docs.rewritten(PAGE) == PAGE


def test_stale_page_is_found(docs):
    """A page with another default is not fresh."""
    stale = PAGE.replace("`180.0` | s |", "`181.0` | s |")

    assert stale != PAGE
    assert docs.rewritten(stale) == PAGE


def test_every_setting_is_there(docs):
    """No key of the model is missing, with its default."""
    table = docs.settings()
    names = {setting.path.rpartition(".")[2] for setting in config_schema.settings()}

    assert set() == {name for name in names if f"| `{name}` |" not in table}
    assert 50 < len(config_schema.settings())


def test_no_path_of_this_machine(docs):
    """A default that differs from machine to machine is described instead."""
    assert "python3" not in docs.settings()


def test_every_exit_code_is_there():
    """Exit codes are listed with their number."""
    missing = {code for code in ExitCode if f"| {code.value} | {code.name.lower()} |" not in PAGE}

    assert set() == missing


def test_every_reserved_flag_is_there():
    """What engine.args must not set is listed."""
    long = {flag for flag in config_checks.RESERVED if flag.startswith("--")}

    assert set() == {flag for flag in long if f"`{flag}`" not in PAGE}


def test_one_sentence_per_line():
    """Outside tables a line holds one sentence, so that a diff shows what changed."""
    prose = [line for line in PAGE.splitlines() if line and line[0] not in "|#<-"]

    assert [] == [line for line in prose if re.search(r"[a-z`)]\. [A-Z]", line)]
