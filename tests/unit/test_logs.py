"""Logs of engines, which a service that is forgotten must not fill its disk with."""

import os

from service.logs import forget_old


def test_the_newest_logs_are_kept(tmp_path):
    """By their last line, not by their names; what is no engine's log stays."""
    for number in range(6):
        path = tmp_path / f"engine-{9 - number}.log"
        path.write_text("a line")
        os.utime(path, (number, number))
    (tmp_path / "other.log").touch()

    forget_old(tmp_path, kept=2)
    assert {"engine-4.log", "engine-5.log", "other.log"} == {p.name for p in tmp_path.iterdir()}


def test_without_a_folder_nothing_is_forgotten(tmp_path):
    """Before the first start there is none."""
    forget_old(tmp_path / "none")

    assert [] == list(tmp_path.iterdir())


def test_a_link_to_nowhere_keeps_no_log(tmp_path):
    """The engine of a unit can write to this folder: what it leaves there must not stop us."""
    for number in range(3):
        path = tmp_path / f"engine-{number}.log"
        path.touch()
        os.utime(path, (number, number))
    (tmp_path / "engine-x.log").symlink_to(tmp_path / "none")

    forget_old(tmp_path, kept=1)
    assert ["engine-x.log"] == [p.name for p in tmp_path.iterdir()]
