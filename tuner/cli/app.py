"""The frame of every command: global options, output, errors, exit codes."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console, RenderableType

from profiles.errors import ExitCode, TunerError
from tuner import config_file
from tuner.client import ControlClient
from tuner.config import Config
from tuner.starting import start_advice
from tuner.version import version

INTERRUPTED = 130  # 128 + SIGINT
BROKEN_PIPE = 141  # 128 + SIGPIPE: the reader of our output has gone
WIDTH_WITHOUT_TERMINAL = 100


@dataclass(kw_only=True)
class Session:
    """What the global options said, and where answers go."""

    config: Path | None = None
    json: bool = False

    def config_path(self) -> Path:
        """The configuration file."""
        return config_file.find(self.config)

    def load(self) -> Config:
        """The whole configuration, checked."""
        return config_file.load(self.config_path())

    def client(self) -> ControlClient:
        """A client of this configuration's daemon."""
        path = self.config_path()
        advice = start_advice(path, named=self.config is not None)
        return ControlClient(config_file.load_paths(path), advice=advice)

    def show(self, answer: object, render: Callable[[], RenderableType | str]) -> None:
        """Put the data on stdout: the answer itself with --json, else its rendering."""
        if self.json:
            click.echo(json.dumps(answer, indent=2))
            return
        content = render()
        click.echo(content if isinstance(content, str) else drawn(content))


def width() -> int:
    """Columns of the terminal or of $COLUMNS."""
    return max(20, shutil.get_terminal_size((WIDTH_WITHOUT_TERMINAL, 24)).columns)


def console() -> Console:
    """Where renderings go: no escape codes without a terminal, with NO_COLOR or TERM=dumb."""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return Console(
        file=sys.stdout,
        width=width(),
        force_terminal=False if plain else None,
        color_system=None if plain else "auto",
        highlight=False,
        markup=False,
        emoji=False,
    )


def drawn(content: RenderableType) -> str:
    """A rendering as text; click writes it, because rich has its own idea of a broken pipe."""
    screen = console()
    with screen.capture() as capture:
        screen.print(content)
    lines = (line.rstrip() for line in capture.get().splitlines())
    return "\n".join(lines)


def say(sentence: str) -> None:
    """Talk to the person: stderr, so that stdout stays data."""
    click.echo(sentence, err=True)


def _want_json(ctx: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's signature
    if value:
        ctx.ensure_object(Session).json = True


class Command(click.Command):
    """A command that takes --json behind its name too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(json_option())


class Group(click.Group):
    """A group whose commands take --json, and whose errors are sentences with exit codes."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(json_option())


class ReaderGoneError(Exception):
    """Nobody reads our output any more; click would turn a BrokenPipeError into exit 1."""


class Program(Group):
    """The outermost group: turns every way to end into an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, keeping a broken pipe apart from click's handling of it."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderGoneError from error

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> Any:  # type: ignore[override]
        """Run the command line and exit."""
        extra.pop("standalone_mode", None)
        words = list(sys.argv[1:] if args is None else args)
        wants_json = "--json" in words
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # no traceback where the locale has no such letter
                stream.reconfigure(errors="backslashreplace")
        try:
            code = self._run(words, wants_json=wants_json, **extra)
            sys.stdout.flush()
        except (BrokenPipeError, ReaderGoneError):
            # the interpreter flushes once more at its end, which must not fail again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = BROKEN_PIPE
        sys.exit(code)

    def _run(self, words: list[str], *, wants_json: bool, **extra: Any) -> int:
        try:
            answer = super().main(args=words, standalone_mode=False, **extra)
        except TunerError as error:
            fail(error.message, error.hint, error.exit_code, as_json=wants_json)
            return int(error.exit_code)
        except click.exceptions.Exit as error:
            return error.exit_code
        except click.Abort:
            return INTERRUPTED
        except click.ClickException as error:
            if wants_json:
                fail(error.format_message(), "", ExitCode.USAGE, as_json=True)
            else:
                error.show()
            return int(ExitCode.USAGE)
        except KeyboardInterrupt:
            return INTERRUPTED
        return answer if isinstance(answer, int) else int(ExitCode.OK)


def fail(message: str, hint: str, code: int, *, as_json: bool) -> None:
    """Say what went wrong on stderr; with --json the same as data on stdout."""
    if as_json:
        error = {"message": message, "hint": hint, "exit_code": int(code)}
        click.echo(json.dumps({"v": 1, "error": error}, indent=2))
    say(f"tuner: {message}")
    if hint:
        say(f"  {hint}")


def json_option() -> click.Option:
    """The --json option of one command."""
    return click.Option(
        ["--json"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_want_json,
        help='Print JSON with "v": 1.',
    )


pass_session = click.make_pass_decorator(Session, ensure=True)


@click.group("tuner", cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version(), prog_name="tuner")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help=f"Configuration file; else ${config_file.VARIABLE}, ./{config_file.NAME}, "
    f"~/.config/tuner/{config_file.NAME}, /etc/tuner/{config_file.NAME}.",
)
@click.pass_context
def main(ctx: click.Context, config: Path | None) -> None:
    """Make vLLM as fast as this machine and this traffic allow."""
    session = ctx.ensure_object(Session)
    session.config = None if config is None else config.expanduser().absolute()
