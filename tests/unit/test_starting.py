"""What to do when a daemon does not answer, for hints."""

from pathlib import Path

import pytest

from service.install import units
from tuner.starting import START, start_advice

FILE = Path("/etc/tuner/tuner.toml")
ELSE = "or name the file it was started with by --config"


def write_unit(folder, name, config):
    """A unit as `tuner install` writes it."""
    word = units.quoted(str(config)).replace("$", "$$")
    line = f"ExecStart=/venv/bin/python -P -m service.run --config {word}\n"
    head = f"# {units.MARK_LINE}\n[Service]\n# --config {FILE} by hand\n"
    (folder / f"{name}.service").write_text(head + line)


@pytest.mark.parametrize("service", ["tuner", "tunerd"])
@pytest.mark.parametrize("file", [FILE, Path("/srv/a b/100 % $.toml")])
def test_an_installed_service_is_started_by_systemd(tmp_path, service, file):
    """`tuner doctor` told who had installed the service to run `tuner run` beside it."""
    write_unit(tmp_path, service, file)
    wanted = f"Start it with `systemctl start {service}`, {ELSE}."

    assert wanted == start_advice(file, named=True, units=tmp_path)
    assert wanted == start_advice(file, named=False, units=tmp_path)


def test_the_file_of_the_service_is_named_where_another_one_is_meant(tmp_path):
    """Who had a `tuner.toml` in the working directory was told to start a second daemon."""
    write_unit(tmp_path, "tuner", FILE)
    mine = Path("/home/a b/tuner.toml")
    has = f"{ELSE}: the service has {FILE}."

    assert f"Start it with `tuner run`, {has}" == start_advice(mine, named=False, units=tmp_path)
    assert f"Start it with `tuner --config '/home/a b/tuner.toml' run`, {has}" == start_advice(
        mine, named=True, units=tmp_path
    )


@pytest.mark.parametrize("command", ["their-tuner --config /y", "their-tuner '"])
def test_without_a_service_it_is_run_by_hand(tmp_path, command):
    """No unit, and one that is not from us, whatever it names."""
    assert START == start_advice(FILE, named=False, units=tmp_path / "none")
    (tmp_path / "tuner.service").write_text(f"[Service]\nExecStart=/usr/bin/{command}\n")
    assert START == start_advice(FILE, named=False, units=tmp_path)
