"""The three units under a real systemd: an engine has its own, and its own user."""

import json
import sys
import time

import pytest
from booted import ROOT
from fake_engine import answer
from installed import CONFIG, ENGINES, HERE, PROBE
from stage import until

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(600)]

GATEWAY, TUNERD = "tuner-gateway.service", "tunerd.service"
PYTHON = sys.executable
SLOW = json.dumps({"token_delay_s": 0.05})
ORDERS = "/run/tuner/orders"
REFUSED = "authentication required"
NEXT = f"{HERE}/next"  # another version's code


def test_an_engine_runs_as_its_own_user_and_answers(split):
    """Its unit is tuner-engine@a or @b, its user tuner-engine, and its socket is the group's."""
    unit, _, main = split.engine()
    control = split.system.run("stat", "-c", "%a %U %G", "/run/tuner/control.sock").stdout.strip()
    owner = split.system.run("stat", "-c", "%U", f"/proc/{main}").stdout.strip()
    socket = f"/run/tuner-engine/engine-{slots(split)[0]['token']}.sock"
    shown = split.system.run("stat", "-c", "%A %U %G", socket).stdout.strip()

    assert unit in ENGINES
    assert ("tuner-engine", "660 tuner tuner") == (owner, control)
    assert "srwxrwx--- tuner-engine tuner-engine" == shown
    assert answer("hello", 8) == split.client("complete", "hello", "8")


def test_in_three_units_too_a_user_that_takes_all_its_connections_is_in_nobodys_way(split):
    """F84: as in the one unit; tunerd is another one here."""
    said = split.client("crowd", "/run/tuner/status.sock", "1001", "1002")

    assert ["HTTP/1.1 503 Service Unavailable", "HTTP/1.1 200 OK"] == json.loads(said)


def test_a_killed_tunerd_loses_no_request_and_finds_its_engine(split):
    """SIGKILL of tunerd under load: every answer is right, and the engine is the same process."""
    before = split.engine()
    main = split.system.show(TUNERD, "MainPID")
    with split.load(2, 8) as outcomes:
        split.system.run("kill", "-KILL", main)
        status = split.client("ask", "/run/tuner/status.sock", "0", "0")  # waits for the next one
        split.replaced(TUNERD, main)
        until(lambda: "adopted the running" in split.tuner("history").stdout, "its adoption")

    assert "HTTP/1.1 200 OK" == status
    assert {"whole"} == set(outcomes)
    assert before == split.engine()
    assert answer("again", 8) == split.client("complete", "again", "8")


def test_a_killed_gateway_refuses_nobody(split):
    """The address is systemd's: SIGKILL thrice under a loop, no refusal, the same engine."""
    before = split.engine()
    restarts = int(split.system.show(GATEWAY, "NRestarts"))
    with split.clients("knock") as client:
        for _ in range(3):
            time.sleep(1)
            main = split.system.show(GATEWAY, "MainPID")
            split.system.run("kill", "-KILL", main)
            split.replaced(GATEWAY, main)
        found = json.loads(client.communicate(timeout=180)[0])
    split.serves(GATEWAY)

    assert 0 == found["refused"]
    assert found["tried"] > 50
    assert restarts + 3 == int(split.system.show(GATEWAY, "NRestarts"))
    assert before == split.engine()
    assert answer("again", 8) == split.client("complete", "again", "8")


def test_nothing_is_left_of_a_killed_engine(split):
    """SIGKILL of its main process under load: its child goes with the cgroup, a new one serves."""
    split.script(json.dumps({"child": True}))
    unit, run, main = split.engine()
    split.system.run("kill", "-KILL", main)
    until(lambda: split.engine()[1] not in {"", run}, "an engine with a child")
    split.serves(GATEWAY)
    unit, run, main = split.engine()
    before = until(lambda: len(split.members(unit)) > 1 and split.members(unit), "its child")
    split.script()
    with split.load(2, 8) as outcomes:
        split.system.run("kill", "-KILL", main)
        until(lambda: split.engine()[1] not in {"", run}, "another engine")
        split.serves(GATEWAY)

    assert {} == {pid: began for pid, began in before.items() if split.began(pid) == began}
    # what was being answered breaks in sight, what came later was held
    assert set(outcomes) <= {"whole", "said", "broken"}
    assert outcomes["whole"] > 1
    assert answer("on", 8) == split.client("complete", "on", "8")


