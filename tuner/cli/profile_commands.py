"""`profiles list|show|export|import`."""

import json
import shlex
import time
from typing import Any, TextIO
from urllib.parse import quote

import click
from pydantic import ValidationError

from profiles.errors import ConflictError, InvalidKnobsError
from profiles.knobs import render
from profiles.profile import Profile
from tuner.cli import app, render_tables
from tuner.cli.app import Group, Session, pass_session
from tuner.cli.text import sentence
from tuner.client import AnswerError


@click.group(cls=Group)
def profiles() -> None:
    """Profiles: list, show, export, import."""


@profiles.command("list")
@pass_session
def list_profiles(session: Session) -> None:
    """List every profile of this machine."""
    answer = session.client().get("/v1/profiles")
    session.show(
        answer,
        lambda: render_tables.render_profiles(answer, now=time.time(), width=app.width()),
    )


@profiles.command("show")
@click.argument("profile")
@pass_session
def show_profile(session: Session, profile: str) -> None:
    """Show one profile with its evidence; PROFILE is the start of an id."""
    answer = _get(session, profile)
    shown = {"id": answer.get("id"), **answer["profile"]}
    session.show(answer, lambda: render_tables.render_profile(shown, now=time.time()))


@profiles.command("export")
@click.argument("profile")
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "vllm-args"]),
    default="json",
    show_default=True,
    help="A file for `profiles import`, or what to write behind the vLLM command.",
)
@pass_session
def export_profile(session: Session, profile: str, form: str) -> None:
    """Write one profile to stdout."""
    answer = _get(session, profile)
    found = _parsed(answer["profile"])
    if answer.get("unfit"):
        raise ConflictError(
            f"Cannot export profile {found.id} ({found.knobs.label()}): {answer['unfit']}.",
            hint="`tuner profiles list` shows the others.",
        )
    if form == "json":
        data = {"v": 1, "id": found.id, "profile": found.model_dump(mode="json")}
        click.echo(json.dumps(data, indent=2))
        return
    rendered = render(found.knobs, session.load().drafter_map)
    variables = [f"{name}={value}" for name, value in sorted(rendered.env.items())]
    session.show(
        {"v": 1, "id": found.id, "args": list(rendered.args), "env": rendered.env},
        lambda: shlex.join([*variables, *rendered.args]),
    )


@profiles.command("import")
@click.argument("file", type=click.File("r", encoding="utf-8"))
@pass_session
def import_profile(session: Session, file: TextIO) -> None:
    """Bring a profile that was exported; FILE may be `-`."""
    found = _of_file(file)
    answer = session.client().post(
        "/v1/profiles/import", {"profile": found.model_dump(mode="json")}
    )
    session.show(answer, lambda: sentence(answer, f"Imported {found.knobs.label()}."))


def _get(session: Session, profile: str) -> dict[str, Any]:
    answer = session.client().get(f"/v1/profiles/{quote(profile, safe='')}")
    if not isinstance(answer.get("profile"), dict):
        raise AnswerError("The daemon's answer has no profile in it.")
    return answer


def _parsed(data: dict[str, Any]) -> Profile:
    """The profile itself, without what the daemon adds for display."""
    known = {key: data[key] for key in Profile.model_fields if key in data}
    try:
        return Profile.model_validate(known)
    except ValidationError as error:
        raise AnswerError(f"The daemon's profile cannot be read: {_first(error)}.") from error


def _of_file(file: TextIO) -> Profile:
    try:
        data = json.load(file)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"it is not JSON: {error}.", param_hint="FILE") from error
    if not isinstance(data, dict):
        raise click.BadParameter("it is not a profile.", param_hint="FILE")
    body = data.get("profile", data)
    try:
        found = Profile.model_validate(body)
    except ValidationError as error:
        reason = f"it is no valid profile: {_first(error)}."
        raise click.BadParameter(reason, param_hint="FILE") from error
    claimed = data.get("id", found.id)
    if claimed != found.id:
        raise InvalidKnobsError(
            f"The file says {claimed!r}, but its knobs, platform and class are {found.id}.",
            hint="It was edited after its measurement; its evidence is not of these knobs.",
        )
    return found


def _first(error: ValidationError) -> str:
    detail = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in detail["loc"])
    return f"{place}: {detail['msg']}" if place else detail["msg"]


COMMANDS = (profiles,)
