"""One booted system for the tests of a module, and tunerd in it."""

import pytest
from booted import NotBootedError, booted
from installed import Installed

from profiles.errors import UnavailableError
from service.install.host import need_polkit


@pytest.fixture(scope="module")
def system():
    """One system for the whole module."""
    try:
        with booted() as running:
            yield running
    except NotBootedError as error:
        pytest.skip(str(error))


@pytest.fixture
def installed(system):
    """A configuration, nothing installed; nothing of it is left for the next test."""
    service = Installed(system)
    if service.there:  # of `served`
        service.remove()
    service.configure()
    yield service
    service.remove()


@pytest.fixture
def served(system):
    """The one unit, installed and serving; the next test gets it as this one leaves it.

    An installation takes seconds and shall stand all of these tests, in whatever order.
    """
    service = Installed(system)
    service.ready()
    yield service
    service.restore()


@pytest.fixture(scope="module")
def at_last(system):
    """Removes what tests of the split form share."""
    service = Installed(system)
    yield service
    service.remove()


@pytest.fixture(scope="module")
def polkit():
    """Who asks whether tunerd may start an engine's unit; without one there is no split form."""
    try:
        need_polkit()
    except UnavailableError as error:
        pytest.skip(error.message)


@pytest.fixture
def split(at_last, polkit):
    """The three units, serving; what one test leaves, the next one finds."""
    service = at_last
    service.configure()
    if service.system.show("tunerd.service", "LoadState") != "loaded":
        service.install("--split")
    service.systemctl("start", "tunerd.service")
    service.serves("tuner-gateway.service")
    yield service
    service.restore()
