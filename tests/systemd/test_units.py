"""The installed units under a real systemd, with the fake vLLM as their engine."""

import json

import pytest
from fake_engine import answer
from installed import CONFIG
from stage import until

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(600)]

ONE = "tuner.service"
OUTSIDER = "65534"
TOKENS = 60
WATCHDOG_S = 10  # instead of the unit's half minute: two beats still fit in
PROC_DEVICES = "/run/devices"  # inside


def test_the_service_becomes_active_and_answers(served):
    """Installed by `tuner install`, started by systemctl, asked at its address."""
    assert "active" == served.system.show(ONE, "ActiveState")
    assert answer("hello", 8) == served.client("complete", "hello", "8")
    until(lambda: "gate open" in served.system.show(ONE, "StatusText"), "the status of both")


def test_a_killed_service_comes_back_and_leaves_nothing(served):
    """SIGKILL of the main process: started again by systemd, and no process of before is there."""
    before = served.members(ONE)
    restarts = int(served.system.show(ONE, "NRestarts"))
    main = served.system.show(ONE, "MainPID")
    served.system.run("kill", "-KILL", main)
    served.replaced(ONE, main)
    served.serves(ONE)

    assert len(before) >= 4  # the supervisor, gateway, tunerd and an engine
    assert str(restarts + 1) == served.system.show(ONE, "NRestarts")
    assert {} == {pid: began for pid, began in before.items() if served.began(pid) == began}
    assert answer("again", 8) == served.client("complete", "again", "8")


def test_a_wrong_configuration_fails_once(served):
    """Status 78 and no second try; the journal has the sentence."""
    served.systemctl("stop", ONE)
    config = served.system.path(CONFIG)
    config.write_text('[engine]\nmodel = "fake/model"\nno_such_setting = 1\n', encoding="utf-8")
    started = served.system.run("systemctl", "start", ONE)
    shown = [served.system.show(ONE, name) for name in ("ActiveState", "ExecMainStatus")]

    assert 0 != started.returncode
    assert ["failed", "78"] == shown
    assert "0" == served.system.show(ONE, "NRestarts")
    assert "no_such_setting" in served.system.journal(ONE)


def test_who_may_open_which_socket(served):
    """Status is for everybody, control for the group."""
    run = "/run/tuner"
    names = (f"{run}/control.sock", f"{run}/status.sock")
    shown = served.system.run("stat", "-c", "%a %U %G", *names).stdout.splitlines()
    group = served.system.run("getent", "group", "tuner").stdout.split(":")[2]

    assert ["660 tuner tuner", "666 tuner tuner"] == shown
    assert "PermissionError" == served.client("ask", names[0], OUTSIDER, OUTSIDER)
    assert "HTTP/1.1 200 OK" == served.client("ask", names[0], OUTSIDER, group)
    assert "HTTP/1.1 200 OK" == served.client("ask", names[1], OUTSIDER, OUTSIDER)


def test_a_user_that_takes_all_its_connections_is_in_nobodys_way(served):
    """F84: users are told apart at the socket, which a sandbox with PrivateUsers=yes prevents.

    There all but root were one, and whoever took 64 connections shut the others out.
    """
    said = served.client("crowd", "/run/tuner/status.sock", "1001", "1002")

    assert ["HTTP/1.1 503 Service Unavailable", "HTTP/1.1 200 OK"] == json.loads(said)


def test_a_stop_waits_for_a_stream(served):
    """`systemctl stop` under a running answer: it comes whole, and the unit ends well."""
    served.script(json.dumps({"token_delay_s": 0.05}))
    with served.clients("stream", "long", str(TOKENS)) as client:
        assert "begun" == client.stdout.readline().strip()
        served.systemctl("stop", ONE)
        told = client.stdout.read().removesuffix("\n")

    assert answer("long", TOKENS) == told
    assert "inactive" == served.system.show(ONE, "ActiveState")
    assert "success" == served.system.show(ONE, "Result")


def test_a_second_install_disturbs_nothing(served):
    """Every file is as it should be, and the service goes on under the same pid; so an upgrade."""
    before = served.system.show(ONE, "MainPID")
    again = [served.tuner(verb) for verb in ("install", "upgrade")]

    assert all("Every file is as it should be." in done.stdout for done in again)
    assert 0 == again[1].returncode, again[1].stderr
    assert before == served.system.show(ONE, "MainPID")
    assert answer("still", 8) == served.client("complete", "still", "8")


def test_uninstall_keeps_the_data_and_purge_does_not(served):
    """The unit is stopped and gone; configuration and store stay until they are asked for."""
    kept = [CONFIG, "/var/lib/tuner/tuner.sqlite3"]
    first = served.tuner("uninstall")
    state = served.system.show(ONE, "LoadState")
    left = [name for name in kept if served.system.path(name).exists()]
    second = served.tuner("uninstall", "--purge")

    assert (0, 0) == (first.returncode, second.returncode)
    assert "not-found" == state
    assert kept == left
    assert [] == [name for name in kept if served.system.path(name).exists()]
    assert 2 == served.system.run("getent", "passwd", "tuner").returncode


@pytest.fixture
def driver(system):
    """Devices as with an NVIDIA driver: its name in /proc/devices, a node of it, and another."""
    run = system.run
    text = system.path("/proc/devices").read_text()
    fresh = text.replace("Character devices:\n", "Character devices:\n195 nvidia\n", 1)
    system.path(PROC_DEVICES).write_text(fresh, encoding="utf-8")
    nodes = {"/dev/nvidia0": "195", "/dev/nvidia-other": "196"}
    done = [run("mount", "--bind", PROC_DEVICES, "/proc/devices")]
    done += [run("mknod", "-m", "666", path, "c", major, "0") for path, major in nodes.items()]
    assert [0, 0, 0] == [each.returncode for each in done], done
    yield list(nodes)
    run("umount", "/proc/devices")
    run("rm", "-f", *nodes)


def test_the_unit_reaches_its_devices_only(served, driver):
    """No such device is behind the allowed node (ENXIO); the other may not be opened (EPERM)."""
    served.systemctl("stop", ONE)
    found = served.within(ONE, "opens", *driver)

    assert dict(zip(driver, ("ENXIO", "EPERM"), strict=True)) == found


def test_a_wedged_service_is_restarted(served):
    """SIGSTOP of the main process: the watchdog of systemd ends and starts it again."""
    served.drop_in(ONE, f"[Service]\nWatchdogSec={WATCHDOG_S}\n")
    served.systemctl("restart", ONE)
    served.serves(ONE)
    before = served.members(ONE)
    main = served.system.show(ONE, "MainPID")
    served.system.run("kill", "-STOP", main)
    served.replaced(ONE, main)
    served.serves(ONE)

    assert "1" == served.system.show(ONE, "NRestarts")
    assert "Watchdog timeout" in served.system.journal(ONE)
    assert {} == {pid: began for pid, began in before.items() if served.began(pid) == began}
