"""`doctor`: is everything here that the daemon needs?"""

import click

from profiles.errors import ExitCode
from tuner.cli import app, render_tables
from tuner.cli.app import Command, Session, pass_session


@click.command(cls=Command)
@click.option("--engine", is_flag=True, help="Only what an engine needs, as the engine's user.")
@pass_session
def doctor(session: Session, *, engine: bool) -> int:
    """Check machine, configuration and daemon.

    Exit 1 when something fails; a warning is no failure.
    """
    # it needs half of the distribution, which would slow every other command down
    from tuner import doctor as checks  # noqa: PLC0415

    app.say("Checking; asking vLLM for its flags takes some seconds.")
    found = [check.as_json() for check in checks.run(session.config, engine=engine)]
    failed = sum(check["state"] == "fail" for check in found)
    session.show(
        {"v": 1, "ok": failed == 0, "checks": found}, lambda: render_tables.render_checks(found)
    )
    return int(ExitCode.NEGATIVE if failed else ExitCode.OK)


COMMANDS = (doctor,)
