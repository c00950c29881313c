"""A configuration that was written for the foreground: the service gets a copy of its own.

Its folders would be in the service's home, where nobody finds the sockets.
"""

import stat
from pathlib import Path

from profiles.errors import ConfigError, ConflictError
from service.install import host, units
from service.install.plan import Change
from tuner.config_checks import anchored


def is_personal(file: Path) -> bool:
    """Whether a file leaves its state to the home of whoever runs it.

    Raises:
        ConfigError: it is no TOML, or cannot be read.
    """
    return file.exists() and "state_dir" not in host.read(file)


def copied(file: Path, target: Path) -> list[Change]:
    """The service's copy of a personal file, if it is not there yet.

    Raises:
        ConfigError: it would say something else there, or tell everybody what it says.
        ConflictError: another file is there.
    """
    values = host.read(file)
    if anchored(values, file.parent) != values:
        raise ConfigError(
            f"{file} has paths that begin at its own folder or at a home, and the service reads "
            f"a copy in {target}.",
            hint="Write them in full.",
        )
    if not file.stat().st_mode & stat.S_IROTH:
        raise ConfigError(
            f"Not everybody may read {file}, and everybody could read the service's copy.",
            hint=f"`chmod o+r {file}` if nothing in it is secret, or set state_dir in it: then "
            "the service reads the file itself.",
        )
    before = target.read_text(encoding="utf-8") if target.exists() else None
    after = _text(file, runs_in=values.get("runtime_dir"))
    if before not in {None, after}:
        raise ConflictError(
            f"{target} is there already, and is not what {file} would give.",
            hint=f"Change {target} and leave --config out, or move it away.",
        )
    return [] if before else [Change(path=target, before=None, after=after)]


def _text(file: Path, *, runs_in: object) -> str:
    lines = [
        f"# Copied by `tuner install` from {file}, with folders of the service; this one is read.",
        "# Everybody may read this file: keep secrets out of it.",
        f'state_dir = "{units.STATE}"',
        *([] if runs_in else [f'runtime_dir = "{units.RUN}"']),
    ]
    return "\n".join([*lines, "", file.read_text(encoding="utf-8")])
