"""`python -m service.install install|uninstall`: what `tuner install` becomes."""

import argparse
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from profiles.errors import DeniedError, ExitCode, StoreError, TunerError, UnavailableError
from service.install import host, plan, units
from service.install.plan import Change

PURGED = ("etc/tuner", "var/lib/tuner", "var/cache/tuner", "run/tuner")


@dataclass(kw_only=True)
class Job:
    """One run: where, and what is said at its end."""

    options: argparse.Namespace
    root: Path
    real: bool  # for this machine, and its systemd runs
    notes: list[str] = field(default_factory=list)
    commands: list[list[str]] = field(default_factory=list)

    def do(self, *command: str) -> None:
        """Run a command of systemd now; where it does not run, leave it to the reader."""
        if self.real and not self.options.dry_run:
            host.run(*command)
        else:
            self.commands.append(list(command))


def main(argv: list[str] | None = None) -> int:
    """The exit status is one of `profiles.errors.ExitCode`."""
    parser = argparse.ArgumentParser(prog="tuner", description=__doc__)
    parser.add_argument("action", choices=("install", "uninstall"))
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--prefix", type=Path)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--user", default=units.USER)
    parser.add_argument("--model")
    parser.add_argument("--split", action="store_true")
    parser.add_argument("--purge", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    root = Path("/") if options.prefix is None else options.prefix.absolute()
    job = Job(options=options, root=root, real=options.prefix is None and host.RUNNING.is_dir())
    try:
        if options.prefix is None and not options.dry_run and os.geteuid() != 0:
            raise DeniedError(
                "Only root can install a system service.",
                hint=f"sudo {sys.argv[0] if argv is None else 'tuner'}, or --prefix DIR.",
            )
        return install(job) if options.action == "install" else uninstall(job)
    except TunerError as error:
        if options.json:
            body = {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}
            out(json.dumps({"v": 1, "error": body}, indent=2))
        sys.stderr.write(f"tuner: {error.sentence()}\n")
        return int(error.exit_code)


def install(job: Job) -> int:
    """Write what differs, tell systemd, ask the doctor."""
    options = job.options
    wanted = host.found(
        root=job.root,
        config=None if options.config is None else options.config.expanduser().absolute(),
        user=options.user,
        model=options.model,
        split=options.split,
        real=options.prefix is None,
    )
    templates = {each.name: each.read_text("utf-8") for each in units.template_folder().iterdir()}
    changes = plan.changes(job.root, units.files(wanted, templates))
    config = job.root / units.CONFIG if options.config is None else Path(wanted.config)
    if not config.exists():
        first = units.first_config(wanted, templates)
        changes.append(Change(path=config, before=None, after=first))
    gone = [change.path.name for change in changes if change.what == "remove"]
    gone = [name for name in gone if name in {*units.ONE, *units.SPLIT}]
    if gone:  # the other form, while systemd still knows its units
        job.do("systemctl", "disable", "--now", *gone)
    if not options.dry_run:
        for change in changes:
            change.make()
    if wanted.user == units.USER:
        job.do("systemd-sysusers", f"/{units.SYSUSERS}")
    job.do("systemd-tmpfiles", "--create", f"/{units.TMPFILES}")
    job.do("systemctl", "daemon-reload")
    boot = units.enabled(split=options.split)
    job.do("systemctl", "enable", *boot)
    # a socket in use cannot be restarted; its service brings it along
    services = [name for name in reversed(boot) if name.endswith(".service")]
    start = f"`systemctl restart {' '.join(services)}`"
    if options.dry_run:
        return finished(job, changes)
    if not host.has_model(config):
        job.notes.append(f"Set engine.model in {config}, then {start}.")
        return finished(job, changes)
    status = doctor(job)
    job.notes.append(f"To begin: {start}.")
    return finished(job, changes) or status


def doctor(job: Job) -> int:
    """`tuner doctor` in the sandbox of the unit; its findings go to standard error."""
    if not job.real:
        job.commands.append(["systemctl", "start", "tuner-doctor"])
        return 0
    since = time.time()
    try:
        host.run("systemctl", "start", "tuner-doctor")
    except UnavailableError:
        job.notes.append("The doctor found something: see above.")
        status = int(ExitCode.NEGATIVE)
    else:
        status = 0
    said = host.run("journalctl", "-u", "tuner-doctor", "-o", "cat", f"--since=@{since:.0f}")
    sys.stderr.write(said.stdout)
    return status


def uninstall(job: Job) -> int:
    """Stop and remove; with --purge the data too."""
    options = job.options
    changes = plan.changes(job.root, units.every_file())
    loaded = {*units.ONE, *units.SPLIT} & {change.path.name for change in changes}
    if loaded:
        job.do("systemctl", "disable", "--now", *sorted(loaded))
    folders = [job.root / name for name in PURGED if (job.root / name).exists()]
    if options.dry_run:
        if options.purge:
            job.notes += [f"{folder} would be removed." for folder in folders]
        return finished(job, changes)
    for change in changes:
        change.make()
    if loaded:
        job.do("systemctl", "daemon-reload")
    if options.purge:
        for folder in folders:
            try:
                shutil.rmtree(folder)
            except OSError as error:
                raise StoreError(f"Cannot remove {folder}: {error.strerror}.", hint="") from error
        job.notes += [f"{folder} is removed." for folder in folders]
        if options.prefix is None and host.user_exists(units.USER):
            job.do("userdel", units.USER)
    else:
        job.notes += [f"{folder} is kept; --purge removes it." for folder in folders]
    return finished(job, changes)


def out(text: str) -> None:
    """One answer on standard output."""
    sys.stdout.write(f"{text}\n")


def finished(job: Job, changes: list[Change]) -> int:
    """Say what was done; a dry run that would change something is a no, as with diff."""
    options = job.options
    if options.json:
        answer = {
            "v": 1,
            "dry_run": options.dry_run,
            "files": [{"path": str(c.path), "what": c.what, "diff": c.diff()} for c in changes],
            "commands": job.commands,
            "notes": job.notes,
        }
        out(json.dumps(answer, indent=2))
    else:
        for change in changes:
            out(change.diff() if options.dry_run else f"{change.what} {change.path}")
        if not changes:
            out("Every file is as it should be.")
        for command in job.commands:
            out(f"{'would run' if options.dry_run else 'to be run'}: {' '.join(command)}")
        for note in job.notes:
            out(note)
    return int(ExitCode.NEGATIVE) if options.dry_run and changes else 0


if __name__ == "__main__":
    sys.exit(main())
