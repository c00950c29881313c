"""The commands that peers start engines with: they are the project's own and count starts."""

import os
import subprocess

import pytest
from benchmark_modules import module

venv = module("peers_venv")


@pytest.fixture
def counted(tmp_path):
    """Runs a command of the folder; how many engine starts it counted."""
    folder = venv.commands(tmp_path / "bin")

    def run(name, *arguments, counting=True):
        log = tmp_path / "starts"
        log.unlink(missing_ok=True)
        env = {**venv.base_env(), **({venv.STARTS: str(log)} if counting else {})}
        command = [folder / name, *arguments]
        done = subprocess.run(command, check=False, env=env, capture_output=True, text=True)
        assert 0 == done.returncode, done.stderr
        return venv.starts(log), done.stdout

    return run


def test_an_engine_start_is_counted(counted):
    """The interpreter counts a command line with a model, and runs it all the same."""
    shown = "import sys; print(sys.argv[1:])"

    assert (1, "['--model', 'a b']\n") == counted("python", "-c", shown, "--model", "a b")


def test_what_starts_no_engine_is_not_counted(counted):
    """Asking the interpreter for versions costs no start."""
    assert (0, "1\n") == counted("python", "-c", "print(1)")


def test_without_a_file_nothing_is_counted(counted):
    """Outside a comparison the commands only do what they are called for."""
    assert (0, "1\n") == counted("python", "-c", "print(1)", "--model", "x", counting=False)


def test_the_interpreter_is_ours(counted):
    """Behind the command is the environment that has vLLM, whatever environment calls it."""
    import sys

    assert (0, f"{sys.prefix}\n") == counted("python", "-c", "import sys; print(sys.prefix)")


def test_peers_do_not_see_our_modules(monkeypatch):
    """What makes our packages importable does not reach another project's tool."""
    monkeypatch.setenv("PYTHONPATH", "somewhere")

    assert "PYTHONPATH" not in venv.base_env()
    assert os.environ["PATH"] == venv.base_env()["PATH"]
