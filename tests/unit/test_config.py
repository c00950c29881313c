"""The configuration model."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from tuner.config import Config, EngineConfig, GatewayConfig
from tuner.paths import Paths


def test_model_alone_is_a_configuration():
    """A file needs nothing but a model, and listens on loopback."""
    config = Config(engine=EngineConfig(model="org/name"))

    assert ("127.0.0.1", 8000) == config.gateway.host_port


def test_frozen():
    """Nothing changes the configuration after it was read."""
    config = Config(engine=EngineConfig(model="org/name"))

    with pytest.raises(ValidationError, match="frozen"):
        config.gateway.drain_s = 1.0


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "127.8.8.8:80", "localhost:8000", "[::1]:65535"])
def test_loopback_addresses(listen):
    """Every loopback address may be listened on."""
    assert listen == GatewayConfig(listen=listen).listen


def test_ipv6_host_is_without_brackets():
    """A socket takes the address without the brackets that the file needs."""
    assert ("::1", 80) == GatewayConfig(listen="[::1]:80").host_port


@pytest.mark.parametrize("listen", ["0.0.0.0:80", "[::]:80", "10.0.0.1:80", "example.org:80"])
def test_other_machines_are_refused(listen):
    """Without keys the gateway listens to this machine only."""
    with pytest.raises(ValidationError, match="not a loopback address"):
        GatewayConfig(listen=listen)
    assert listen == GatewayConfig(listen=listen, keys_file="keys").listen


@pytest.mark.parametrize("listen", ["8000", ":8000", "127.0.0.1:", "127.0.0.1:65536", "a:²", ""])
def test_no_address(listen):
    """What is not host:port is refused, whatever int() would make of it."""
    with pytest.raises(ValidationError, match="is not host:port"):
        GatewayConfig(listen=listen)


def test_default_drafter_must_be_configured():
    """The operator's default can only name a drafter of the file."""
    with pytest.raises(ValidationError, match="not among the drafters"):
        Config.model_validate(
            {"engine": {"model": "m", "default": {"drafter": "x", "draft_length": 3}}}
        )


def test_two_drafters_of_one_name():
    """A profile names its drafter, so a name must be one drafter's."""
    ngram = {"name": "ngram", "method": "ngram"}

    with pytest.raises(ValidationError, match="two drafters have the same name"):
        Config.model_validate({"engine": {"model": "m"}, "drafters": [ngram, ngram]})


def test_sockets_are_below_the_state_directory_unless_said_otherwise(tmp_path):
    """Without a runtime_dir the sockets are in `run`; with one they are there."""
    engine = EngineConfig(model="m")
    plain = Paths.of(Config(engine=engine, state_dir=tmp_path))
    other = Paths.of(Config(engine=engine, state_dir=tmp_path, runtime_dir=Path("/run/tuner")))

    assert tmp_path / "run" / "status.sock" == plain.status_socket
    assert Path("/run/tuner/control.sock") == other.control_socket


def test_the_largest_body_fits_into_all_bodies():
    """Else a body below its own limit would be refused for ever; the defaults fit."""
    assert 8 == GatewayConfig(max_body_mib=8, bodies_mib=8).bodies_mib
    assert GatewayConfig().max_body_mib <= GatewayConfig().bodies_mib
    with pytest.raises(ValidationError, match="bodies_mib = 512 is below max_body_mib = 513"):
        GatewayConfig(max_body_mib=513)
