"""`pin`, `unpin`, `pins`, `use`: the operator's own choice."""

from urllib.parse import quote

import click

from tuner.cli import app, render_tables
from tuner.cli.app import Command, Session, pass_session
from tuner.cli.text import safe, sentence


@click.command(cls=Command)
@click.argument("application")
@click.argument("profile")
@pass_session
def pin(session: Session, application: str, profile: str) -> None:
    """Serve an application with one profile.

    Whatever the class of its traffic; PROFILE is the start of an id.
    """
    body = {"application": application, "profile": profile}
    answer = session.client().post("/v1/pins", body)
    session.show(answer, lambda: sentence(answer, f"{safe(application)} is pinned."))


@click.command(cls=Command)
@click.argument("application")
@pass_session
def unpin(session: Session, application: str) -> None:
    """Let the class of its traffic decide again."""
    # `.` and `..` would be taken as steps in the path
    name = quote(application, safe="").replace(".", "%2E")
    answer = session.client().delete(f"/v1/pins/{name}")
    session.show(answer, lambda: sentence(answer, f"{safe(application)} is not pinned."))


@click.command(cls=Command)
@pass_session
def pins(session: Session) -> None:
    """List pinned applications."""
    answer = session.client().get("/v1/pins")
    found = render_tables.items(answer, "pins")
    session.show(answer, lambda: render_tables.render_pins(found, width=app.width()))


@click.command(cls=Command)
@click.argument("profile", metavar="PROFILE|default|auto")
@pass_session
def use(session: Session, profile: str) -> None:
    """Put a profile or the default in force.

    `auto` lets the daemon decide again.
    """
    answer = session.client().post("/v1/use", {"profile": profile})
    session.show(answer, lambda: sentence(answer, f"Asked for {safe(profile)}."))


COMMANDS = (pin, unpin, pins, use)
