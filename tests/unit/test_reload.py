"""What of a changed configuration is in force at once."""

import pytest

from profiles.knobs import Knobs
from service.reload import at_once, reload
from tuner.config import Config, EngineConfig, PolicyConfig, Section

OLD = Config(engine=EngineConfig(model="org/m"))


def changed(**sections):
    """The old configuration with other values in some sections."""
    update = {
        name: getattr(OLD, name).model_copy(update=values) for name, values in sections.items()
    }
    return OLD.model_copy(update=update)


def test_the_same_file_changes_nothing():
    """And says so."""
    found = reload(OLD, changed())

    assert (OLD, (), ()) == (found.config, found.applied, found.waiting)
    assert "nothing has changed" in found.sentence()


def test_what_can_be_had_is_taken_and_the_rest_is_named():
    """Both lists are complete, and the configuration is exactly that of the first."""
    new = changed(
        engine={"args": ("--seed", "1"), "hang_s": 7.0, "default": Knobs(max_num_seqs=4)},
        policy={"dwell_s": 1.0},
        gateway={"drain_s": 3.0, "hold_s": 4.0},
        tuning={"sampling": "off", "trials": 5},
    )
    found = reload(OLD, new)

    assert ("engine.hang_s", "gateway.drain_s", "tuning.trials", "policy.dwell_s") == found.applied
    assert ("engine.args", "engine.default", "gateway.hold_s", "tuning.sampling") == found.waiting
    expected = changed(
        engine={"hang_s": 7.0},
        policy={"dwell_s": 1.0},
        gateway={"drain_s": 3.0},
        tuning={"trials": 5},
    )
    assert expected == found.config
    sentence = found.sentence()
    assert "policy.dwell_s in force now" in sentence
    assert "restart tunerd and the gateway for engine.args, engine.default" in sentence


def test_what_waits_goes_on_waiting():
    """A second reading of the same file still names it; taking the change back ends it."""
    new = changed(engine={"args": ("--seed", "1")})
    first = reload(OLD, new)

    assert ("engine.args",) == reload(first.config, new).waiting
    assert () == reload(first.config, OLD).waiting


def test_secrets_are_named_and_not_shown():
    """Values of the engine's environment may be credentials."""
    found = reload(OLD, changed(engine={"env": {"HF_TOKEN": "hf_secret"}}))

    assert ("engine.env",) == found.waiting
    assert "secret" not in found.sentence()


def leaves(section, prefix=""):
    """Every setting by its dotted path."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


@pytest.mark.parametrize("name", PolicyConfig.model_fields)
def test_the_whole_policy_is_in_force_at_once(name):
    """It is read at every decision."""
    assert at_once(f"policy.{name}")


def test_what_others_have_read_needs_a_restart():
    """The gateway's settings, the command line of engines, directories and drafters."""
    gateway = {path for path in leaves(OLD) if path.startswith("gateway.")}

    assert {"gateway.drain_s"} == {path for path in gateway if at_once(path)}
    for path in ("engine.model", "engine.command", "state_dir", "drafters", "live.enabled"):
        assert not at_once(path)
