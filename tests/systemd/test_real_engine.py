"""The one unit with the real vLLM (CPU build) below it, in one booted system.

An engine start takes half a minute, so all tests share one installation; what they leave stopped or
broken, the next one starts.
"""

import shutil
from importlib.util import find_spec

import pytest
from installed import REAL, Installed
from stage import until

pytestmark = [
    pytest.mark.systemd,
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed"),
]

ONE = "tuner.service"
CLIENTS, TOKENS = 4, 200
CANARY = "def xylophone_quartz_7731(argument):\n    return"  # in no file of a correct service


@pytest.fixture(scope="module")
def service(system):
    """The installation that all tests share."""
    return Installed(system, REAL)


@pytest.fixture
def real(service):
    """The same, serving."""
    service.ready()
    yield service
    service.restore()


def shared_memory(system):
    """The names in /dev/shm."""
    return system.run("ls", "/dev/shm").stdout.split()


def killed(service, pid):
    """Kill a process of the service as the kernel does."""
    assert 0 == service.system.run("kill", "-KILL", str(pid)).returncode


def test_it_serves_what_the_engine_says(real):
    """Through the gateway comes what the engine says past it, and nothing is kept of it."""
    token = real.serves(ONE)["engine"]["token"]
    past = real.client("direct", f"/run/tuner/engine-{token}.sock", CANARY, "48")
    found = real.client("complete", CANARY, "48")
    folders = ["/var/lib/tuner", "/var/cache/tuner", "/var/log", "/run"]
    searched = real.system.run("grep", "-rlFs", "Application startup complete", *folders)
    kept = real.system.run("grep", "-rlFs", "xylophone_quartz", *folders)

    assert past == found
    assert len(found) >= 48
    assert "engine-" in searched.stdout
    assert "" == kept.stdout
    assert "xylophone_quartz" not in real.system.run("journalctl", "--no-pager", "-a").stdout


def test_the_doctor_finds_the_engine_whole(real):
    """In the sandbox vLLM, its flags and the model are there."""
    real.systemctl("start", "tuner-doctor.service")
    said = real.system.journal("tuner-doctor.service").splitlines()

    assert {"model", "torch", "vLLM", "flags"} <= {
        line.split(":")[0].removeprefix("ok").strip() for line in said if line.startswith("ok")
    }


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")
def test_a_compiler_works_in_the_sandbox(real):
    """What torch.compile writes, g++ compiles and this process loads: cache folders, exec, mmap."""
    assert {"compiled": True} == real.within("tuner-doctor.service", "compiles")


def test_knobs_are_live_in_the_sandbox(real):
    """Another draft length is in force at the next steps of the same engine, and nobody is held."""
    before = real.serves(ONE)
    knobs = {**REAL["engine"]["default"], "draft_schedule": [[1, 1000, 2]]}
    profile = {"knobs": knobs, "workload": "any", "origin": "import"}
    profile["platform"] = before["platform"]["digest"]
    found = real.ask("POST", "/v1/profiles/import", {"profile": profile})
    with real.load(CLIENTS, 64) as outcomes:
        real.ask("POST", "/v1/use", {"profile": found["id"]})
        after = until(
            lambda: (s := real.status()) and s["profile"]["id"] == found["id"] and s, "in force"
        )
    real.ask("POST", "/v1/use", {"profile": "default"})

    assert {"whole"} == set(outcomes)
    assert ("live", None, 0) == (
        after["live"]["knobs"], after["live"]["fault"], after["live"]["counters"]["errors"],
    )  # fmt: skip
    for name in ("generation", "steps"):
        assert after["live"]["counters"][name] > before["live"]["counters"][name]
    assert (before["restarts"], before["engine"]["pid"]) == (
        after["restarts"], after["engine"]["pid"],
    )  # fmt: skip


def test_a_killed_tunerd_costs_no_request(real):
    """SIGKILL under load: another one adopts the engine, every answer is whole."""
    before = real.serves(ONE)
    with real.load(CLIENTS, TOKENS) as outcomes:
        killed(real, before["pid"])
        until(lambda: (s := real.status()) and s["pid"] != before["pid"], "another tunerd")
        after = real.serves(ONE)

    assert {"whole"} == set(outcomes)
    assert before["engine"]["pid"] == after["engine"]["pid"]
    assert any("adopted" in event["sentence"] for event in after["events"])
    assert "0" == real.system.show(ONE, "NRestarts")


def test_a_killed_gateway_refuses_nobody(real):
    """SIGKILL under load: what ran is visibly cut, the next one is answered by the same engine."""
    before = real.serves(ONE)
    with real.load(CLIENTS, TOKENS) as outcomes:
        killed(real, before["gateway"]["pid"])
        after = until(
            lambda: (
                (s := real.status())
                and s["gateway"] is not None
                and s["gateway"]["pid"] != before["gateway"]["pid"]
                and s["gateway"]["gate"] == "open"
                and s
            ),
            "another gateway",
        )

    assert {"whole", "broken"} == set(outcomes)
    assert outcomes["broken"] <= CLIENTS
    assert outcomes["whole"] >= CLIENTS
    assert before["engine"]["pid"] == after["engine"]["pid"]
    assert "0" == real.system.show(ONE, "NRestarts")


def test_a_killed_engine_is_replaced_whole(real):
    """SIGKILL of its main process under load: errors in words, and no process of it is left."""
    before = real.serves(ONE)
    own = {before["pid"], before["gateway"]["pid"], int(real.system.show(ONE, "MainPID"))}
    members = {pid: began for pid, began in real.members(ONE).items() if pid not in own}
    with real.load(CLIENTS, TOKENS) as outcomes:
        killed(real, before["engine"]["pid"])
        until(
            lambda: (s := real.status()) and s["engine"] != before["engine"],
            "the end of the engine",
        )
        after = real.serves(ONE)

    assert len(members) >= 3  # the server, its core and a worker
    assert before["engine"]["token"] != after["engine"]["token"]
    assert {} == {pid: began for pid, began in members.items() if real.began(pid) == began}
    assert {"whole", "said"} == set(outcomes)
    assert outcomes["said"] <= CLIENTS
    assert outcomes["whole"] >= CLIENTS  # those that had to wait
    assert "0" == real.system.show(ONE, "NRestarts")


def test_a_stop_waits_for_a_stream_and_leaves_nothing(real):
    """The answer comes whole; then no process and no shared memory of the engine is there."""
    left = "/dev/shm/psm_left"  # as by an engine that was killed
    real.system.run("install", "-o", "tuner", "-m", "600", "/dev/null", left)
    used = shared_memory(real.system)
    with real.clients("stream", CANARY, "400") as client:
        assert "begun" == client.stdout.readline().strip()
        real.systemctl("stop", ONE)
        told = client.communicate(timeout=180)[0].removesuffix("\n")
    running = real.system.run("pgrep", "-u", "tuner", "-l").stdout

    assert len(told) >= 400
    assert not told.startswith("200 ")
    assert len([name for name in used if name.startswith("psm_")]) >= 2
    assert [] == shared_memory(real.system)
    assert "" == running
    assert ["inactive", "success"] == [
        real.system.show(ONE, name) for name in ("ActiveState", "Result")
    ]
