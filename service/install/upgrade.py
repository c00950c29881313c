"""`tuner upgrade`: an installed service goes on with the code that runs this, engines untouched."""

import sys
from pathlib import Path

from profiles.errors import ExitCode, NotFoundError
from service.install import age, host, plan, units
from service.install.job import Job
from service.install.plan import Change
from tuner.config_file import load
from tuner.starting import configuration

TUNERD, GATEWAY, ONE = "tunerd.service", "tuner-gateway.service", "tuner.service"
RESTART_S = 3600.0  # a gateway may drain for as long as its longest answer takes


def upgrade(job: Job) -> int:
    """Check the configuration, write what differs, restart what still runs older code.

    Raises:
        NotFoundError: nothing is installed.
        ConfigError: this version does not take the configuration; nothing was changed.
    """
    options = job.options
    main = _installed(job.root)
    user, named = said(job.root / units.UNITS / main)
    config = None if named == f"/{units.CONFIG}" else Path(named)
    drain_s = load(config or job.root / units.CONFIG).gateway.drain_s
    if main == TUNERD and options.prefix is None:
        host.need_polkit()
    wanted = host.found(
        root=job.root,
        config=config,
        user=user,
        model=None,
        split=main == TUNERD,
        real=options.prefix is None,
    )
    files = units.files(wanted, units.templates())
    changes = plan.changes(job.root, files)
    differs = runs_older if job.real else _changed
    stale = {name for name in (main, GATEWAY) if differs(name, changes)}
    if not options.dry_run:
        for change in changes:
            change.make()
    if changes:
        job.tell_systemd(files)
    if main == ONE:
        _restart_everything(job, stale, drain_s)
    else:
        _restart_control(job, stale, changes)
    status = job.finished(changes)
    return int(ExitCode.NEGATIVE) if options.dry_run and job.commands else status


def _restart_everything(job: Job, stale: set[str], drain_s: float) -> None:
    if ONE not in stale:
        job.notes.append("tuner.service runs this code already, or does not run.")
        return
    say = f"tuner.service restarts: it drains for up to {drain_s:g} s, then loads the model again."
    sys.stderr.write(f"{say}\n`tuner install --split` has engines that outlive this.\n")
    job.do("systemctl", "restart", ONE, timeout_s=RESTART_S)


def _restart_control(job: Job, stale: set[str], changes: list[Change]) -> None:
    what = {change.path.name: change.what for change in changes}
    if what.get(units.ENGINE) == "create" and stale:
        # an older form, whose engine is a child of tunerd and whose gateway is not in its group
        sys.stderr.write("The engine gets a unit of its own: the model is loaded again, once.\n")
        job.do("systemctl", "restart", GATEWAY, TUNERD, timeout_s=RESTART_S)
        return
    if TUNERD in stale:
        job.do("systemctl", "restart", TUNERD)
        job.notes.append("tunerd runs the new code; engines were left alone and are adopted.")
    else:
        job.notes.append("tunerd runs this code already, or does not run.")
    if GATEWAY in stale and job.options.gateway:
        job.do("systemctl", "restart", GATEWAY, timeout_s=RESTART_S)
    elif GATEWAY in stale:
        job.notes.append(
            "The gateway goes on with the old code until `systemctl restart tuner-gateway`, "
            "which finishes open answers first; `tuner upgrade --gateway` does it now."
        )
    if units.ENGINE in what:
        job.notes.append(f"{units.ENGINE} has changed: it counts from the next engine start on.")
    if "tuner-gateway.socket" in what:
        job.notes.append(
            "tuner-gateway.socket has changed: `systemctl stop tuner-gateway.socket "
            "tuner-gateway; systemctl start tuner-gateway` when a pause does not hurt."
        )


def _installed(root: Path) -> str:
    """The main unit of the form that is installed."""
    for name in (TUNERD, ONE):
        if (root / units.UNITS / name).exists():
            return name
    raise NotFoundError(
        f"There is neither {ONE} nor {TUNERD} in {root / units.UNITS}.", hint="`tuner install`."
    )


def said(unit: Path) -> tuple[str, str]:
    """User and configuration that a unit of ours names."""
    text = unit.read_text(encoding="utf-8")
    values = dict(line.partition("=")[::2] for line in text.splitlines())
    return values.get("User", units.USER), configuration(text) or f"/{units.CONFIG}"


def runs_older(unit: str, changes: list[Change]) -> bool:
    """Whether a unit runs with something else than what is there now."""
    began = host.began(unit)
    return began is not None and (began < age.of_code() or _changed(unit, changes))


def _changed(unit: str, changes: list[Change]) -> bool:
    return any(change.path.name == unit for change in changes)
