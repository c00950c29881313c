"""What vLLM is started with: the same on both sides of an engine's unit."""

import json

import pytest

from profiles.errors import InvalidKnobsError
from profiles.knobs import Drafter, Knobs
from service.launch import SITE, environment, launch_of
from tuner.config import Config, EngineConfig, LiveConfig
from tuner.paths import Paths, UnitPlaces

KNOBS = Knobs(drafter="ngram", draft_length=4, max_num_seqs=8)


def config(tmp_path, **engine):
    return Config(
        engine=EngineConfig(model="org/m", **engine),
        drafters=(Drafter(name="ngram", method="ngram"),),
        live=LiveConfig(),
        state_dir=tmp_path,
    )


def test_the_command_is_the_configuration_and_the_knobs(tmp_path):
    """In this order, so that knobs win over what the operator has passed."""
    launch = launch_of(
        config(tmp_path, command=("py", "-m", "vllm"), args=("--seed", "1")),
        KNOBS,
        cache=tmp_path,
        live=False,
    )

    assert ("py", "-m", "vllm", "--model", "org/m", "--seed", "1") == launch.command[:7]
    assert ("--max-num-seqs", "8", "--speculative-config") == launch.command[7:10]
    assert 4 == json.loads(launch.command[10])["num_speculative_tokens"]
    assert 11 == len(launch.command)


@pytest.mark.parametrize(
    "other",
    [
        {"args": ("--seed", "2")},
        {"command": ("other",)},
        {"env": {"A": "b"}},
    ],
)
def test_a_changed_configuration_is_another_digest(tmp_path, other):
    """Command and environment both count, and nothing else does."""
    launches = [
        launch_of(config(tmp_path, **engine), KNOBS, cache=tmp_path, live=True)
        for engine in ({}, {}, {"stop_timeout_s": 3.0}, other)
    ]

    assert launches[0].digest == launches[1].digest == launches[2].digest
    assert launches[0].digest != launches[3].digest


def test_knobs_that_contradict_each_other_are_no_launch(tmp_path):
    """Nothing may be started with them, on whichever side."""
    with pytest.raises(InvalidKnobsError, match="not configured"):
        launch_of(config(tmp_path), Knobs(drafter="x", draft_length=1), cache=tmp_path, live=False)


def test_an_engine_inherits_nothing_that_is_meant_for_tunerd(tmp_path):
    """Neither sockets nor the watchdog of a service manager; what is added wins."""
    env = environment(
        {"NOTIFY_SOCKET": "/n", "LISTEN_FDS": "1", "WATCHDOG_USEC": "1", "A": "1", "B": "1"},
        {"B": "2", "PYTHONPATH": "/p"},
        token="t",
        socket=None,
    )

    assert {"A": "1", "B": "2"} == {name: env[name] for name in ("A", "B")}
    assert f"{SITE}:/p" == env["PYTHONPATH"]
    assert ("t", "1") == (env["TUNERD_ENGINE_TOKEN"], env["VLLM_NO_USAGE_STATS"])
    assert set() == {"NOTIFY_SOCKET", "LISTEN_FDS", "WATCHDOG_USEC", "TUNER_CONTROL"} & set(env)


def test_live_knobs_lie_beside_the_socket(tmp_path):
    """An engine with tunerd's scheduler finds its two files."""
    env = environment({}, {}, token="t", socket=tmp_path / "engine-t.sock")

    assert str(tmp_path / "engine-t.control") == env["TUNER_CONTROL"]
    assert str(tmp_path / "engine-t.telemetry") == env["TUNER_TELEMETRY"]


def test_units_have_folders_of_their_own(tmp_path):
    """Of two users, and none of them in the state of tunerd, which the engine cannot read."""
    units = UnitPlaces.below()
    child = Paths.of(config(tmp_path)).engine

    assert "/run/tuner/orders/b.json" == str(units.order("b"))
    assert ("/run/tuner-engine", "/var/log/tuner-engine", "/var/cache/tuner-engine") == (
        str(units.run), str(units.logs), str(units.cache),
    )  # fmt: skip
    assert (tmp_path / "run", tmp_path / "log", tmp_path / "cache") == (
        child.run, child.logs, child.cache,
    )  # fmt: skip
