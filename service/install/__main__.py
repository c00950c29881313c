"""`python -m service.install install|upgrade|uninstall`: what `tuner install` becomes."""

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path

from profiles.errors import DeniedError, ExitCode, StoreError, TunerError, UnavailableError
from service.engine_unit import guarded
from service.install import host, plan, units
from service.install.job import Job, out
from service.install.personal import copied, is_personal, left_behind
from service.install.plan import Change
from service.install.upgrade import upgrade

PURGED = (
    "etc/tuner", "var/lib/tuner", "var/cache/tuner", "run/tuner",
    "var/cache/tuner-engine", "var/log/tuner-engine", "run/tuner-engine",
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """The exit status is one of `profiles.errors.ExitCode`."""
    parser = argparse.ArgumentParser(prog="tuner", description=__doc__)
    parser.add_argument("action", choices=tuple(ACTIONS))
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--prefix", type=Path)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--user", default=units.USER)
    parser.add_argument("--model")
    parser.add_argument("--split", action="store_true")
    parser.add_argument("--purge", action="store_true")
    parser.add_argument("--gateway", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    root = Path("/") if options.prefix is None else options.prefix.absolute()
    job = Job(options=options, root=root, real=options.prefix is None and host.RUNNING.is_dir())
    try:
        if options.prefix is None and not options.dry_run and os.geteuid() != 0:
            raise DeniedError(
                f"Only root can {options.action} a system service.",
                hint=f"sudo {sys.argv[0] if argv is None else 'tuner'}, or --prefix DIR.",
            )
        return ACTIONS[options.action](job)
    except TunerError as error:
        if options.json:
            body = {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}
            out(json.dumps({"v": 1, "error": body}, indent=2))
        sys.stderr.write(f"tuner: {error.sentence()}\n")
        return int(error.exit_code)


def install(job: Job) -> int:
    """Write what differs, tell systemd, ask the doctor."""
    options = job.options
    if options.split and options.prefix is None:
        host.need_polkit()
    own = job.root / units.CONFIG
    given = None if options.config is None else options.config.expanduser().absolute()
    personal = given if given not in {None, own} and is_personal(given) else None
    wanted = host.found(
        root=job.root,
        config=None if personal else given,
        personal=personal,
        user=options.user,
        model=options.model,
        split=options.split,
        real=options.prefix is None,
    )
    templates = units.templates()
    files = units.files(wanted, templates)
    changes = plan.changes(job.root, files)
    config = own if given is None or personal else given
    if personal is not None:
        changes += copied(personal, config)
        job.notes += left_behind(job.root)
    if job.real and options.split and config.exists():
        guarded(config)  # what the engine's launcher would say at its first start
    if personal is None and not config.exists():
        first = units.first_config(wanted, templates)
        changes.append(Change(path=config, before=None, after=first))
    # the other form, while systemd still knows its units
    stop(job, {change.path.name for change in changes if change.what == "remove"})
    if not options.dry_run:
        for change in changes:
            change.make()
    job.tell_systemd(files)
    boot = units.enabled(split=options.split)
    job.do("systemctl", "enable", *boot)
    # a socket in use cannot be restarted; its service brings it along
    services = [name for name in reversed(boot) if name.endswith(".service")]
    start = f"`systemctl restart {' '.join(services)}`"
    if options.dry_run:
        return job.finished(changes)
    if not host.has_model(config):
        job.notes.append(f"Set engine.model in {config}, then {start}.")
        return job.finished(changes)
    status = doctor(job)
    job.notes.append(f"To begin: {start}.")
    return job.finished(changes) or status


def stop(job: Job, names: set[str]) -> bool:
    """Stop and disable those of the units that systemd may have; whether there are any."""
    loaded = {*units.ONE, *units.SPLIT} & names
    if loaded:
        job.do("systemctl", "disable", "--now", *sorted(loaded))
    if units.ENGINE in names:  # last: nobody starts another one any more
        job.do("systemctl", "stop", *units.ENGINES, units.SLICE)
    return bool(loaded)


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
    loaded = stop(job, {change.path.name for change in changes})
    folders = [job.root / name for name in PURGED if (job.root / name).exists()]
    if options.dry_run:
        if options.purge:
            job.notes += [f"{folder} would be removed." for folder in folders]
        return job.finished(changes)
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
        for name in (units.USER, units.ENGINE_USER):
            if options.prefix is None and host.user_exists(name):
                job.do("userdel", name)
    else:
        job.notes += [f"{folder} is kept; --purge removes it." for folder in folders]
    return job.finished(changes)


ACTIONS = {"install": install, "upgrade": upgrade, "uninstall": uninstall}

if __name__ == "__main__":
    sys.exit(main())
