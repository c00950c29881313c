"""What the sandbox and the lifecycle of the units allow, enforced by a real systemd."""

import contextlib
import json
import subprocess
import sys

import pytest
from booted import ROOT
from fake_engine import answer
from installed import CONFIG, HERE, PROBE, SETTINGS
from stage import until

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(600)]

ONE = "tuner.service"
GATEWAY = "tuner-gateway.service"
SOCKET = "tuner-gateway.socket"
OUTSIDER = "65534"
ELSEWHERE = "192.0.2.1"  # TEST-NET-1 of RFC 5737; here an address of the booted system itself
WATCHDOG_S = 10
START_S, SLOW_S = 3, 6  # what the unit allows, and what the start takes
LOCK = "/var/lib/tuner/tunerd.lock"
NOTES = "/home/somebody/notes"
# blocks the store's thread of the tunerd whose pid is in a file
WEDGE = f"""
import gc, os, sys, threading, time

def wedge():
    told = "{HERE}/wedge/pid"
    while not (os.path.exists(told) and open(told).read() == str(os.getpid())):
        time.sleep(0.1)
    from service.archive import Archive
    (archive,) = [each for each in gc.get_objects() if isinstance(each, Archive)]
    archive._thread.submit(threading.Event().wait)

if "service" in sys.orig_argv:
    threading.Thread(target=wedge, daemon=True).start()
"""


def written(system, name, text, mode=0o644):
    """A file inside."""
    path = system.path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def reached(system, *addresses):
    """What the probe answers outside of every sandbox."""
    done = system.run(sys.executable, PROBE, "reaches", *addresses)
    return json.loads(done.stdout)


@pytest.fixture
def network(system):
    """An address that is not loopback, with somebody who listens on port 80 of it and of ours."""
    assert 0 == system.run("ip", "address", "add", f"{ELSEWHERE}/32", "dev", "lo").returncode
    command = system.inside(sys.executable, "-m", "http.server", "80")
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        both = f"{ELSEWHERE}:80", "127.0.0.1:80"
        until(lambda: reached(system, *both) == dict.fromkeys(both, "yes"), "a listener")
        yield both
        server.kill()
    system.run("ip", "address", "del", f"{ELSEWHERE}/32", "dev", "lo")


def test_the_unit_reaches_loopback_only(served, network):
    """What others can connect to from this system, the unit cannot."""
    served.systemctl("stop", ONE)

    assert dict(zip(network, ("timeout", "yes"), strict=True)) == served.within(
        ONE, "reaches", *network
    )


def test_clients_of_another_network_are_let_in_at_the_socket(installed, polkit, network):
    """The filter of the address is that of the unit that bound it, whatever the service says."""
    installed.configure(gateway={"listen": "0.0.0.0:8000", "keys_file": "/etc/tuner/keys"})
    assert 0 == installed.tuner("--config", CONFIG, "keys", "add", "app").returncode
    installed.install("--split")
    installed.systemctl("start", SOCKET)
    both = f"{ELSEWHERE}:8000", "127.0.0.1:8000"
    refused = reached(installed.system, *both)
    allow = f"IPAddressAllow={ELSEWHERE}/24\n"
    installed.drop_in(GATEWAY, f"[Service]\n{allow}")
    still = reached(installed.system, *both)
    installed.drop_in(SOCKET, f"[Socket]\n{allow}")
    let_in = reached(installed.system, *both)

    assert {both[0]: "timeout", both[1]: "yes"} == refused
    assert refused == still
    assert dict.fromkeys(both, "yes") == let_in


def test_homes_and_the_system_are_out_of_reach(served):
    """A file that everybody may write to is not there, or is read-only, within the unit."""
    system = served.system
    written(system, NOTES, "mine", 0o666)
    written(system, "/etc/everybody", "ours", 0o666)
    served.systemctl("stop", ONE)

    assert {NOTES: "ENOENT", "/etc/everybody": "EROFS", "/dev/kmsg": "ENOENT"} == served.within(
        ONE, "opens", NOTES, "/etc/everybody", "/dev/kmsg"
    )


def test_only_the_gateway_may_not_make_code(installed, polkit):
    """Just-in-time compilers work below tunerd; the gateway with its compiled wheels needs none."""
    installed.install()
    engine = installed.within(ONE, "memory")
    installed.restore()
    installed.install("--split")
    gateway = installed.within(GATEWAY, "memory")
    installed.restore()
    installed.systemctl("start", GATEWAY, "tunerd.service")
    installed.serves(GATEWAY)
    main = installed.system.show(GATEWAY, "MainPID")
    maps = installed.system.path(f"/proc/{main}/maps").read_text()

    assert ["yes", "EPERM"] == [*engine.values(), *gateway.values()]
    assert answer("compiled", 8) == installed.client("complete", "compiled", "8")
    assert [True, True] == [f"/{name}." in maps for name in ("loop", "_http_parser")]


