"""`install`, `upgrade`, `uninstall`: become the installer, which shares nothing with a daemon."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tuner.cli.app import Command, Session, pass_session
from tuner.cli.daemon_commands import become

MODULE = "service.install"


def _where(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that all have."""
    command = click.option(
        "--dry-run", is_flag=True, help="Show what would change; exit 1 if any."
    )(command)
    return click.option(
        "--prefix",
        type=click.Path(path_type=Path, file_okay=False),
        help="Write below this folder and run nothing, for packages.",
    )(command)


@click.command(cls=Command)
@_where
@click.option("--user", default="tuner", show_default=True, help="Who runs it; `tuner` is created.")
@click.option("--model", help="Path or hub id for a new configuration.")
@click.option("--split", is_flag=True, help="Gateway, tunerd and engine as units of their own.")
@pass_session
def install(
    session: Session,
    *,
    dry_run: bool,
    prefix: Path | None,
    user: str,
    model: str | None,
    split: bool,
) -> None:
    """Install the service for systemd, from this environment; run it again after an upgrade."""
    words = ["--user", user]
    if session.config is not None:
        words += ["--config", str(session.config)]
    if model is not None:
        words += [f"--model={model}"]
    words += ["--split"] if split else []
    become(MODULE, "install", *words, *_common(session, dry_run=dry_run, prefix=prefix))


@click.command(cls=Command)
@_where
@click.option("--gateway", is_flag=True, help="Restart the gateway too; open answers are finished.")
@pass_session
def upgrade(session: Session, *, dry_run: bool, prefix: Path | None, gateway: bool) -> None:
    """Let the installed service go on with this version; in the split form engines keep running."""
    words = ["--gateway"] if gateway else []
    become(MODULE, "upgrade", *words, *_common(session, dry_run=dry_run, prefix=prefix))


@click.command(cls=Command)
@_where
@click.option("--purge", is_flag=True, help="Remove configuration, profiles, caches and user too.")
@pass_session
def uninstall(session: Session, *, dry_run: bool, prefix: Path | None, purge: bool) -> None:
    """Remove the service; configuration and profiles stay."""
    words = ["--purge"] if purge else []
    become(MODULE, "uninstall", *words, *_common(session, dry_run=dry_run, prefix=prefix))


def _common(session: Session, *, dry_run: bool, prefix: Path | None) -> list[str]:
    words = ["--dry-run"] if dry_run else []
    words += [] if prefix is None else [f"--prefix={prefix}"]
    return [*words, *(["--json"] if session.json else [])]


COMMANDS = (install, upgrade, uninstall)
