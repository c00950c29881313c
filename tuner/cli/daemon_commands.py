"""`run` and `demo`: become another process of this distribution, without importing it."""

import os
import sys
from pathlib import Path

import click

from tuner import config_file
from tuner.cli.app import Command, Session, pass_session
from tuner.cli.text import sentence

PACKAGES = Path(__file__).resolve().parents[2]  # the folder that holds `tuner` and `service`


def become(module: str, *args: str) -> None:
    """Replace this process by `python -m module args`."""
    # -m puts the working directory first on the path, where any folder called `service` would win
    safe = [] if Path.cwd() == PACKAGES else ["-P"]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *safe, "-m", module, *args])  # noqa: S606 - no shell wanted


@click.command(cls=Command)
@click.option("--leave-engine", is_flag=True, help="Keep the engine running after the stop.")
@pass_session
def run(session: Session, *, leave_engine: bool) -> None:
    """Start gateway, daemon and engine in the foreground."""
    path = session.config_path()
    config_file.load(path)  # refused here, with the reason, rather than in a log
    become("service.run", "--config", str(path), *(["--leave-engine"] if leave_engine else []))


@click.command(cls=Command)
@pass_session
def stop(session: Session) -> None:
    """Stop daemon, gateway and engine in good order."""
    answer = session.client().post("/v1/stop")
    session.show(answer, lambda: sentence(answer, "The daemon is stopping."))


@click.command(
    cls=Command,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
@click.option("--quick", is_flag=True, help="Shorter measurements, wider intervals.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@pass_session
def demo(session: Session, options: tuple[str, ...], *, quick: bool) -> None:
    """Tune a small real model on this machine.

    OPTIONS go to the demo; `tuner demo -- --help` lists them.
    """
    flags = [*(["--quick"] if quick else []), *(["--json"] if session.json else [])]
    become("service.demo", *flags, *options)


COMMANDS = (run, stop, demo)