def test_no_socket_but_that_of_the_status_is_for_everybody(served):
    """The admin socket of the gateway and those of engines are for their user alone."""
    status = served.serves(ONE)
    engine = f"engine-{status['engine']['token']}.sock"
    said = {
        name: served.client("ask", f"/run/tuner/{name}", OUTSIDER, OUTSIDER)
        for name in ("status.sock", "control.sock", "gateway.sock", engine)
    }

    assert "HTTP/1.1 200 OK" == said.pop("status.sock")
    assert {"PermissionError"} == set(said.values())


def test_a_slow_start_asks_for_time(served):
    """A vLLM that takes longer to answer than the unit may take to start fails nothing."""
    slow = f"{HERE}/bin/python-slow"
    written(served.system, slow, f'#!/bin/sh\nsleep {SLOW_S}\nexec {sys.executable} "$@"\n', 0o755)
    served.configure(engine={"command": [slow, SETTINGS["engine"]["command"][1]]})
    served.drop_in(ONE, f"[Service]\nTimeoutStartSec={START_S}\n")
    served.systemctl("restart", ONE)
    stamps = ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    began, active = (int(served.system.show(ONE, name)) for name in stamps)

    assert f"{START_S}s" == served.system.show(ONE, "TimeoutStartUSec")
    assert (active - began) / 1e6 > SLOW_S
    assert "0" == served.system.show(ONE, "NRestarts")


def test_a_wedged_thread_costs_no_engine(served):
    """The store's thread stands still: tunerd is ended with its stacks, and the engine adopted."""
    written(served.system, f"{HERE}/wedge/sitecustomize.py", WEDGE)
    served.drop_in(
        ONE,
        f"[Service]\nWatchdogSec={WATCHDOG_S}\nEnvironment=PYTHONPATH={HERE}/wedge:{ROOT}\n",
    )
    served.systemctl("restart", ONE)
    before = served.serves(ONE)
    written(served.system, f"{HERE}/wedge/pid", str(before["pid"]))
    until(lambda: not served.began(before["pid"]), "its end")
    until(served.status, "another tunerd")
    after = served.serves(ONE)
    said = served.system.journal(ONE)

    assert before["engine"]["pid"] == after["engine"]["pid"]
    assert "0" == served.system.show(ONE, "NRestarts")
    for sentence in ("a worker thread is silent", "tunerd is wedged", "(most recent call first)"):
        assert sentence in said
    assert answer("after", 8) == served.client("complete", "after", "8")


def failed_once(service):
    """Start what cannot: its exit status; systemd does not try again."""
    started = service.system.run("systemctl", "start", ONE)
    assert started.returncode != 0
    assert "failed" == service.system.show(ONE, "ActiveState")
    assert "0" == service.system.show(ONE, "NRestarts")
    return int(service.system.show(ONE, "ExecMainStatus"))


def test_a_second_daemon_fails_once(served):
    """Status 75 while another process of the user holds the state directory."""
    served.systemctl("stop", ONE)
    holder = ["setpriv", "--reuid=tuner", "--regid=tuner", "--clear-groups"]
    holder = served.system.inside(*holder, "flock", LOCK, "sh", "-c", "echo held; read _")
    pipe = subprocess.PIPE
    with subprocess.Popen(holder, stdin=pipe, stdout=pipe, text=True) as process:
        assert "held" == process.stdout.readline().strip()
        status = failed_once(served)
        process.communicate("\n")

    assert 75 == status
    assert "Another daemon" in served.system.journal(ONE)


def test_a_gateway_without_its_keys_fails_once(served):
    """Status 78 of the gateway is that of the unit, and its engine is stopped with it."""
    served.systemctl("stop", ONE)
    served.configure(gateway={"keys_file": "/etc/tuner/no-keys"})

    assert 78 == failed_once(served)
    assert "/etc/tuner/no-keys" in served.system.journal(ONE)
    assert "" == served.system.run("pgrep", "-u", "tuner").stdout


def test_an_upgrade_keeps_what_is_the_operators(served):
    """An older unit is rewritten without a restart; a drop-in and the history stay."""
    unit = served.system.path(f"/etc/systemd/system/{ONE}")
    fresh = unit.read_text()
    events = served.ask("GET", "/v1/history")["events"]
    folder = f"/etc/systemd/system/{ONE}.d"
    with contextlib.ExitStack() as stack:
        stack.callback(served.systemctl, "daemon-reload")
        stack.callback(served.system.run, "rm", "-r", folder)  # first
        written(served.system, f"{folder}/override.conf", "[Service]\nNice=3\n")
        unit.write_text(fresh.replace("WatchdogSec=30", "WatchdogSec=40"), encoding="utf-8")
        served.systemctl("daemon-reload")
        served.systemctl("restart", ONE)
        main = served.system.show(ONE, "MainPID")
        upgraded = served.tuner("install")
        kept = served.system.show(ONE, "MainPID")
        served.systemctl("restart", ONE)
        served.serves(ONE)
        after = served.ask("GET", "/v1/history?limit=9999")["events"]
        nice = served.system.show(ONE, "Nice")

    assert f"change {unit.relative_to(served.system.path('/'))}" in upgraded.stdout.replace(
        " /", " "
    )
    assert fresh == unit.read_text()
    assert main == kept
    assert "3" == nice
    assert all(event in after for event in events)
