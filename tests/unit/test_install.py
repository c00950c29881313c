"""`tuner install` into a folder: what it writes, again and again, and what takes it away."""

import json
import os
import pwd
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from install_stage import rendered, settings, tree

from service.install import host, plan, units
from service.install.__main__ import main

ROOT = Path(__file__).parents[2]
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
# measured with systemd 252: 13, 4, 8, 3 and at most 13 tenths of a point; it moves with the version
MOST = {
    "tuner.service": 15,
    "tunerd.service": 13,
    "tuner-engine@.service": 15,
    "tuner-gateway.service": 5,
    "tuner-doctor.service": 15,
}


@pytest.fixture
def prefix(tmp_path):
    """An empty root."""
    return tmp_path / "root"


@pytest.fixture(
    params=[(False, None), (True, None), (False, "/etc/keys"), (True, "/etc/keys")],
    ids=["one", "split", "one-keys", "split-keys"],
)
def unit_folder(request, tmp_path):
    """Both forms as they would be on this machine, with an executable that exists."""
    split, keys_file = request.param
    files = rendered(split=split, keys_file=keys_file, python=sys.executable)
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


@needs_systemd
def test_systemd_finds_nothing_wrong(unit_folder):
    """Every key is known, every command exists, every reference can be resolved."""
    found = sorted(
        str(path) for path in unit_folder.iterdir() if path.suffix in {".service", ".socket"}
    )
    done = subprocess.run(
        [ANALYZE, "verify", "--man=no", *found], capture_output=True, text=True, check=False
    )

    assert (0, "") == (done.returncode, done.stdout + done.stderr)


