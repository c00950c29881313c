"""`tuner upgrade`: what it changes and restarts, and when it does neither."""

import json
import os
import time

import pytest

from service.install import age, host, units, upgrade
from service.install.__main__ import main

CONFIG = """state_dir = "/var/lib/tuner"
runtime_dir = "/run/tuner"
[engine]
model = "some/model"
"""


@pytest.fixture
def prefix(tmp_path):
    """An empty root with a configuration."""
    config = tmp_path / "root" / units.CONFIG
    config.parent.mkdir(parents=True)
    config.write_text(CONFIG)
    return tmp_path / "root"


def asked(prefix, capsys, *words):
    """The exit status and the answer of an upgrade below a folder."""
    capsys.readouterr()
    status = main(["upgrade", "--prefix", str(prefix), "--json", *words])
    return status, json.loads(capsys.readouterr().out)


def older(prefix, unit):
    """A unit as another version would have written it."""
    path = prefix / units.UNITS / unit
    path.write_text(path.read_text().replace("WatchdogSec", "WatchdogUSec"))
    return path


def test_where_nothing_is_installed_it_says_so(prefix, capsys):
    """Exit 1, and what to run."""
    status, answer = asked(prefix, capsys)

    assert 1 == status
    assert "tuner install" in answer["error"]["hint"]


@pytest.mark.parametrize("form", [[], ["--split"]], ids=["one", "split"])
def test_it_changes_nothing_where_nothing_differs(prefix, capsys, form):
    """The form, the user and the configuration are those of the installation."""
    main(["install", "--prefix", str(prefix), "--user", "vllm", *form])
    status, answer = asked(prefix, capsys)

    assert (0, [], []) == (status, answer["files"], answer["commands"])


def test_it_restarts_tunerd_and_leaves_the_gateway(prefix, capsys):
    """In the split form; a dry run shows the diff and says no, as with diff."""
    main(["install", "--prefix", str(prefix), "--split"])
    ours = [older(prefix, name) for name in ("tunerd.service", "tuner-gateway.service")]
    dry, shown = asked(prefix, capsys, "--dry-run")
    untouched = ["WatchdogUSec" in path.read_text() for path in ours]
    status, answer = asked(prefix, capsys)
    again, nothing = asked(prefix, capsys)

    assert (1, 0, 0) == (dry, status, again)
    assert [True, True] == untouched
    assert "+WatchdogSec=30" in shown["files"][0]["diff"]
    assert ["systemctl", "restart", "tunerd.service"] == answer["commands"][-1]
    assert any("systemctl restart tuner-gateway" in note for note in answer["notes"])
    assert [] == nothing["files"] + nothing["commands"]


def test_it_restarts_the_gateway_on_request(prefix, capsys):
    """It drains, so this is the operator's choice."""
    main(["install", "--prefix", str(prefix), "--split"])
    older(prefix, "tuner-gateway.service")
    _, answer = asked(prefix, capsys, "--gateway")

    assert ["systemctl", "restart", "tuner-gateway.service"] == answer["commands"][-1]


def test_an_engine_that_was_a_child_moves_into_its_unit(prefix, capsys):
    """The older split form: the gateway is restarted too, to be in the group of the new user."""
    main(["install", "--prefix", str(prefix), "--split"])
    (prefix / units.UNITS / units.ENGINE).unlink()
    older(prefix, "tunerd.service")
    _, answer = asked(prefix, capsys)
    restarts = [command for command in answer["commands"] if command[1] == "restart"]

    assert [["systemctl", "restart", "tuner-gateway.service", "tunerd.service"]] == restarts


def test_the_one_unit_says_what_a_restart_costs(prefix, capsys):
    """Before it happens."""
    main(["install", "--prefix", str(prefix)])
    older(prefix, "tuner.service")
    capsys.readouterr()
    status = main(["upgrade", "--prefix", str(prefix)])
    said = capsys.readouterr()

    assert 0 == status
    assert "loads the model again" in said.err
    assert "systemctl restart tuner.service" in said.out


def test_a_configuration_that_this_version_refuses_stops_it(prefix, capsys):
    """Exit 78 and the setting; no file has changed."""
    main(["install", "--prefix", str(prefix), "--split"])
    unit = older(prefix, "tunerd.service")
    (prefix / units.CONFIG).write_text(f"{CONFIG}no_such_setting = 1\n")
    status, answer = asked(prefix, capsys)

    assert 78 == status
    assert "no_such_setting" in answer["error"]["message"]
    assert "WatchdogUSec" in unit.read_text()


@pytest.mark.parametrize("name", ["a b", "100%", "$HOME", 'q"\\q'])
def test_it_reads_back_what_it_has_quoted(tmp_path, capsys, name):
    """Whatever the path of the configuration is."""
    folder = tmp_path / name
    folder.mkdir()
    config = folder / "tuner.toml"
    config.write_text(CONFIG)
    root = tmp_path / "root"
    main(["--config", str(config), "install", "--prefix", str(root)])

    assert ("tuner", str(config)) == upgrade.said(root / units.UNITS / "tuner.service")


def test_code_is_as_old_as_its_newest_file(tmp_path, monkeypatch):
    """The change of the file counts, whatever time an installer has given it."""
    module = tmp_path / "service" / "install" / "age.py"
    module.parent.mkdir(parents=True)
    before = time.time() - 1
    module.write_text("")
    os.utime(module, (0, 0))
    monkeypatch.setattr(age, "__file__", str(module))
    monkeypatch.setattr(age.sysconfig, "get_path", lambda _: str(tmp_path))
    found = age.of_code()

    assert before < found <= time.time() + 1


@pytest.mark.parametrize(
    ("began", "code", "stale"), [(None, 5.0, False), (4.0, 5.0, True), (6.0, 5.0, False)]
)
def test_what_began_before_the_code_is_stale(monkeypatch, began, code, stale):
    """A unit that does not run is not restarted."""
    monkeypatch.setattr(host, "began", lambda _unit: began)
    monkeypatch.setattr(age, "of_code", lambda: code)

    assert stale is upgrade.runs_older("tunerd.service", changes=[])
