"""`hold`, `launch`, `holds`: a profile for as long as somebody needs it."""

import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click

from profiles.errors import DeadlineError, ExitCode, TunerError, UnreachableError
from tuner.cli import app, render_tables
from tuner.cli.app import Command, Session, pass_session, say
from tuner.cli.text import safe, sentence
from tuner.client import ControlClient, Json

AGAIN_S = 1.0  # between tries to hold again after the daemon has gone
NOT_FOUND = 127  # as a shell says it
NOT_EXECUTABLE = 126
SIGNAL = 128  # as a shell says it: 128 + the signal's number


@click.command(cls=Command)
@click.argument("application")
@click.argument("profile")
@click.option("--reason", default="", help="Shown by `tuner holds`.")
@pass_session
def hold(session: Session, application: str, profile: str, reason: str) -> int:
    """Keep a profile for an application until this command ends.

    As a pin does, but nothing is left of it afterwards. Exits with 1 when the operator ends it.
    """
    wish = {"application": application, "profile": profile, "reason": reason}
    for line in leased(session.client(), wish):
        session.show(line, partial(_told, line))
    return int(ExitCode.NEGATIVE)


@click.command(cls=Command, context_settings={"ignore_unknown_options": True})
@click.option("-p", "--profile", required=True, help="Start of a profile's id.")
@click.option("-a", "--application", help="Its name at the gateway; else the program's name.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@pass_session
def launch(
    session: Session, profile: str, application: str | None, command: tuple[str, ...]
) -> int:
    """Run a command while a profile is held for it.

    Exits with the command's status: 128 + N after signal N, 127 if there is no such program.
    """
    name = application or Path(command[0]).name
    lease = Lease(session.client(), {"application": name, "profile": profile, "reason": "launch"})
    lease.begin()
    try:
        status = subprocess.run(command, check=False).returncode
    except FileNotFoundError:
        say(f"tuner: There is no program {command[0]!r}.")
        return NOT_FOUND
    except OSError as error:
        say(f"tuner: Cannot run {command[0]!r}: {error.strerror}.")
        return NOT_EXECUTABLE
    return status if status >= 0 else SIGNAL - status


class Lease:
    """A hold that is taken again when the daemon comes back, in a thread that ends with us."""

    def __init__(self, client: ControlClient, wish: Json) -> None:
        self._client = client
        self._wish = wish
        self._first = threading.Event()
        self._refused: TunerError | None = None

    def begin(self) -> None:
        """Take it.

        Raises:
            TunerError: it is refused, or there is no daemon; nothing is held.
        """
        threading.Thread(target=self._keep, daemon=True).start()
        self._first.wait()
        if self._refused is not None:
            raise self._refused

    def _keep(self) -> None:
        try:
            for line in leased(self._client, self._wish):
                if "released" in line:
                    say(_told(line))
                self._first.set()
        except TunerError as error:
            if self._first.is_set():
                say(f"tuner: {error.sentence()}")
            self._refused = error
            self._first.set()


def leased(client: ControlClient, wish: Json) -> Iterator[Json]:
    """The lines of a hold, taken again whenever the daemon comes back, until it is ended.

    Raises:
        TunerError: it is refused, or there is no daemon to begin with.
    """
    taken = False
    while True:
        try:
            for line in client.stream("/v1/holds", wish):
                taken = True
                yield line
                if "released" in line and not line.get("again"):
                    return
        except (UnreachableError, DeadlineError):
            if not taken:
                raise
        time.sleep(AGAIN_S)


@click.command(cls=Command)
@pass_session
def holds(session: Session) -> None:
    """List applications that hold a profile."""
    answer = session.client().get("/v1/holds")
    found = render_tables.items(answer, "holds")
    session.show(
        answer, lambda: render_tables.render_holds(found, now=time.time(), width=app.width())
    )


def _told(line: Json) -> str:
    if "released" in line:
        return f"The hold has ended: {safe(line['released'])}."
    return sentence(line, "The profile is held.")


COMMANDS = (hold, launch, holds)
