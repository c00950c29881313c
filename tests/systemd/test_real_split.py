"""The real vLLM (CPU build) in an engine unit of its own, in one booted system."""

import json
from importlib.util import find_spec

import pytest
from installed import CONFIG, REAL, Installed
from stage import until

pytestmark = [
    pytest.mark.systemd,
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed"),
]

GATEWAY, TUNERD = "tuner-gateway.service", "tunerd.service"
CLIENTS, TOKENS = 4, 200
PROMPT = "def function(argument):\n    return"


@pytest.fixture(scope="module")
def doctor(system, polkit):
    """What `tuner doctor` says in the sandbox of tunerd, and the installation it said it of."""
    service = Installed(system, REAL)
    service.configure()
    service.install("--split")
    words = ("-P", "-m", "tuner.cli", "--config", CONFIG, "doctor", "--json")
    said = service.said_within(TUNERD, *words, success=1)  # 1: this machine has no GPU
    service.restore()
    # the doctor has knocked at tunerd's socket, in vain, and systemd starts the unit for that
    service.systemctl("restart", TUNERD)
    return service, json.loads(said)


@pytest.fixture
def split(doctor):
    """The three units, serving."""
    service, _ = doctor
    service.start(TUNERD)
    service.serves(TUNERD)
    return service


def test_tunerd_may_ask_vllm_for_its_flags(doctor):
    """Without code that it has written itself, without a network: `vllm --help` answers."""
    _, said = doctor
    found = {check["name"]: check["state"] for check in said["checks"]}

    assert ("ok", "ok", "ok") == tuple(found[name] for name in ("torch", "vLLM", "flags"))


def test_an_engine_serves_in_its_own_sandbox(split):
    """Through the gateway comes what the engine says past it; its knobs are live."""
    status = split.serves(TUNERD)
    socket = f"/run/tuner-engine/engine-{status['engine']['token']}.sock"
    past = split.client("direct", socket, PROMPT, "48")

    assert past == split.client("complete", PROMPT, "48")
    assert len(past) >= 48
    assert ("live", None) == (status["live"]["knobs"], status["live"]["fault"])
    assert split.engine()[0]


def test_another_tunerd_keeps_the_engine_and_its_live_knobs(split):
    """A restart under load: every answer is whole, the engine is the same, its knobs are live."""
    before = split.engine()
    with split.load(CLIENTS, TOKENS) as outcomes:
        split.systemctl("restart", TUNERD)
        after = split.serves(TUNERD)

    assert {"whole"} == set(outcomes)
    assert before == split.engine()
    assert ("live", None) == (after["live"]["knobs"], after["live"]["fault"])


def test_a_killed_tunerd_costs_no_request(split):
    """SIGKILL under load: another one finds the engine's unit, every answer is whole."""
    before, pid = split.engine(), split.system.show(TUNERD, "MainPID")
    with split.load(CLIENTS, TOKENS) as outcomes:
        split.systemctl("kill", "-s", "KILL", TUNERD)
        split.replaced(TUNERD, pid)
        split.serves(TUNERD)

    assert {"whole"} == set(outcomes)
    assert before == split.engine()


def test_a_killed_gateway_refuses_nobody(split):
    """SIGKILL under load: what ran is visibly cut, the next one is answered by the same engine."""
    before, pid = split.engine(), split.system.show(GATEWAY, "MainPID")
    with split.load(CLIENTS, TOKENS) as outcomes:
        split.systemctl("kill", "-s", "KILL", GATEWAY)
        split.replaced(GATEWAY, pid)
        split.serves(GATEWAY)

    assert {"whole", "broken"} == set(outcomes)
    assert outcomes["broken"] <= CLIENTS
    assert outcomes["whole"] >= CLIENTS
    assert before == split.engine()


def test_a_killed_engine_is_replaced_whole(split):
    """SIGKILL of its main process under load: errors in words, no process of it is left."""
    unit, run, pid = split.engine()
    members = split.members(unit)
    with split.load(CLIENTS, TOKENS) as outcomes:
        assert 0 == split.system.run("kill", "-KILL", pid).returncode
        until(lambda: split.engine()[1] not in {"", run}, "another run of an engine", 240.0)
        split.serves(TUNERD)

    assert len(members) >= 3  # the server, its core and a worker
    assert {} == {pid: began for pid, began in members.items() if split.began(pid) == began}
    assert {"whole", "said"} == set(outcomes)
    assert outcomes["said"] <= CLIENTS
    assert outcomes["whole"] >= CLIENTS  # those that had to wait


def test_a_stop_leaves_nothing_of_the_engine(split):
    """No process and no shared memory of its user is there after the slice has been stopped."""
    run = split.system.run
    run("install", "-o", "tuner-engine", "-m", "600", "/dev/null", "/dev/shm/psm_left")
    used = run("ls", "/dev/shm").stdout.split()
    split.systemctl("stop", "tuner.slice")

    assert len([name for name in used if name.startswith("psm_")]) >= 2
    assert "" == run("pgrep", "-u", "tuner-engine", "-l").stdout
    assert "" == run("ls", "/dev/shm").stdout
