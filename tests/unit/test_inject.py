"""Faults on demand: off without the variable, and at the first passing of one point only."""

import os
import signal
import subprocess
import sys

import pytest

from service import inject
from service.inject import KILL, POINTS, RAISE, VARIABLE, InjectedError, Point


@pytest.fixture
def wish(tmp_path, monkeypatch):
    """The file that says what to do, as a process sees it that was started with the variable."""
    file = tmp_path / "wish"
    monkeypatch.setattr(inject, "_file", str(file))
    return file


def test_nothing_happens_without_the_variable(tmp_path, monkeypatch):
    """Not even a file of that name is looked for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wish").write_text(f"{Point.HELD} {RAISE}")

    assert VARIABLE not in os.environ
    inject.at(Point.HELD)


def test_a_defect_strikes_once_and_at_its_point(wish):
    """Other points are passed, and so is the same one afterwards; the file tells who was hit."""
    inject.at(Point.HELD)
    wish.write_text(f"{Point.HELD} {RAISE}")
    inject.at(Point.DRAINED)
    with pytest.raises(InjectedError, match="held"):
        inject.at(Point.HELD)
    inject.at(Point.HELD)

    assert [f"wish.{os.getpid()}"] == [path.name for path in wish.parent.iterdir()]


def test_a_kill_is_one(tmp_path):
    """SIGKILL to the process itself: no handler, no cleaning up."""
    (tmp_path / "wish").write_text(f"{Point.HELD} {KILL}")
    code = "from service import inject\ntry:\n inject.at('held')\nfinally:\n print('cleaned up')"
    environment = {**os.environ, VARIABLE: str(tmp_path / "wish")}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=False, timeout=60
    )

    assert (-signal.SIGKILL, b"") == (ended.returncode, ended.stdout)


def test_every_point_is_passed_somewhere():
    """Each named point is in the source once, and no two have one name."""
    sources = [path.read_text() for path in inject.Path(inject.__file__).parent.glob("*.py")]
    passed = "".join(sources)

    assert len(set(POINTS)) == len(POINTS)
    assert [] == [each for each in Point if passed.count(f"inject.Point.{each.name})") != 1]
