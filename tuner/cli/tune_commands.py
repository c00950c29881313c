"""`tune`: start, follow and stop a search."""

import difflib
import time
from typing import Any

import click

from profiles.classes import LOADS, Lengths, Sampling, WorkloadClass
from profiles.errors import NotFoundError
from tuner.cli import app, render_status
from tuner.cli.app import Command, Session, pass_session
from tuner.cli.text import sentence
from tuner.client import ControlClient

POLL_S = 1.0
PATIENCE_POLLS = 5  # a search that was accepted shows up within this many polls


@click.command(cls=Command)
@click.argument("classes", metavar="[CLASS]...", nargs=-1)
@click.option("--stop", is_flag=True, help="End the search; what it measured is kept.")
@click.option("--wait", is_flag=True, help="Follow the search to its end.")
@pass_session
def tune(session: Session, classes: tuple[str, ...], *, stop: bool, wait: bool) -> None:
    """Search the best configuration for classes of traffic.

    CLASS is such as greedy.balanced or greedy.balanced.low; none means every class seen.
    """
    for text in classes:
        _check(text)
    if stop and (classes or wait):
        raise click.UsageError("--stop takes neither a class nor --wait.")
    client = session.client()
    if stop:
        answer = client.post("/v1/tune/stop")
        session.show(answer, lambda: sentence(answer, "The search is stopping."))
        return
    answer = client.post("/v1/tune", {"classes": expanded(client, classes)})
    if not wait:
        session.show(answer, lambda: sentence(answer, "The search has started."))
        return
    try:
        last = follow(client)
    except KeyboardInterrupt:
        app.say("The search goes on; `tuner tune --stop` ends it.")
        raise
    session.show(
        last,
        lambda: "\n".join(
            [
                sentence(last.get("tuning") or {}, "The search has ended."),
                *render_status.classes(last.get("traffic") or {}, app.width()),
            ]
        ),
    )


def expanded(client: ControlClient, classes: tuple[str, ...]) -> list[str]:
    """Full classes; `greedy.balanced` stands for every load of it that was seen."""
    found: list[str] = []
    seen: list[str] = []
    if any(not _is_full(text) for text in classes):
        seen = sorted(client.get("/v1/classes").get("seen") or {})
    for text in classes:
        matches = [text] if _is_full(text) else [w for w in seen if w.startswith(f"{text}.")]
        if not matches:
            raise NotFoundError(
                f"No traffic of class {text} was seen.",
                hint=f"Name its load to tune it without traffic, such as {text}.{LOADS[0]}.",
            )
        found += matches
    return list(dict.fromkeys(found))


def follow(client: ControlClient) -> dict[str, Any]:
    """The status at the end of the search; its progress goes to stderr."""
    seen, quiet, said = False, 0, ""
    while True:
        status = client.get("/v1/status")
        tuning = status.get("tuning") or {}
        if tuning.get("active"):
            seen = True
            line = render_status.tuning(tuning)
            if line != said:
                app.say(line)
                said = line
        else:
            quiet += 1
            if seen or quiet >= PATIENCE_POLLS:
                return status
        time.sleep(POLL_S)


def _is_full(text: str) -> bool:
    """Whether the class names its load."""
    try:
        WorkloadClass.parse(text)
    except ValueError:
        return False
    return True


def _check(text: str) -> None:
    """Refuse what is no class before the daemon is asked."""
    requests = [f"{sampling}.{lengths}" for sampling in Sampling for lengths in Lengths]
    known = [*requests, *(f"{request}.{load}" for request in requests for load in LOADS)]
    if text not in known:
        near = difflib.get_close_matches(text, known, n=1)
        say = f"did you mean {near[0]}?" if near else f"classes look like {known[0]}.{LOADS[0]}."
        raise click.BadParameter(f"{text!r} is not a class; {say}", param_hint="CLASS")


COMMANDS = (tune,)
