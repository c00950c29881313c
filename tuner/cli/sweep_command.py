"""`sweep`: the complete table of draft lengths, followed to its end and written to files."""

import contextlib
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.live import Live

from profiles.classes import Lengths, RequestClass, Sampling
from profiles.errors import ExitCode, NotFoundError, TunerError
from tuner import sweep_plot, sweep_report
from tuner.cli import app, render_sweep
from tuner.cli.app import Command, Session, pass_session
from tuner.cli.text import sentence
from tuner.client import ControlClient, Json

POLL_S = 0.5
PATIENCE_POLLS = 40  # without an answer
BEGIN_POLLS = 300  # until an accepted sweep shows up: running answers may be drained before it
LONGEST_DRAFT = 1024  # tokens; a typing error must not become a million cells
LENGTHS = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)
DEFAULT_CONCURRENCIES = (1, 8)
TYPED = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


class OutputError(TunerError):
    """The files of the sweep cannot be written."""

    hint = "Name a folder that you can write to by --out."
    exit_code = ExitCode.USAGE


def _lengths(_: click.Context, __: click.Parameter, text: str | None) -> list[int] | None:
    """`0-15` and `0,1,3` as numbers."""
    if text is None:
        return None
    found: set[int] = set()
    for part in text.split(","):
        match = LENGTHS.fullmatch(part.strip())
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if low > high or high > LONGEST_DRAFT:
            raise click.BadParameter(
                f"{part!r} is no draft length and no range of them; write 0-15 or 0,1,3,8 "
                f"with numbers up to {LONGEST_DRAFT}."
            )
        found |= set(range(low, high + 1))
    return sorted(found)


