"""How the daemon of a configuration is started."""

import shlex
from pathlib import Path

UNITS = Path("/etc/systemd/system")
SERVICES = ("tuner", "tunerd")  # of the one unit and of the three
MARK = "Written by `tuner install`"
_ADVICE = "Start it with `{}`, or name the file it was started with by --config"
START = f"{_ADVICE.format('tuner run')}."


def start_advice(config: Path, *, named: bool, units: Path = UNITS) -> str:
    """What to do when the daemon of this file does not answer.

    An installed service is started by systemd; one of another file is named, since a `tuner.toml`
    in the working directory comes before it. `named`: the file was given with --config, so it has
    to be given again.
    """
    service, file = installed(units)
    if file == config:
        command = f"systemctl start {service}"
    elif named:
        command = f"tuner --config {shlex.quote(str(config))} run"
    else:
        command = "tuner run"
    advice = _ADVICE.format(command)
    return f"{advice}." if file in {None, config} else f"{advice}: the service has {file}."


def installed(units: Path) -> tuple[str, Path | None]:
    """The service that `tuner install` wrote, and its file; no file where there is none."""
    for service in SERVICES:
        try:
            text = (units / f"{service}.service").read_text(encoding="utf-8")
            file = configuration(text) if is_ours(text) else None
        except (OSError, ValueError):
            continue
        if file is not None:
            return service, Path(file)
    return "", None


def is_ours(text: str) -> bool:
    """Whether `tuner install` wrote a file, by its first line."""
    return MARK in text.partition("\n")[0]


def configuration(unit: str) -> str | None:
    """The file that a unit of ours names in its command, if it names one."""
    for line in unit.splitlines():
        name, _, command = line.partition("=")
        words = shlex.split(command) if name == "ExecStart" else []
        if "--config" in words[:-1]:
            file = words[words.index("--config") + 1]
            return file.replace("$$", "$").replace("%%", "%")
    return None
