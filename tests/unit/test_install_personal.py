"""`tuner --config FILE install` with a file that was written for `tuner run`."""

import tomllib
from pathlib import Path

import pytest
from install_stage import settings, tree

from service.install import units
from service.install.__main__ import main

MINE = '[engine]\nmodel = "/models/m"\nargs = ["--max-model-len", "4k"]\n'


@pytest.fixture
def prefix(tmp_path):
    """An empty root."""
    return tmp_path / "root"


@pytest.fixture
def mine(tmp_path):
    """A file without a state directory."""
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    return path


def install(prefix, mine, *more):
    return main(["install", "--prefix", str(prefix), "--config", str(mine), *more])


@pytest.mark.parametrize("split", [(), ("--split",)])
def test_the_service_gets_a_copy_with_folders_of_its_own(prefix, mine, split):
    """Its sockets were in the service's home, closed to all; no command found them."""
    status = install(prefix, mine, *split)
    copy = prefix / units.CONFIG
    values = tomllib.loads(copy.read_text())
    [unit] = [name for name in ("tunerd.service", "tuner.service") if name in names(prefix)]
    text = (prefix / units.UNITS / unit).read_text()

    assert 0 == status
    assert ("/var/lib/tuner", "/run/tuner") == (values.pop("state_dir"), values.pop("runtime_dir"))
    assert tomllib.loads(MINE) == values
    assert f"--config /{units.CONFIG}" in settings(text, "ExecStart")[0]
    assert str(mine) not in text
    assert MINE == mine.read_text()
    assert 0 == install(prefix, mine, *split, "--dry-run")  # nothing is left to do


def names(prefix):
    return {Path(path).name for path in tree(prefix)}


def test_a_copy_that_was_changed_is_not_overwritten(prefix, mine, capsys):
    """It is the operator's; and so is a file that was there before."""
    install(prefix, mine)
    copy = prefix / units.CONFIG
    copy.write_text(f"{copy.read_text()}[tuning]\nauto = 'off'\n")
    before = tree(prefix)

    assert 1 == install(prefix, mine)
    assert f"{copy} is there already, and is not what {mine} would give" in capsys.readouterr().err
    assert before == tree(prefix)
    assert 0 == main(["install", "--prefix", str(prefix)])
    assert before == tree(prefix)


def test_a_file_with_a_state_directory_is_used_where_it_is(prefix, mine):
    """It was written for a service."""
    mine.write_text(f'state_dir = "/srv/tuner"\n{MINE}')
    install(prefix, mine)
    text = (prefix / units.UNITS / "tuner.service").read_text()

    assert f"--config {mine}" in settings(text, "ExecStart")[0]
    assert units.CONFIG not in tree(prefix)


def test_the_services_own_file_is_never_copied_onto_itself(prefix):
    """Also when it is named, and has no state directory."""
    own = prefix / units.CONFIG
    own.parent.mkdir(parents=True)
    own.write_text(MINE)

    assert 0 == install(prefix, own)
    assert MINE == own.read_text()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"/models/m": "./m"}, "Write them in full"),
        ({"/models/m": "~/m"}, "Write them in full"),
        ({"[engine]": 'runtime_dir = "run"\n[engine]'}, "Write them in full"),
        ({"[engine]": "[engine"}, "Cannot read"),
    ],
)
def test_a_file_that_would_say_something_else_there_is_refused(
    prefix, mine, capsys, change, sentence
):
    """Paths from its folder or a home; nothing is written."""
    text = MINE
    for old, new in change.items():
        text = text.replace(old, new)
    mine.write_text(text)

    assert 78 == install(prefix, mine)
    assert sentence in capsys.readouterr().err
    assert not prefix.exists()


def test_a_secret_file_is_not_copied_for_everybody(prefix, mine, capsys):
    """The service's configuration is read by `tuner status` of any user."""
    mine.chmod(0o600)

    assert 78 == install(prefix, mine)
    assert f"Not everybody may read {mine}" in capsys.readouterr().err
    assert not prefix.exists()


def test_what_looks_secret_is_not_copied_for_everybody(prefix, mine, capsys):
    """The usual place of a token is the engine's environment; other variables are welcome."""
    mine.write_text(MINE + '[engine.env]\nHF_TOKEN = "hf_x"\nVLLM_LOGGING_LEVEL = "DEBUG"\n')

    assert 78 == install(prefix, mine)
    said = capsys.readouterr().err
    assert f"{mine} holds HF_TOKEN, and everybody could read" in said
    assert "hf_x" not in said
    assert not prefix.exists()
    mine.write_text(MINE + '[engine.env]\nVLLM_LOGGING_LEVEL = "DEBUG"\n')
    assert 0 == install(prefix, mine)


def test_what_was_learned_before_is_named(prefix, mine, capsys):
    """It was below the service's home; a store that is in its place already is not covered."""
    old = prefix / "var/lib/tuner/.local/state/tuner/tuner.sqlite3"
    old.parent.mkdir(parents=True)
    old.touch()
    install(prefix, mine)
    assert f"`mv {old}* {prefix}/var/lib/tuner`" in capsys.readouterr().out

    (prefix / "var/lib/tuner/tuner.sqlite3").touch()
    install(prefix, mine)
    assert str(old) not in capsys.readouterr().out


def test_a_file_in_the_way_may_be_anything(prefix, mine, capsys):
    """Not only text."""
    target = prefix / units.CONFIG
    target.parent.mkdir(parents=True)
    target.write_bytes(b"\xff\xfe")

    assert 1 == install(prefix, mine)
    assert f"{target} is there already" in capsys.readouterr().err


def test_a_runtime_directory_of_ones_own_stays(prefix, mine):
    """In the one unit; the three need theirs."""
    mine.write_text(f'runtime_dir = "/run/mine"\n{MINE}')

    assert 78 == install(prefix, mine, "--split")
    assert 0 == install(prefix, mine)
    values = tomllib.loads((prefix / units.CONFIG).read_text())
    assert ("/var/lib/tuner", "/run/mine") == (values["state_dir"], values["runtime_dir"])