def other_version(split):
    """The same code in another folder, as an installation into another environment would be."""
    sources = [str(ROOT / name) for name in ("profiles", "tuner", "service")]
    split.system.run("mkdir", "-p", NEXT)
    assert 0 == split.system.run("cp", "-r", *sources, NEXT).returncode
    return NEXT


def upgrade(split, code, *words):
    """`tuner upgrade` of the code in a folder."""
    command = ("env", f"PYTHONPATH={code}", PYTHON, "-P", "-m", "tuner.cli", "upgrade", *words)
    return split.system.run(*command, timeout_s=240)


def code_of(split, unit):
    """Where the main process of a unit finds its code."""
    environ = split.system.path(f"/proc/{split.system.show(unit, 'MainPID')}/environ").read_bytes()
    return dict(each.decode().split("=", 1) for each in environ.split(b"\0") if each)["PYTHONPATH"]


def test_a_stream_runs_through_an_upgrade(split):
    """To other code and back: the answer comes whole, the engine stays, a second run is no work."""
    code = other_version(split)
    engine, gateway = split.engine(), split.system.show(GATEWAY, "MainPID")
    dry = upgrade(split, code, "--dry-run")
    old = code_of(split, TUNERD)
    split.script(SLOW)
    with split.clients("stream", "long", "200") as client:
        assert "begun" == client.stdout.readline().strip()
        first = upgrade(split, code)
        new = code_of(split, TUNERD)
        main = split.system.show(TUNERD, "MainPID")
        second = upgrade(split, code)
        told = client.stdout.read().removesuffix("\n")
    split.script()
    after = split.system.show(TUNERD, "MainPID")
    back = upgrade(split, str(ROOT))  # the other code lacks what the next test's engine imports
    split.serves(TUNERD)

    assert (1, 0, 0) == (dry.returncode, first.returncode, second.returncode), first.stderr
    assert (0, str(ROOT)) == (back.returncode, code_of(split, TUNERD)), back.stderr
    assert (str(ROOT), code) == (old, new)
    assert answer("long", 200) == told
    assert "systemctl restart tuner-gateway" in first.stdout
    assert "Every file is as it should be." in second.stdout
    assert (engine, gateway) == (split.engine(), split.system.show(GATEWAY, "MainPID"))
    assert main == after
    assert answer("new", 8) == split.client("complete", "new", "8")


def test_an_upgraded_gateway_finishes_what_it_answers(split):
    """`--gateway` restarts it: the stream comes whole, and nobody is refused meanwhile."""
    code = other_version(split)
    upgrade(split, code)
    engine, before = split.engine(), split.system.show(GATEWAY, "MainPID")
    split.script(SLOW)
    with split.clients("stream", "long", "100") as client:
        assert "begun" == client.stdout.readline().strip()
        done = upgrade(split, str(ROOT), "--gateway")
        told = client.stdout.read().removesuffix("\n")
    split.script()
    split.serves(GATEWAY)

    assert 0 == done.returncode, done.stderr
    assert answer("long", 100) == told
    assert before != split.system.show(GATEWAY, "MainPID")
    assert str(ROOT) == code_of(split, GATEWAY)
    assert engine == split.engine()


