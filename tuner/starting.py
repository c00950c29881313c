"""How the daemon of a configuration is started."""

import shlex
from pathlib import Path

UNITS = Path("/etc/systemd/system")
SERVICES = ("tuner", "tunerd")  # of the one unit and of the three


def start_command(config: Path, *, named: bool, units: Path = UNITS) -> str:
    """The command that starts it: systemd's where a unit was installed with this file.

    `named`: the file was given with --config, so it has to be given again.
    """
    words = f" --config {config} "
    for service in SERVICES:
        try:
            text = (units / f"{service}.service").read_text(encoding="utf-8")
        except (OSError, ValueError):
            continue
        if any(line.startswith("ExecStart=") and words in f"{line} " for line in text.splitlines()):
            return f"systemctl start {service}"
    return f"tuner --config {shlex.quote(str(config))} run" if named else "tuner run"
