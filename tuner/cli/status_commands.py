"""`status`, `trials`, `history`, `explain`: what the daemon knows."""

import json
import sys
import time
from urllib.parse import quote

import click
from rich.console import RenderableType
from rich.live import Live

from profiles.errors import UnreachableError
from tuner.cli import app, render_explain, render_status, render_tables
from tuner.cli.app import Command, Session, pass_session
from tuner.version import version

REFRESH_S = 1.0
LIMIT = click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Newest first."
)


@click.command(cls=Command)
@click.option("--watch", is_flag=True, help="Refresh every second; Ctrl-C ends it.")
@pass_session
def status(session: Session, *, watch: bool) -> None:
    """Show what is in force, and why."""
    client = session.client()
    answer = client.get("/v1/status")
    theirs = answer.get("version")
    if theirs != version():
        app.say(f"tuner: The daemon is version {theirs}, this command is {version()}.")

    def page() -> RenderableType:
        return render_status.render_status(answer, now=time.time(), width=app.width())

    if not watch:
        session.show(answer, page)
        return
    live = sys.stdout.isatty() and not session.json
    screen = Live(console=app.console(), auto_refresh=False, screen=True) if live else None
    if screen is not None:
        screen.start()
    try:
        while True:
            if screen is not None:
                screen.update(page(), refresh=True)
            elif session.json:
                click.echo(json.dumps(answer))  # one answer a line
            else:
                session.show(answer, page)
                click.echo()
            time.sleep(REFRESH_S)
            try:
                answer = client.get("/v1/status")
            except UnreachableError as error:  # a restart of the daemon must not end the watch
                answer = {"v": 1, "mode": "unreachable", "sentence": error.message}
    finally:
        if screen is not None:
            screen.stop()


@click.command(cls=Command)
@LIMIT
@pass_session
def trials(session: Session, limit: int) -> None:
    """List engine starts and what they gave."""
    answer = session.client().get(f"/v1/trials?limit={limit}")
    found = render_tables.items(answer, "trials")
    session.show(
        answer,
        lambda: render_tables.render_trials(found, now=time.time(), width=app.width()),
    )


@click.command(cls=Command)
@LIMIT
@pass_session
def history(session: Session, limit: int) -> None:
    """List switches, promotions and failures."""
    answer = session.client().get(f"/v1/history?limit={limit}")
    found = render_tables.items(answer, "events")
    session.show(
        answer,
        lambda: render_tables.render_history(
            found, render_tables.part(answer, "ledger"), now=time.time(), width=app.width()
        ),
    )


@click.command(cls=Command)
@click.argument("workload", metavar="[CLASS]", required=False)
@pass_session
def explain(session: Session, workload: str | None) -> None:
    """Say why each class runs what it runs.

    CLASS is such as greedy.balanced.low, or its beginning; none means all classes in short.
    """
    query = "" if workload is None else f"?workload={quote(workload, safe='')}"
    answer = session.client().get(f"/v1/explain{query}")
    found = render_tables.items(answer, "classes")
    full = workload is not None or len(found) == 1
    session.show(
        answer,
        lambda: (
            render_explain.render_full(found, now=time.time())
            if full
            else render_explain.render_short(answer)
        ),
    )


COMMANDS = (status, trials, history, explain)
