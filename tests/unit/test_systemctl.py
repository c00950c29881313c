"""What systemctl says and how it fails, as words of systemd 252."""

import sys

import pytest

from service.systemctl import Systemctl, SystemdError, UnitState, refusal

UNIT = "tuner-engine@a.service"
# systemctl show of 252, as it printed these properties of a running engine, and of a killed one
RUNNING = """\
LoadState=loaded
ActiveState=active
Result=success
MainPID=104
ExecMainPID=104
ExecMainCode=0
ExecMainStatus=0
ExecMainStartTimestampMonotonic=8123456789
InvocationID=034b0cd7bf3e41d498e1950474900b2e
ControlGroup=/tuner.slice/tuner-engine@a.service
"""
KILLED = (
    RUNNING.replace("=active", "=failed")
    .replace("=success", "=signal")
    .replace("MainPID=104\n", "MainPID=0\n", 1)
    .replace("ExecMainCode=0", "ExecMainCode=2")
    .replace("ExecMainStatus=0", "ExecMainStatus=9")
)


def test_a_running_unit_has_a_process_and_no_status():
    """Its pid, its run, and its control group."""
    state = UnitState.parse(RUNNING)

    assert ("active", 104, None) == (state.active, state.pid, state.exit_code)
    assert ("034b0cd7bf3e41d498e1950474900b2e", "/tuner.slice/tuner-engine@a.service") == (
        state.invocation, state.control_group,
    )  # fmt: skip
    assert 8123456789 == state.started_us
    assert not state.over


def test_a_signal_is_a_negative_status():
    """As subprocess has it, so that failures are classified alike in both forms."""
    state = UnitState.parse(KILLED)

    assert (True, -9, None) == (state.over, state.exit_code, state.pid)


@pytest.mark.parametrize(
    ("active", "code", "status", "expected"),
    [
        ("failed", 1, 78, 78),
        ("deactivating", 1, 1, 1),  # its children are still being ended
        ("inactive", 1, 0, 0),
        ("inactive", 0, 0, 0),  # systemd has forgotten it: it ended well
        ("inactive", 2, 15, -15),
        ("activating", 0, 0, None),
    ],
)
def test_how_a_main_process_has_ended(active, code, status, expected):
    """None while it runs; 0 also when nothing is known of a unit that has ended."""
    text = f"ActiveState={active}\nExecMainCode={code}\nExecMainStatus={status}\n"

    assert expected == UnitState.parse(text).exit_code


@pytest.mark.parametrize("text", ["", "\n", "MainPID=", "MainPID=x\nExecMainCode=\n", "garbage"])
def test_whatever_it_prints_there_is_a_state(text):
    """A version that lacks a property must not end tunerd; nothing is over that nobody says is."""
    state = UnitState.parse(text)

    assert (None, None, False) == (state.pid, state.exit_code, state.over)


@pytest.mark.parametrize(
    ("said", "todo"),
    [
        (
            "Failed to start tuner-engine@a.service: Access denied\nSee system logs\n",
            "polkit rule",
        ),
        (
            "Failed to start tuner-engine@a.service: Interactive authentication required.\n",
            "polkit rule",
        ),
        (
            "Failed to start tuner-engine@a.service: Unit tuner-engine@a.service not found.\n",
            "writes the unit",
        ),
        ("Failed to connect to bus: No such file or directory\n", "without --engine-units"),
        (
            "Job for tuner-engine@a.service failed because the control process exited.\n",
            "journalctl -u tuner-engine@a.service",
        ),
        ("", "journalctl -u tuner-engine@a.service"),
    ],
)
def test_a_refusal_says_what_to_do(said, todo):
    """The first line of systemctl, and the way out."""
    sentence = refusal("start", UNIT, said)

    assert todo in sentence
    assert sentence.startswith(f"Cannot start {UNIT}: ")
    assert said.partition("\n")[0].removesuffix(".") in sentence
    assert "\n" not in sentence


def scripted(code):
    """Python in place of systemctl."""
    return Systemctl((sys.executable, "-c", code))


async def test_no_call_ever_asks_for_a_password():
    """Nor opens a pager; and what comes behind the dashes is a unit."""
    said = await scripted("import sys; print(sys.argv[1:])")._call("show", "--", UNIT)

    assert ["--no-ask-password", "--no-pager", "show", "--", UNIT] == eval(said)


async def test_its_words_are_english_whatever_the_machine_speaks(monkeypatch):
    """They are compared with what is known of them."""
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    said = await scripted("import os; print(os.environ['LC_ALL'])")._call("show", UNIT)

    assert "C" == said.strip()


async def test_a_machine_without_systemctl_is_a_sentence():
    """A container: engines have to be children there."""
    with pytest.raises(SystemdError, match="without --engine-units"):
        await Systemctl(("/no/such/systemctl",)).state(UNIT)


async def test_a_systemd_that_does_not_answer_is_a_sentence():
    """The call is given up, and its process is gone."""
    hung = scripted("import time; time.sleep(600)")
    with pytest.raises(SystemdError, match=r"took longer than 0.5 s"):
        await hung._call("start", UNIT, timeout_s=0.5)


async def test_a_start_of_a_unit_that_systemd_does_not_know_yet():
    """It forgets nothing then: the first failure is no reason not to start."""
    code = "import sys; sys.exit('reset-failed' in sys.argv)"

    await scripted(code).start(UNIT)


async def test_the_end_of_a_run_is_not_that_of_the_next():
    """The unit is started again between two looks: the new run is neither stopped nor killed."""
    code = f"import sys; sys.exit(9) if 'show' not in sys.argv else print({RUNNING!r})"

    assert await scripted(code).end(UNIT, invocation="ended")
