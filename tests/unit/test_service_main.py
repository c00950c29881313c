"""The process called tunerd: what it makes of its command line and of its file."""

import sys

import pytest

from profiles.errors import RestartError
from service import __main__ as program
from service.__main__ import unchanged
from service.engine_systemd import UnitKeeper
from tuner.config_file import load

CONFIG = 'state_dir = "state"\n[engine]\nmodel = "org/m"\n'


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tuner.toml"
    path.write_text(CONFIG)
    return path


def test_what_is_in_force_at_once_ends_nothing(file):
    """Nor does a comment."""
    config = load(file)
    file.write_text("# a comment\n" + CONFIG + "[policy]\npatience = 2.0\n")

    assert unchanged(file, config) is None


def test_a_changed_configuration_ends_tunerd_to_be_read(file):
    """The service manager starts it again, because its status is not 0."""
    config = load(file)
    file.write_text(CONFIG + 'args = ["--seed", "1"]\n')
    with pytest.raises(RestartError, match=r"engine\.args changed") as caught:
        unchanged(file, config)

    assert 69 == caught.value.exit_code


def test_a_mistake_in_the_file_ends_nothing(file, caplog):
    """A daemon that ended now would not come back."""
    config = load(file)
    file.write_text("[engine\n")

    assert unchanged(file, config) is None
    assert "not valid TOML" in caplog.text


@pytest.mark.parametrize(
    ("words", "leave", "units"),
    [([], False, False), (["--leave-engine"], True, False), (["--engine-units"], True, True)],
)
def test_engine_units_outlive_the_daemon(file, monkeypatch, words, leave, units):
    """Without the flag an engine is a child and ends with tunerd."""
    asked = []

    async def serve(config, paths, notifier, called):
        asked.append((called.leave_engine, isinstance(called.units, UnitKeeper)))

    monkeypatch.setattr(program, "serve", serve)
    monkeypatch.setattr(program, "configure", lambda: None)
    monkeypatch.setattr(sys, "argv", ["tunerd", "--config", str(file), *words])

    assert 0 == program.main()
    assert [(leave, units)] == asked