def test_tunerd_may_do_to_engines_what_it_needs_and_nothing_else(split):
    """polkit: its user starts and kills an engine's unit; not another unit, and nobody neither."""
    (idle,) = set(ENGINES) - {split.engine()[0]}

    def asks(user, *words):
        become = ("setpriv", f"--reuid={user}", "--regid=tuner-engine", "--clear-groups")
        done = split.system.run(*become, "systemctl", "--no-ask-password", *words)
        return "refused" if REFUSED in done.stderr else done.returncode

    may = [asks("tuner", verb, idle) for verb in ("start", "stop", "restart", "reset-failed")]
    may_not = [
        asks("tuner", "start", "systemd-tmpfiles-clean.service"),
        asks("tuner", "restart", GATEWAY),
        asks("tuner", "start", "tuner-engine@c.service"),
        asks("tuner", "set-property", "--runtime", idle, "MemoryMax=1G"),
        asks("tuner", "daemon-reload"),
        asks("nobody", "start", idle),
        asks("tuner-engine", "stop", split.engine()[0]),
    ]
    # the last start has still to find that there is no order, and must not be the next test's
    until(lambda: split.system.show(idle, "ActiveState") in {"failed", "inactive"}, "it has ended")
    split.system.run("systemctl", "reset-failed", idle)

    assert [0, 0, 0, 0] == may
    assert ["refused"] * 7 == may_not


def slots(split):
    """The order of the running engine, and the other unit with the place of its order."""
    unit, *_ = split.engine()
    (idle,) = set(ENGINES) - {unit}
    names = (each.partition("@")[2][0] for each in (unit, idle))
    running, free = (split.system.path(f"{ORDERS}/{name}.json") for name in names)
    return json.loads(running.read_text()), idle, free


def refused(split, idle, path, order):
    """Give an order to the unit that is free; the exit status of the launcher and what it says."""
    path.write_text(json.dumps(order), encoding="utf-8")
    split.system.run("chgrp", "tuner-engine", f"{ORDERS}/{path.name}")
    split.systemctl("start", idle)
    until(lambda: split.system.show(idle, "ActiveState") == "failed", f"{order} is refused")
    path.unlink()
    found = split.system.show(idle, "ExecMainStatus"), split.system.journal(idle)
    split.system.run("systemctl", "reset-failed", idle)
    return found


def test_an_order_is_knobs_and_nothing_else(split):
    """Another field, a bad knob, another configuration's digest, an old order: exit 78, said so."""
    engine = split.engine()
    good, idle, path = slots(split)
    orders = {
        "'command'": {**good, "command": ["/bin/sh"]},
        "max_num_seqs": {**good, "knobs": {**good["knobs"], "max_num_seqs": "1; reboot"}},
        "is not the one that tunerd has read": {**good, "token": "0" * 16, "launch": "0" * 12},
        "was obeyed before": good,
    }
    found = {wrong: refused(split, idle, path, order) for wrong, order in orders.items()}

    assert dict.fromkeys(orders, "78") == {wrong: status for wrong, (status, _) in found.items()}
    assert [] == [wrong for wrong, (_, text) in found.items() if wrong not in text]
    assert engine == split.engine()


def test_a_configuration_of_another_user_is_not_obeyed(split):
    """It says what is executed: neither the launcher nor the installer takes it but from root."""
    good, idle, path = slots(split)
    split.system.run("chown", "tuner", CONFIG)
    status, text = refused(split, idle, path, {**good, "token": "1" * 16})
    installed = split.tuner("install", "--split")
    split.system.run("chown", "root", CONFIG)

    assert ("78", 78) == (status, installed.returncode)
    assert "chown root" in text
    assert "chown root" in installed.stderr


@pytest.fixture
def driver(split):
    """Devices as with an NVIDIA driver: names in /proc/devices, their nodes, and another node."""
    run = split.system.run
    text = split.system.path("/proc/devices").read_text()
    free = next(n for n in range(234, 254) if f"\n{n:3d} " not in text)
    names = f"Character devices:\n195 nvidia\n{free} nvidia-uvm\n"
    split.system.path("/run/devices").write_text(
        text.replace("Character devices:\n", names, 1), encoding="utf-8"
    )
    nodes = {"/dev/nvidia0": 195, "/dev/nvidia-uvm": free, "/dev/other": 196}
    done = [run("mount", "--bind", "/run/devices", "/proc/devices")]
    done += [run("mknod", "-m", "666", name, "c", str(n), "0") for name, n in nodes.items()]
    assert [0] * 4 == [each.returncode for each in done], done
    yield tuple(nodes)
    run("umount", "/proc/devices")
    run("rm", "-f", *nodes)