@needs_systemd
def test_no_unit_is_more_exposed_than_its_limit(unit_folder):
    """The gateway at most 0.5, tunerd without an engine 1.3; what holds an engine 1.5."""
    exposed = {}
    for path in sorted(unit_folder.glob("*.service")):
        limit = f"--threshold={MOST[path.name]}"
        done = subprocess.run(
            [ANALYZE, "security", "--offline=yes", "--no-pager", limit, str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            exposed[path.name] = done.stdout.splitlines()[-1:] or done.stderr

    assert {} == exposed


@needs_systemd
def test_the_limit_can_be_missed(tmp_path):
    """The rule above bites: a unit without a sandbox is refused."""
    unit = tmp_path / "open.service"
    unit.write_text("[Service]\nExecStart=/bin/true\n", encoding="utf-8")
    done = subprocess.run(
        [ANALYZE, "security", "--offline=yes", "--no-pager", "--threshold=15", str(unit)],
        capture_output=True,
        check=False,
    )

    assert 0 != done.returncode


def test_the_allowed_calls_come_before_the_refused_ones():
    """The first SystemCallFilter= decides whether the list allows or refuses."""
    for name, text in {**rendered(), **rendered(split=True)}.items():
        if name.endswith(".service"):
            assert "@system-service" == settings(text, "SystemCallFilter")[0], name


@pytest.mark.parametrize("form", [[], ["--split"]], ids=["one", "split"])
def test_a_second_run_changes_nothing(prefix, capsys, form):
    """The diff of the second run is empty, and the files are the same."""
    first = main(["install", "--prefix", str(prefix), *form])
    files = tree(prefix)
    capsys.readouterr()
    dry = main(["install", "--prefix", str(prefix), "--dry-run", "--json", *form])
    answer = json.loads(capsys.readouterr().out)
    second = main(["install", "--prefix", str(prefix), *form])

    assert (0, 0, 0) == (first, dry, second)
    assert [] == answer["files"]
    assert files == tree(prefix)


def test_a_dry_run_shows_everything_and_writes_nothing(prefix, capsys):
    """As `diff -u`, with the exit status of diff."""
    status = main(["install", "--prefix", str(prefix), "--dry-run"])
    shown = capsys.readouterr().out

    assert 1 == status
    assert not prefix.exists()
    assert f"+++ {prefix}/etc/systemd/system/tuner.service" in shown
    assert "+Type=notify" in shown
    assert "would run: systemctl enable tuner.service" in shown


def test_a_change_is_shown_as_a_change(prefix, capsys):
    """What an upgrade alters in a unit is two lines, not the whole file."""
    main(["install", "--prefix", str(prefix)])
    unit = prefix / units.UNITS / "tuner.service"
    ours = unit.read_text()
    unit.write_text(ours.replace("WatchdogSec=30", "WatchdogSec=60"))
    capsys.readouterr()
    status = main(["install", "--prefix", str(prefix), "--dry-run"])
    shown = capsys.readouterr().out.splitlines()
    main(["install", "--prefix", str(prefix)])

    assert 1 == status
    assert ["-WatchdogSec=60"] == [line for line in shown if line.startswith("-") and "=" in line]
    assert ours == unit.read_text()


def test_the_other_form_goes(prefix):
    """Two forms at once would be two daemons."""
    main(["install", "--prefix", str(prefix)])
    main(["install", "--prefix", str(prefix), "--split"])
    names = {path.name for path in (prefix / units.UNITS).iterdir()}

    assert {*units.SPLIT, units.ENGINE, units.DOCTOR} == names


def test_a_configuration_is_never_overwritten(prefix):
    """It is the operator's; the units follow it."""
    config = prefix / units.CONFIG
    config.parent.mkdir(parents=True)
    text = 'runtime_dir = "/run/tuner"\n[gateway]\nlisten = "localhost:9000"\n'
    config.write_text(text)
    main(["install", "--prefix", str(prefix), "--split"])
    socket = (prefix / units.UNITS / "tuner-gateway.socket").read_text()

    assert text == config.read_text()
    assert ["127.0.0.1:9000"] == settings(socket, "ListenStream")


def test_a_new_configuration_is_valid_toml_with_the_model(prefix):
    """Whatever the name of the model is."""
    model = '/models/a "b" \\ c'
    main(["install", "--prefix", str(prefix), f"--model={model}"])
    values = tomllib.loads((prefix / units.CONFIG).read_text())

    assert model == values["engine"]["model"]
    assert ("/var/lib/tuner", "/run/tuner") == (values["state_dir"], values["runtime_dir"])


def test_a_unit_of_somebody_else_is_not_touched(prefix, capsys):
    """Neither overwritten nor removed; the sentence names the file."""
    unit = prefix / units.UNITS / "tuner.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    status = main(["install", "--prefix", str(prefix)])
    error = capsys.readouterr().err
    removal = main(["uninstall", "--prefix", str(prefix)])

    assert (1, 0) == (status, removal)
    assert str(unit) in error
    assert {"etc/systemd/system/tuner.service"} == set(tree(prefix))


def test_uninstall_keeps_what_was_learned(prefix):
    """Units go, data and configuration stay; a second run finds nothing to do."""
    main(["install", "--prefix", str(prefix)])
    store = prefix / "var/lib/tuner/tuner.sqlite3"
    store.parent.mkdir(parents=True)
    store.write_text("profiles")
    first = main(["uninstall", "--prefix", str(prefix)])
    second = main(["uninstall", "--prefix", str(prefix)])

    assert (0, 0) == (first, second)
    assert {units.CONFIG, "var/lib/tuner/tuner.sqlite3"} == set(tree(prefix))


def test_purge_removes_it_too(prefix):
    """Nothing of ours is left, and nothing else is missing."""
    other = prefix / "etc/systemd/system/other.service"
    other.parent.mkdir(parents=True)
    other.write_text("[Service]\n")
    main(["install", "--prefix", str(prefix)])
    (prefix / "var/lib/tuner").mkdir(parents=True)
    (prefix / "var/lib/tuner/tuner.sqlite3").write_text("profiles")
    status = main(["uninstall", "--prefix", str(prefix), "--purge"])

    assert 0 == status
    assert {"etc/systemd/system/other.service"} == set(tree(prefix))
    assert not (prefix / "var/lib/tuner").exists()


def test_a_dry_purge_removes_nothing(prefix, capsys):
    """It names what would go."""
    main(["install", "--prefix", str(prefix)])
    before = tree(prefix)
    status = main(["uninstall", "--prefix", str(prefix), "--purge", "--dry-run"])

    assert 1 == status
    assert before == tree(prefix)
    assert f"{prefix}/etc/tuner would be removed." in capsys.readouterr().out


def test_a_home_is_opened_as_far_as_needed():
    """An interpreter of pipx and a model below a home: those folders, read-only, and no more."""
    text = rendered(visible=("/home/ada/.local/share/pipx/venvs/tunerd", "/home/ada/model"))[
        "tuner.service"
    ]

    assert ["tmpfs"] == settings(text, "ProtectHome")
    assert ["/home/ada/.local/share/pipx/venvs/tunerd", "/home/ada/model"] == settings(
        text, "BindReadOnlyPaths"
    )


KEYS = "/etc/tuner/my 100% keys"


@pytest.mark.parametrize("split", [False, True], ids=["one", "split"])
def test_only_the_gateways_unit_loads_the_keys(split):
    """By systemd, under the name that the gateway looks for; no line when there is nothing."""
    loading = {
        name: settings(text, "LoadCredential")
        for name, text in rendered(split=split, keys_file=KEYS).items()
    }
    unit = "tuner-gateway.service" if split else "tuner.service"

    assert {unit: ["gateway-keys:/etc/tuner/my 100%% keys"]} == {
        name: found for name, found in loading.items() if found
    }
    assert not any("LoadCredential" in text for text in rendered(split=split).values())


def configured(prefix, keys_file):
    """A configuration with such a keys file, and what an installation for `user` makes of it."""
    config = prefix / units.CONFIG
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(f'[gateway]\nkeys_file = "{keys_file}"\n')

    def found(user):
        return host.found(
            root=prefix, config=None, user=user, model=None, split=False, real=False
        ).keys_file

    return found


def test_systemd_reads_the_keys_that_the_gateway_cannot(prefix, tmp_path, monkeypatch):
    """Another's file, or one in a hidden folder; never a missing one, which fails the unit."""
    path = tmp_path / "gateway-keys"
    found = configured(prefix, path)
    me = pwd.getpwuid(os.geteuid()).pw_name
    missing = found("tuner-nobody-has-this-name")
    path.write_text("")
    monkeypatch.setattr(host, "hidden", lambda _path: True)
    in_a_home = found(me)
    monkeypatch.setattr(host, "hidden", lambda _path: False)
    theirs, own = found("tuner-nobody-has-this-name"), found(me)

    assert (None, str(path), str(path), None) == (missing, theirs, in_a_home, own)
    assert configured(prefix, "gateway-keys")("tuner-nobody-has-this-name") is None


def test_without_a_home_in_use_homes_are_hidden():
    """The stricter form, wherever it is possible."""
    assert ["yes"] == settings(rendered()["tuner.service"], "ProtectHome")


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/opt/tuner/bin/python", "/opt/tuner/bin/python"),
        ("/opt/my tuner/python", '"/opt/my tuner/python"'),
        ("/opt/100%/python", "/opt/100%%/python"),
        ('/opt/a"b\\c', '"/opt/a\\"b\\\\c"'),
    ],
)
def test_a_path_is_one_word(path, word):
    """Blanks, quotes and specifiers of systemd in it change nothing."""
    assert word == units.quoted(path)