def _concurrencies(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> list[int]:
    """Numbers of requests, in the order of their size."""
    parts = [part.strip() for text in texts for part in text.split(",")]
    for part in parts:
        if not re.fullmatch(r"0*[1-9]\d{0,5}", part, re.ASCII):
            raise click.BadParameter(f"{part!r} is not a number of requests of 1 or more.")
    return sorted({int(part) for part in parts})


def _class(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    """A class without its load, which the concurrency decides."""
    known = [f"{sampling}.{lengths}" for sampling in Sampling for lengths in Lengths]
    if text is not None and text not in known:
        near = next((name for name in known if text.startswith(f"{name}.")), None)
        say = f"leave out its load: {near}." if near else f"known are {', '.join(known)}."
        raise click.BadParameter(f"{text!r} is not a class of requests; {say}")
    return None if text is None else str(RequestClass.parse(text))


def _seconds(_: click.Context, __: click.Parameter, value: float) -> float:
    """A duration; click lets nan through its ranges."""
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a number of seconds.")
    return value


@click.command(cls=Command)
@click.option("--drafter", metavar="NAME", help="Of the configuration; else the daemon chooses.")
@click.option("--lengths", callback=_lengths, help="0-15 or 0,1,3,8; default: 0 to its longest.")
@click.option(
    "--concurrency",
    multiple=True,
    callback=_concurrencies,
    help="Requests at a time, such as 1,8; repeatable.  [default: 1,8]",
)
@click.option("--class", "workload", metavar="CLASS", callback=_class, help="greedy.balanced, ...")
@click.option("--live", is_flag=True, help="Measure on the traffic that is there.")
@click.option("--replay", is_flag=True, help="Measure on replayed requests; the default.")
@click.option("--rounds", type=click.IntRange(1, 10_000), default=8, show_default=True)
@click.option(
    "--slice-s",
    type=click.FloatRange(0, 3600, min_open=True),
    default=0.25,
    show_default=True,
    callback=_seconds,
    help="Seconds of one cell in one round.",
)
@click.option("--no-off", is_flag=True, help="Spare the engine start without speculation.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="For the four files.  [default: ./sweep-DRAFTER-TIME]",
)
@click.option("--force", is_flag=True, help="Write into a folder that has files in it.")
@click.option("--stop", is_flag=True, help="End the sweep; what it measured is kept.")
@pass_session
@click.pass_context
def sweep(
    ctx: click.Context,
    session: Session,
    drafter: str | None,
    lengths: list[int] | None,
    concurrency: list[int],
    workload: str | None,
    *,
    live: bool,
    replay: bool,
    rounds: int,
    slice_s: float,
    no_off: bool,
    out: Path | None,
    force: bool,
    stop: bool,
) -> int:
    """Measure every draft length at chosen concurrencies.

    Writes sweep.md, sweep.csv, sweep.json and sweep.svg. Exit 1 when it did not come to its end.
    """
    given = {name for name in ctx.params if ctx.get_parameter_source(name) in TYPED}
    if stop and given - {"stop"}:
        raise click.UsageError("--stop goes with no other option but --json.")
    if live and replay:
        raise click.UsageError("--live and --replay exclude each other.")
    if live and concurrency:
        raise click.UsageError(
            "--live measures the batch sizes that come; leave --concurrency out."
        )
    client = session.client()
    if stop:
        answer = client.post("/v1/sweep/stop")
        session.show(answer, lambda: sentence(answer, "The sweep is stopping."))
        return int(ExitCode.OK)
    if out is not None or not session.json:
        _check_folder(out or Path(), force=force or out is None)
    before = client.get("/v1/sweep")
    started = client.post(
        "/v1/sweep",
        {
            "drafter": drafter,
            "lengths": lengths,
            "concurrencies": [] if live else concurrency or list(DEFAULT_CONCURRENCIES),
            "class": workload,
            "source": sweep_report.LIVE if live else sweep_report.REPLAY,
            "rounds": rounds,
            "slice_s": slice_s,
            "off": not no_off,
        },
    )
    app.say(sentence(started, "The sweep has started."))
    try:
        with _display(session) as display:
            last = follow(client, before, display)
    except KeyboardInterrupt:
        app.say("The sweep goes on; `tuner sweep --stop` ends it.")
        raise
    return _finish(session, last, out if out is not None or session.json else _folder(last))


def follow(client: ControlClient, before: Json, display: Callable[[Json], None]) -> Json:
    """The answer at the end of the sweep that was just started; `before` is what was there."""
    seen, quiet = False, 0
    while True:
        try:
            answer = client.get("/v1/sweep")
        except TunerError as error:  # one late answer must not end the watch of an hour
            if not error.retryable or quiet >= PATIENCE_POLLS:
                raise
        else:
            state = answer.get("state")
            is_new = answer.get("started_at") != before.get("started_at")
            if state != "none" and (seen or is_new or state == "running"):
                seen, quiet = True, -1
                display(answer)
                if state != "running":
                    return answer
            elif seen or quiet >= BEGIN_POLLS:
                raise NotFoundError(
                    "The daemon knows nothing of the sweep any more."
                    if seen
                    else "The daemon accepted the sweep but did not begin it.",
                    hint="Its log says why; `tuner status` shows what it does now.",
                )
        quiet += 1
        time.sleep(POLL_S)


def _finish(session: Session, last: Json, folder: Path | None) -> int:
    """Print the table, write the files, and say how it ended."""
    session.show(last, lambda: render_sweep.result(last, width=app.width()))
    if folder is not None and not any(row.tok_s for row in sweep_report.every_row(last)):
        app.say("Nothing was measured, so no file was written.")
    elif folder is not None:
        try:
            write(folder, last)
        except OutputError as error:  # with --json the answer is on stdout already
            app.fail(error.message, error.hint, error.exit_code, as_json=False)
            return int(error.exit_code)
        app.say(f"Written to {folder}: {', '.join(FILES)}.")
    if last.get("state") == "done":
        return int(ExitCode.OK)
    app.say(f"tuner: The sweep is not complete: {sentence(last, str(last.get('state')))}")
    return int(ExitCode.NEGATIVE)


@contextlib.contextmanager
def _display(session: Session) -> Iterator[Callable[[Json], None]]:
    """Show the sweep while it runs: a chart on a terminal, else a line per round on stderr."""
    screen = app.console()
    if session.json or not (sys.stdout.isatty() and screen.is_terminal):
        yield _lines()
        return
    unicode = screen.encoding.lower().startswith("utf")
    with Live(
        console=screen, auto_refresh=False, transient=True, vertical_overflow="crop"
    ) as shown:

        def draw(answer: Json) -> None:
            screen.width = app.width()  # the window may have another size by now
            page = render_sweep.chart(
                answer, width=screen.width, height=screen.height, unicode=unicode
            )
            shown.update(page, refresh=True)

        yield draw


def _lines() -> Callable[[Json], None]:
    """Says a line whenever a round has been finished."""
    said: list[object] = [0]

    def draw(answer: Json) -> None:
        finished = sweep_report.whole(answer.get("round"))
        if finished and finished != said[-1]:
            said.append(finished)
            app.say(render_sweep.progress(answer))

    return draw


def _folder(answer: Json) -> Path:
    """A new name in the working directory, which the drafter's name cannot leave."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", str(answer.get("drafter") or "none"))
    at = sweep_report.known(answer.get("started_at")) or time.time()
    return Path(f"sweep-{name}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(at))}")


def _check_folder(folder: Path, *, force: bool) -> None:
    """Refuse before an hour of measuring what would fail after it.

    Raises:
        click.BadParameter: it cannot be written, or has files in it.
    """
    try:
        if folder.is_dir() and not force and any(folder.iterdir()):
            raise click.BadParameter(
                f"{folder} has files in it; name another folder or add --force.",
                param_hint="--out",
            )
        above = next(
            path for path in (folder.absolute(), *folder.absolute().parents) if path.exists()
        )
        writable = above.is_dir() and os.access(above, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        raise click.BadParameter(
            f"{folder} cannot be written; name a folder that you can write to.",
            param_hint="--out",
        )


FILES: dict[str, Callable[[sweep_report.Item], str]] = {
    "sweep.md": sweep_report.markdown,
    "sweep.csv": sweep_report.table_csv,
    "sweep.json": lambda answer: f"{json.dumps(answer, indent=2)}\n",
    "sweep.svg": sweep_plot.svg,
}


def write(folder: Path, answer: dict[str, Any]) -> None:
    """Write the four files, without secrets.

    Raises:
        OutputError: the folder cannot be written.
    """
    shown = sweep_report.published(answer)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in FILES.items():
            (folder / name).write_text(content(shown), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputError(
            f"The files of the sweep cannot be written: {folder}: {reason}."
        ) from error


COMMANDS = (sweep,)
