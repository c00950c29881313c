"""`config show|check` and `completion`."""

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from profiles.errors import ConfigError, ExitCode
from tuner import config_text
from tuner.cli import render_tables
from tuner.cli.app import Command, Group, Session, fail, pass_session
from tuner.config_file import ConfigFileError, Problem

SHELLS = ("bash", "zsh", "fish")


@click.group(cls=Group)
def config() -> None:
    """The configuration: show or check it."""


@config.command("show")
@click.option("--running", is_flag=True, help="What the daemon runs with, not what the file says.")
@pass_session
def show_config(session: Session, *, running: bool) -> None:
    """Show every setting, defaults included.

    As TOML, without secrets.
    """
    if running:
        answer = session.client().get("/v1/config")
        shown = render_tables.part(answer, "config")
        session.show(answer, lambda: config_text.to_toml(shown))
        return
    path = session.config_path()
    loaded = session.load()
    values = config_text.redacted(loaded.model_dump(mode="json"))
    session.show(
        {"v": 1, "path": str(path), "config": values},
        lambda: f"# {path}\n{config_text.to_toml(values, loaded)}",
    )


@config.command("check")
@pass_session
def check_config(session: Session) -> int:
    """Name everything that is wrong in the file."""
    path = session.config_path()
    try:
        session.load()
    except ConfigError as error:
        if not session.json:
            raise
        problems = (
            error.problems
            if isinstance(error, ConfigFileError)
            else (Problem(path="", line=None, sentence=error.message),)
        )
        session.show({"v": 1, "path": str(path), "ok": False, "problems": _json(problems)}, str)
        fail(error.message, error.hint, ExitCode.CONFIG, as_json=False)
        return int(ExitCode.CONFIG)
    session.show(
        {"v": 1, "path": str(path), "ok": True, "problems": []}, lambda: f"{path} is valid."
    )
    return int(ExitCode.OK)


def _json(problems: tuple[Problem, ...]) -> list[dict[str, object]]:
    return [{"key": item.path, "line": item.line, "sentence": item.sentence} for item in problems]


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(SHELLS), required=False)
@click.pass_context
def completion(ctx: click.Context, shell: str | None) -> None:
    """Print the completion script of a shell.

    Without a name, of the shell in $SHELL.
    """
    name = shell or Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise click.UsageError(f"Name a shell: {', '.join(SHELLS)}.")
    kind = get_completion_class(name)
    if kind is None:  # pragma: no cover - click knows all three
        raise click.UsageError(f"click has no completion for {name}.")
    script = kind(ctx.find_root().command, {}, "tuner", "_TUNER_COMPLETE")
    # `source()` would run the shell to ask for its version
    text = script.source_template % script.source_vars()
    ctx.ensure_object(Session).show({"v": 1, "shell": name, "script": text}, lambda: text)


COMMANDS = (config, completion)