def test_the_units_name_this_environment(prefix):
    """From a virtual environment, without its being on anybody's PATH."""
    main(["install", "--prefix", str(prefix)])
    (command,) = settings((prefix / units.UNITS / "tuner.service").read_text(), "ExecStart")

    assert command.startswith(f"{units.quoted(sys.executable)} -P -m service.run --config ")


def test_the_environment_of_a_virtual_environment_is_seen(prefix, tmp_path):
    """Its interpreter may be in a home although the environment is not."""
    found = host.found(
        root=prefix, config=None, user="tuner", model=str(tmp_path), split=False, real=False
    )
    here = [
        path
        for path in (str(Path(sys.executable).resolve().parent.parent), str(tmp_path))
        if units.hidden(path)
    ]

    assert set(here) <= set(found.visible)


@pytest.mark.parametrize("link", ["venv", "model", "tuner.toml"])
def test_what_a_link_leads_to_is_seen(prefix, tmp_path, monkeypatch, link):
    """A `.venv` or a model that is a link into a home: the link alone would lead nowhere."""
    for name in ("venv", "model", "tuner.toml"):
        target = tmp_path / f"the {name}"
        target.touch() if name == "tuner.toml" else target.mkdir()
        (tmp_path / name).symlink_to(target)
    monkeypatch.setattr(host, "hidden", lambda _path: True)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    config, model = tmp_path / "tuner.toml", str(tmp_path / "model")
    found = host.found(
        root=prefix, config=config, user="tuner", model=model, split=False, real=False
    )

    assert {str(tmp_path / link), str(tmp_path / f"the {link}")} <= set(found.visible)


