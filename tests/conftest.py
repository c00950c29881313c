"""What all tests have."""

import pytest


@pytest.fixture
def tmp_path(tmp_path_factory):
    """An empty folder with a short name, since the path of a unix socket has 107 bytes.

    pytest's own is named after the test. With the worker's name in front (xdist), 22 tests that
    put sockets into theirs failed at 108 bytes.
    """
    return tmp_path_factory.mktemp("t")
