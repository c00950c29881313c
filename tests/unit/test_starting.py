"""Which command starts the daemon of a configuration, for hints."""

from pathlib import Path

import pytest

from tuner.starting import start_command

FILE = Path("/etc/tuner/tuner.toml")


def unit(folder, name, config):
    """A unit as `tuner install` writes it."""
    line = f"ExecStart=/venv/bin/python -P -m service.run --config {config}\n"
    (folder / f"{name}.service").write_text(f"[Service]\n# --config {FILE} by hand\n{line}")


@pytest.mark.parametrize("service", ["tuner", "tunerd"])
def test_an_installed_service_is_started_by_systemd(tmp_path, service):
    """`tuner doctor` told who had installed the service to run `tuner run` beside it."""
    unit(tmp_path, service, FILE)

    assert f"systemctl start {service}" == start_command(FILE, named=True, units=tmp_path)
    assert f"systemctl start {service}" == start_command(FILE, named=False, units=tmp_path)


def test_a_service_of_another_file_is_not_meant(tmp_path):
    """A unit for one file says nothing about the others; names with spaces are quoted."""
    unit(tmp_path, "tuner", "/srv/other.toml")
    mine = Path("/home/a b/tuner.toml")

    assert "tuner run" == start_command(mine, named=False, units=tmp_path)
    assert "tuner --config '/home/a b/tuner.toml' run" == start_command(
        mine, named=True, units=tmp_path
    )
    assert "tuner run" == start_command(FILE, named=False, units=tmp_path / "none")
