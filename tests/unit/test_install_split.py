"""The three units of `tuner install --split`: who may do what, and where it is refused."""

import re
import sys

import pytest
from install_stage import rendered, settings, wanted

from profiles.errors import UnavailableError
from service import engine_order
from service.install import host, units
from service.install.__main__ import main

ENGINE, TUNERD, GATEWAY = "tuner-engine@.service", "tunerd.service", "tuner-gateway.service"
POLKIT = "50-tuner.rules"


def test_the_engine_has_a_user_of_its_own():
    """The others are in its group, it is in none of theirs."""
    files = rendered(split=True)

    assert ["tuner-engine"] == settings(files[ENGINE], "User")
    assert [] == settings(files[ENGINE], "SupplementaryGroups")
    for name in (TUNERD, GATEWAY):
        assert ["tuner"] == settings(files[name], "User")
        assert ["tuner-engine"] == settings(files[name], "SupplementaryGroups")


def test_both_users_are_made_and_their_folders_fit():
    """The modes are the boundary: orders for the engine to read, its folders for its group."""
    files = units.files(wanted(split=True), units.templates())
    users = re.findall(r"^u (\S+)", files[units.SYSUSERS], re.MULTILINE)
    folders = re.findall(r"^d (.+) -$", files[units.TMPFILES], re.MULTILINE)

    assert ["tuner", "tuner-engine"] == users
    assert [
        "/run/tuner 0755 tuner tuner",
        "/run/tuner/orders 2750 tuner tuner-engine",
        "/run/tuner-engine 2770 tuner-engine tuner-engine",
        "/var/log/tuner-engine 2770 tuner-engine tuner-engine",
    ] == folders


def test_only_the_engine_computes():
    """Of the devices tunerd gets those of NVML, the gateway none."""
    files = rendered(split=True)
    compute = {"char-nvidia-uvm rw", "char-nvidia-caps rw"}
    devices = {
        name: set(settings(files[name], "DeviceAllow")) for name in (ENGINE, TUNERD, GATEWAY)
    }

    assert compute == devices[ENGINE] - devices[TUNERD]
    assert {"char-nvidia rw", "char-nvidia-frontend rw", "char-nvidiactl rw"} == devices[TUNERD]
    assert set() == devices[GATEWAY]
    assert ["yes"] == settings(files[GATEWAY], "PrivateDevices")


def test_only_the_engine_may_run_what_it_has_written():
    """Its compilers need it; nobody else does."""
    files = rendered(split=True)

    assert ["no", "yes", "yes"] == [
        settings(files[name], "MemoryDenyWriteExecute")[-1] for name in (ENGINE, TUNERD, GATEWAY)
    ]


def test_an_engine_sees_no_state_and_writes_none():
    """Wherever the configuration has it; tunerd writes there."""
    files = rendered(split=True, writable=("/srv/my state",))
    hidden = ['-/var/lib/tuner "-/srv/my state"']

    assert hidden == settings(files[ENGINE], "InaccessiblePaths")
    assert hidden == settings(files[units.DOCTOR], "InaccessiblePaths")
    assert ["/run/tuner-engine /var/log/tuner-engine"] == settings(files[ENGINE], "ReadWritePaths")
    assert '"/srv/my state"' in settings(files[TUNERD], "ReadWritePaths")


def test_the_rule_names_the_user_the_units_and_the_verbs():
    """With another user it is about that one; the units are those that tunerd starts."""
    rule = rendered(split=True, user="vllm")[POLKIT]
    (pattern,) = re.findall(r"/(\^tuner.*\$)/", rule)
    (verbs,) = re.findall(r"verbs = \[(.*)\]", rule)

    assert 'subject.user == "vllm"' in rule
    assert all(re.match(pattern, unit) for unit in engine_order.UNITS)
    assert units.ENGINES == engine_order.UNITS
    assert not re.match(pattern, "tuner-engine@c.service")
    assert '"start", "stop", "restart", "kill", "reset-failed"' == verbs


def test_the_engines_user_is_made_for_another_user_too(tmp_path):
    """Who else runs the rest is described by whoever made that user; the engine's is ours."""
    main(["install", "--prefix", str(tmp_path), "--user", "vllm", "--split"])
    text = (tmp_path / units.SYSUSERS).read_text()
    engine = (tmp_path / units.UNITS / ENGINE).read_text()

    assert ["tuner-engine"] == re.findall(r"^u (\S+)", text, re.MULTILINE)
    assert ["tuner-engine"] == settings(engine, "User")


def test_the_one_unit_has_neither_rule_nor_second_user(tmp_path):
    """What the other form needs goes with it."""
    main(["install", "--prefix", str(tmp_path), "--split"])
    main(["install", "--prefix", str(tmp_path)])

    assert not (tmp_path / units.POLKIT).exists()
    assert "tuner-engine" not in (tmp_path / units.SYSUSERS).read_text()
    assert "tuner-engine" not in (tmp_path / units.TMPFILES).read_text()


@pytest.mark.parametrize(
    ("files", "folders", "refused"),
    [
        ((), (), True),
        (("usr/lib/polkit-1/polkitd",), (), True),
        ((), ("etc/polkit-1/rules.d",), True),
        # Ubuntu 22.04: it reads no rules
        (("usr/lib/policykit-1/polkitd",), ("etc/polkit-1/rules.d",), True),
        (("usr/lib/polkit-1/polkitd",), ("etc/polkit-1/rules.d",), False),
    ],
    ids=["nothing", "no-rules", "no-polkitd", "before-rules", "debian"],
)
def test_without_polkit_the_split_form_is_refused(tmp_path, files, folders, refused):
    """The sentence names the package and the form that needs none."""
    for name in folders:
        (tmp_path / name).mkdir(parents=True)
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    if refused:
        with pytest.raises(UnavailableError, match=r"polkitd.*") as caught:
            host.need_polkit(tmp_path)
        assert "--split" in caught.value.hint
        assert "polkitd" in caught.value.hint
    else:
        host.need_polkit(tmp_path)


def test_sockets_elsewhere_are_refused(tmp_path, capsys):
    """The folders of orders and sockets have modes for two users; the setting is named."""
    config = tmp_path / units.CONFIG
    config.parent.mkdir(parents=True)
    config.write_text('state_dir = "/var/lib/tuner"\nruntime_dir = "/srv/run"\n')
    status = main(["install", "--prefix", str(tmp_path), "--split"])

    assert 78 == status
    assert "runtime_dir" in capsys.readouterr().err
    assert not (tmp_path / units.UNITS).exists()


def test_the_doctor_is_asked_as_the_engines_user(tmp_path):
    """In the sandbox of the engine, for what an engine needs."""
    files = rendered(split=True, python=sys.executable)
    (command,) = settings(files[units.DOCTOR], "ExecStart")
    same = ("User", "Group", "PrivateNetwork", "DeviceAllow", "MemoryDenyWriteExecute", "UMask")

    assert command.endswith(" doctor --engine")
    for name in same:
        assert settings(files[ENGINE], name) == settings(files[units.DOCTOR], name), name