def test_what_the_engines_command_names_is_seen(prefix, tmp_path, monkeypatch):
    """A script of one's own below a home: the unit could start no engine without it."""
    script, template = tmp_path / "serve.py", tmp_path / "chat.jinja"
    for each in (script, template):
        each.touch()
    config = tmp_path / "tuner.toml"
    config.write_text(
        f'[engine]\nmodel = "m"\ncommand = ["python3", "{script}", "/not/there"]\n'
        f'args = ["--chat-template", "{template}"]\n',
        encoding="utf-8",
    )
    monkeypatch.setattr(host, "hidden", lambda _path: True)
    found = host.found(
        root=prefix, config=config, user="tuner", model=None, split=False, real=False
    )

    assert {str(script), str(template)} <= set(found.visible)
    assert "/not/there" not in found.visible


def test_a_state_directory_elsewhere_can_be_written(prefix):
    """ProtectSystem=strict would refuse it."""
    config = prefix / units.CONFIG
    config.parent.mkdir(parents=True)
    config.write_text('state_dir = "/srv/tuner"\nruntime_dir = "/run/tuner"\n')
    main(["install", "--prefix", str(prefix)])
    text = (prefix / units.UNITS / "tuner.service").read_text()

    assert ["/run/tuner", "/srv/tuner"] == settings(text, "ReadWritePaths")


def test_another_user_is_not_described(prefix):
    """Whoever made that user describes it."""
    main(["install", "--prefix", str(prefix), "--user", "vllm"])
    text = (prefix / units.UNITS / "tuner.service").read_text()

    assert ["vllm"] == settings(text, "User")
    assert not (prefix / units.SYSUSERS).exists()


def test_a_wrong_configuration_is_named(prefix, capsys):
    """Nothing is written from a file that cannot be read."""
    config = prefix / units.CONFIG
    config.parent.mkdir(parents=True)
    config.write_text("[engine\n")
    status = main(["install", "--prefix", str(prefix)])

    assert 78 == status
    assert str(config) in capsys.readouterr().err
    assert {units.CONFIG} == set(tree(prefix))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_who_may_not_write_is_told_so(prefix, capsys):
    """Exit 4, as for every other thing that is refused."""
    prefix.mkdir(mode=0o500)

    assert 4 == main(["install", "--prefix", str(prefix)])
    assert "sudo" in capsys.readouterr().err


def test_a_file_is_never_half_written(tmp_path):
    """It is replaced, and no other file is left behind."""
    change = plan.Change(path=tmp_path / "a" / "b", before=None, after="text\n")
    change.make()

    assert {"a/b": "text\n"} == tree(tmp_path)
    assert 0o644 == (tmp_path / "a" / "b").stat().st_mode & 0o777


def test_the_command_line_leads_there(prefix):
    """`tuner install` and `tuner uninstall` with their options, as processes."""
    tuner = [sys.executable, "-m", "tuner.cli"]
    where = ["--prefix", str(prefix), "--json"]
    done = [
        subprocess.run(
            [*tuner, *words, *where], cwd=ROOT, capture_output=True, text=True, check=False
        )
        for words in (
            ["install", "--dry-run"],
            ["install", "--split", "--model", "/m"],
            ["uninstall", "--purge"],
        )
    ]

    assert [1, 0, 0] == [each.returncode for each in done]
    assert [5, 11, 10] == [len(json.loads(each.stdout)["files"]) for each in done]
