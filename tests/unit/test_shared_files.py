"""Files that another user may have put in place of ours."""

import os

import pytest

from service.live_files import ControlFile, LiveKnobs, read_telemetry
from service.shared_files import open_plain, tail


def test_a_file_is_opened(tmp_path):
    """The ordinary case; of a long one the end is read."""
    path = tmp_path / "f"
    path.write_text("abcdef")
    os.close(open_plain(path))

    assert ("def", "abcdef") == (tail(path, 3), tail(path, 10))


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "none"])
def test_anything_else_is_not(tmp_path, kind):
    """Neither a link to a file that only we may read, nor a pipe that nobody writes to."""
    secret, path = tmp_path / "secret", tmp_path / "f"
    secret.write_text("secret")
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(OSError, match=r"symbolic|not a file|No such file"):
        open_plain(path)

    assert "" == tail(path, 10)
    assert read_telemetry(path) is None


def test_a_control_file_is_never_another_file_of_ours(tmp_path):
    """An engine that was taken over cannot make tunerd write where a link points."""
    secret, path = tmp_path / "secret", tmp_path / "engine.control"
    secret.write_text("kept")
    path.symlink_to(secret)
    with pytest.raises(OSError, match="symbolic"):
        ControlFile(path, shared=True).put(LiveKnobs.constant(1))

    assert "kept" == secret.read_text()


@pytest.mark.parametrize(("shared", "mode"), [(False, 0o600), (True, 0o640)])
def test_who_may_read_a_control_file(tmp_path, shared, mode):
    """An engine of another user by its group, whatever our umask is; else nobody."""
    path = tmp_path / "engine.control"
    before = os.umask(0o077)
    try:
        ControlFile(path, shared=shared).put(LiveKnobs.constant(1))
    finally:
        os.umask(before)

    assert mode == path.stat().st_mode & 0o777
