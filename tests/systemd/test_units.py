"""The installed units under a real systemd, with the fake vLLM as their engine."""

import pytest
from fake_engine import answer

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(600)]


def test_the_service_becomes_active_and_answers(served):
    """Installed by `tuner install`, started by systemctl, asked at its address."""
    assert "active" == served.system.show("tuner.service", "ActiveState")
    assert answer("hello", 8) == served.client("complete", "hello", "8")
    assert "gate open" in served.serves("tuner.service")