def confined(split, unit, *paths):
    """What a process finds in the sandbox of a unit, under another name so that it goes on."""
    name = f"probe-{unit.replace('@.', '@a.')}"
    text = split.system.path(f"/etc/systemd/system/{unit}").read_text(encoding="utf-8")
    kept = [
        line
        for line in text.splitlines()
        if not line.startswith(("ExecStart=", "Type=", "Restart", "Watchdog", "Requires="))
    ]
    probe = f"ExecStart={PYTHON} {PROBE} sandbox {' '.join(paths)}"
    body = "\n".join(kept).replace("[Service]", f"[Service]\nType=oneshot\n{probe}", 1)
    file = split.system.path(f"/run/systemd/system/{name}")
    file.write_text(body, encoding="utf-8")
    split.systemctl("daemon-reload")
    split.system.run("systemctl", "start", name)
    lines = split.system.journal(name).splitlines()
    file.unlink()
    assert [line for line in lines if line.startswith("{")], lines
    return next(json.loads(line) for line in lines if line.startswith("{"))


def test_each_unit_reaches_its_own_only(split, driver):
    """ENXIO: let through to a device that is not there. Store, orders and network likewise."""
    card, compute, other = driver
    paths = (*driver, "/var/lib/tuner", "/var/log/tuner-engine", "/run/tuner-engine")
    seen = {
        name: confined(split, name, *paths) for name in (GATEWAY, TUNERD, "tuner-engine@.service")
    }
    gateway, tunerd, engine = seen.values()

    assert ["ENOENT"] * 3 == [gateway[node] for node in driver]
    assert ["ENXIO", "EPERM", "EPERM"] == [tunerd[node] for node in (card, compute, other)]
    assert ["ENXIO", "ENXIO", "EPERM"] == [engine[node] for node in (card, compute, other)]
    assert ["yes", "yes", "EACCES"] == [each["/var/lib/tuner"] for each in seen.values()]
    assert ["yes"] * 3 == [each["/run/tuner-engine"] for each in seen.values()]
    assert ["EPERM", "EPERM", "yes"] == [each["write and execute"] for each in seen.values()]
    assert [["lo"]] * 2 == [each["links"] for each in (gateway, engine)]


def test_everything_stops_in_good_order(split):
    """`systemctl stop tuner.slice` under a stream: it comes whole, and no unit has failed."""
    split.script(SLOW)
    engine = split.engine()[0]
    with split.clients("stream", "long", "100") as client:
        assert "begun" == client.stdout.readline().strip()
        split.systemctl("stop", "tuner.slice")
        told = client.stdout.read().removesuffix("\n")
    split.script()
    units = (TUNERD, GATEWAY, engine)

    assert answer("long", 100) == told
    assert ["inactive"] * 3 == [split.system.show(unit, "ActiveState") for unit in units]
    assert ["success"] * 3 == [split.system.show(unit, "Result") for unit in units]


def test_purge_leaves_nothing(split):
    """No unit, rule, user, folder or process of either user is there afterwards."""
    pids = {}
    for unit in (GATEWAY, TUNERD, split.engine()[0]):
        pids |= split.members(unit)
    done = split.tuner("uninstall", "--purge")
    run = split.system.run
    left = run(
        "sh",
        "-c",
        "ls -d /etc/systemd/system/tuner* /etc/polkit-1/rules.d/*tuner* /etc/*.d/tuner* "
        "/run/tuner* /var/*/tuner* /etc/tuner 2>/dev/null; getent passwd tuner tuner-engine; "
        "systemctl list-units --all --plain --no-legend 'tuner*' --state=active",
    )

    assert 0 == done.returncode, done.stderr
    assert "" == left.stdout
    assert len(pids) >= 3
    assert {} == {pid: began for pid, began in pids.items() if split.began(pid) == began}
