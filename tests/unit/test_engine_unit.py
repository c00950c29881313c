"""The launcher of an engine's unit, as a process: what it executes, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from stage import toml

from profiles.knobs import Knobs
from service.engine_order import Order
from service.launch import launch_of
from tuner.config_file import load
from tuner.paths import UnitPlaces

ROOT = Path(__file__).parents[2]
TOKEN = "0123456789abcdef"
AT = "20261126T031500"
# instead of vLLM: what it was started with
SHOW = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"


class Unit:
    """The folders of a unit, and its launcher."""

    def __init__(self, folder):
        self.folder = folder
        self.places = UnitPlaces.below(folder)
        for each in (self.places.run, self.places.logs, self.places.cache, self.places.orders):
            each.mkdir(parents=True)
        self.file = folder / "tuner.toml"
        self.log = self.places.logs / f"engine-{AT}-{TOKEN}.log"
        self.configure()

    def configure(self, command=(sys.executable, "-c", SHOW), **more):
        engine = {"model": "org/m", "command": list(command), "env": {"A": "b"}}
        self.file.write_text(
            toml({"engine": engine, "drafters": [{"name": "ngram", "method": "ngram"}], **more})
        )

    def order(self, knobs=Knobs(), slot="a", **changes):  # noqa: B008  frozen
        live = changes.get("live", False)
        launch = launch_of(load(self.file), knobs, cache=self.places.cache, live=live)
        fields = {
            "token": TOKEN, "at": AT, "knobs": knobs, "profile": "p", "purpose": "serve",
            "live": live, "launch": launch.digest,
        }  # fmt: skip
        self.places.order(slot).write_text(Order.model_validate({**fields, **changes}).text())

    def start(self, slot="a"):
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(self.places.cache)}
        return subprocess.run(
            [
                *(sys.executable, "-P", "-m", "service.engine_unit"),
                *("--config", str(self.file), "--root", str(self.folder), slot),
            ],
            env={**environ, "NOTIFY_SOCKET": "/n"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=self.folder,
        )

    def refused(self, words, slot="a"):
        """Nothing was executed, and the sentence for the journal says why."""
        done = self.start(slot)
        assert (78, "") == (done.returncode, done.stdout), done.stderr
        assert done.stderr.startswith("tuner-engine: ")
        assert words in done.stderr
        return done.stderr


@pytest.fixture
def unit(tmp_path):
    return Unit(tmp_path)


def test_the_launcher_becomes_what_configuration_and_knobs_say(unit):
    """The command, the socket, and an environment that was made here; the output is in the log."""
    knobs = Knobs(drafter="ngram", draft_length=3)
    unit.order(knobs, live=True)
    done = unit.start()
    argv, env = json.loads(unit.log.read_text())
    expected = launch_of(load(unit.file), knobs, cache=unit.places.cache, live=True)
    socket = unit.places.run / f"engine-{TOKEN}.sock"

    assert (0, "") == (done.returncode, done.stdout)
    assert [*expected.command[3:], "--uds", str(socket)] == argv
    assert ("b", TOKEN) == (env["A"], env["TUNERD_ENGINE_TOKEN"])
    assert str(socket.with_suffix(".control")) == env["TUNER_CONTROL"]
    assert env["VLLM_CACHE_ROOT"].startswith(str(unit.places.cache))
    assert "NOTIFY_SOCKET" not in env
    assert "serve ngram k=3, profile p" in done.stderr


def test_model_facts_are_shared_where_the_engine_may_write(unit):
    """The launcher has the right to; tunerd is another user."""
    unit.order()
    unit.start()
    cache = Path(json.loads(unit.log.read_text())[1]["VLLM_CACHE_ROOT"])

    assert (unit.places.cache / "vllm" / "modelinfos") == (cache / "modelinfos").resolve()


def test_tunerd_may_read_the_log(unit):
    """By its group, whatever the umask is."""
    unit.order()
    unit.start()

    assert 0o640 == unit.log.stat().st_mode & 0o777


def test_a_slot_without_an_order_starts_nothing(unit):
    """Somebody has started the unit by hand."""
    unit.order(slot="b")

    unit.refused("do not start it by hand")


@pytest.mark.parametrize("slot", ["c", "", "../a", "a.json"])
def test_there_are_two_slots(unit, slot):
    """The name of a unit is chosen by whoever starts it."""
    unit.order()

    unit.refused("There is no slot", slot)


def test_an_order_is_obeyed_once(unit):
    """It cannot be used again, and no file that is there is written to."""
    unit.order()
    unit.start()
    text = unit.log.read_text()

    unit.refused("obeyed before")
    assert text == unit.log.read_text()


def test_a_log_is_never_somebody_elses_file(unit):
    """A link in the folder of logs, which tunerd can write to, is not followed."""
    victim = unit.folder / "victim"
    unit.log.symlink_to(victim)
    unit.order()
    unit.refused("obeyed before")

    assert not victim.exists()


def test_an_order_is_a_file(unit):
    """A link or a pipe in its place is not read, and nobody waits for it."""
    unit.order(slot="b")
    path = unit.places.order("a")
    path.symlink_to(unit.places.order("b"))
    unit.refused("Cannot read the order")
    path.unlink()
    os.mkfifo(path)

    unit.refused("is not a file")


def test_a_long_order_is_refused(unit):
    """Memory is not filled by whoever writes it."""
    unit.places.order("a").write_bytes(b" " * 70000)

    unit.refused("too long")


def test_a_changed_configuration_is_refused_by_name(unit):
    """Tunerd has to read it too, else it would take this engine for another one."""
    unit.order()
    unit.configure(tuning={"seed": 1})  # not of the engine
    assert 0 == unit.start().returncode

    unit.log.unlink()
    unit.configure(command=["other"])
    said = unit.refused("not the one that tunerd has read")
    assert said == unit.log.read_text()  # tunerd reads it there


def test_knobs_that_are_not_configured_are_refused_without_forging_a_line(unit):
    """The name of a drafter is the one text of an order that its pattern does not bound."""
    text = unit.places.order("a")
    unit.order(Knobs(drafter="ngram", draft_length=1))
    text.write_text(text.read_text().replace('"ngram"', '"x\\nforged: line"'))

    assert 1 == unit.refused("is not configured").count("\n")


def test_live_knobs_need_the_operators_word(unit):
    """`live.enabled = false` holds for whoever writes orders."""
    unit.configure(live={"enabled": False})
    unit.order(live=True)

    unit.refused("live.enabled is false")


@pytest.mark.parametrize("mode", [0o666, 0o620])
def test_a_configuration_that_others_can_write_is_not_obeyed(unit, mode):
    """It says what is executed."""
    unit.order()
    unit.file.chmod(mode)

    unit.refused("can be written by others than root")


def test_nor_is_one_in_a_folder_that_others_can_write(unit):
    """They could put another one in its place, also where the file itself is a link."""
    real = unit.folder / "real.toml"
    unit.order()
    unit.file.rename(real)
    shared = unit.folder / "shared"
    shared.mkdir()
    shared.chmod(0o777)  # whatever the umask is
    unit.file = shared / "tuner.toml"
    unit.file.symlink_to(real)

    unit.refused(f"{shared} can be written by others")


def test_a_wrong_configuration_is_a_sentence(unit):
    """As everywhere: which line, and what to do."""
    unit.order()
    unit.file.write_text("[engine\n")

    unit.refused("not valid TOML")


def test_a_command_that_is_not_there_is_a_sentence(unit):
    """In the journal and in the log, which tunerd reads."""
    unit.configure(command=["/no/such/python"])
    unit.order()
    done = unit.start()

    assert 78 == done.returncode
    assert "Cannot run '/no/such/python': No such file or directory." in done.stderr
    assert "Cannot run '/no/such/python'" in unit.log.read_text()
