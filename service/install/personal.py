"""A configuration that was written for the foreground: the service gets a copy of its own.

Its folders would be in the service's home, where nobody finds the sockets.
"""

import stat
from collections.abc import Mapping
from pathlib import Path

from profiles.errors import ConfigError, ConflictError
from service.install import host, units
from service.install.plan import Change
from tuner.config_checks import anchored
from tuner.config_text import SECRET

# of the service, when its file named none, and now
_STATES = ("var/lib/tuner/.local/state/tuner", "var/lib/tuner")


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
    secrets = _secrets(values)
    if secrets or not file.stat().st_mode & stat.S_IROTH:
        what = f"{file} holds {', '.join(secrets)}" if secrets else f"Not everybody may read {file}"
        raise ConfigError(
            f"{what}, and everybody could read the service's copy in {target}.",
            hint="Put secrets into a drop-in (`systemctl edit`, Environment=) and `chmod o+r` the "
            "file, or set state_dir in it: then the service reads the file itself.",
        )
    before = target.read_bytes() if target.exists() else None
    after = _text(file, own_runtime="runtime_dir" in values)
    if before not in {None, after.encode()}:
        raise ConflictError(
            f"{target} is there already, and is not what {file} would give.",
            hint=f"Change {target} and leave --config out, or move it away.",
        )
    return [] if before else [Change(path=target, before=None, after=after)]


def left_behind(root: Path) -> list[str]:
    """What an installation of before copies has learned, and how to take it along."""
    old, new = (root / part / "tuner.sqlite3" for part in _STATES)
    if not old.exists() or new.exists():
        return []
    return [f"What was learned before is in {old}: `mv {old}* {new.parent}` before the start."]


def _secrets(values: Mapping[str, object]) -> list[str]:
    """Names of variables that look secret."""
    engine = values.get("engine")
    env = engine.get("env") if isinstance(engine, dict) else None
    return [name for name in env if SECRET.search(name)] if isinstance(env, dict) else []


def _text(file: Path, *, own_runtime: bool) -> str:
    lines = [
        f"# Copied by `tuner install` from {file}, with folders of the service; this one is read.",
        "# Everybody may read this file: keep secrets out of it.",
        f'state_dir = "{units.STATE}"',
        *([] if own_runtime else [f'runtime_dir = "{units.RUN}"']),
    ]
    return "\n".join([*lines, "", file.read_text(encoding="utf-8")])
