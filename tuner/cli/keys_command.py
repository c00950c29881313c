"""`keys add|list|remove`: who may use the gateway."""

from pathlib import Path

import click

from profiles.errors import ConfigError, ConflictError, NotFoundError
from tuner import keys
from tuner.cli.app import Group, Session, pass_session


@click.group("keys", cls=Group)
def keys_group() -> None:
    """The gateway's keys: add, list or remove them."""


@keys_group.command("add")
@click.argument("name")
@pass_session
def add_key(session: Session, *, name: str) -> None:
    """Make a key for an application.

    It is printed once: only its hash is kept. A running gateway takes it within a second.
    """
    path = _path(session)
    if keys.NAME.fullmatch(name) is None:
        raise click.UsageError("NAME is up to 64 letters, digits, `.`, `_` or `-`.")
    known = _known(path)
    if any(key.name == name for key in known):
        raise ConflictError(
            f"There is a key for {name} already.",
            hint=f"Remove it first: `tuner keys remove {name}`.",
        )
    secret = keys.generate()
    keys.write(path, (*known, keys.Key.of(name, secret, keys.salt())))
    session.show({"v": 1, "application": name, "key": secret}, lambda: secret)


@keys_group.command("list")
@pass_session
def list_keys(session: Session) -> None:
    """List the applications that have a key."""
    names = [key.name for key in _known(_path(session))]
    session.show(
        {"v": 1, "applications": names}, lambda: "\n".join(names) if names else "There are no keys."
    )


@keys_group.command("remove")
@click.argument("name")
@pass_session
def remove_key(session: Session, *, name: str) -> None:
    """Remove the key of an application.

    A running gateway refuses it within a second.
    """
    path = _path(session)
    known = _known(path)
    left = tuple(key for key in known if key.name != name)
    if len(left) == len(known):
        raise NotFoundError(f"There is no key for {name}.", hint="`tuner keys list` shows all.")
    keys.write(path, left)
    session.show({"v": 1, "application": name, "removed": True}, lambda: f"{name} has no key now.")


def _path(session: Session) -> Path:
    path = session.load().gateway.keys_file
    if path is None:
        raise ConfigError(
            "gateway.keys_file is not set.",
            hint='Set it in [gateway], for example keys_file = "/etc/tuner/gateway-keys".',
        )
    return path


def _known(path: Path) -> tuple[keys.Key, ...]:
    return keys.read(path) if path.exists() else ()


COMMANDS = (keys_group,)
