"""What an installation can find out by itself: interpreter, user, configuration, systemd."""

import grp
import pwd
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from profiles.errors import ConfigError, ConflictError, UnavailableError
from service.install import units
from service.install.units import Wanted, hidden

PACKAGES = Path(__file__).resolve().parents[2]
RUNNING = Path("/run/systemd/system")  # sd_booted(3)
OWN_FOLDERS = (units.STATE, "/var/cache/tuner", units.RUN)
# since 0.106 with rules; Debian's and Ubuntu's 0.105, without them, was in policykit-1
POLKITD = (
    "usr/lib/polkit-1/polkitd",
    "usr/libexec/polkitd",
    "usr/libexec/polkit-1/polkitd",
    "usr/lib/polkit/polkitd",
)
COMMAND_S = 330.0  # of one command; the doctor's own limit is 300


def found(
    *,
    root: Path,
    config: Path | None,
    user: str,
    model: str | None,
    split: bool,
    real: bool,
    personal: Path | None = None,
) -> Wanted:
    """What the units have to say; `real` when they are for this machine and not for a package.

    `personal` is the file that the service's own is copied from.

    Raises:
        ConfigError: the configuration is not TOML.
        ConflictError: there is no such user.
    """
    file = personal or config or root / units.CONFIG
    values = read(file)
    engine = _table(values, "engine")
    unset = None if personal is None else units.RUN  # in its copy
    if split and values and values.get("runtime_dir", unset) != units.RUN:
        raise ConfigError(
            f"The split form needs runtime_dir = {units.RUN!r} in {file}.",
            hint="Its folders of orders and sockets are there, with modes for two users.",
        )
    needed = _needed(values, engine, config, model)
    # and where they lead to: a link that is seen helps nobody whose target is hidden
    seen = dict.fromkeys(str(each) for path in needed for each in (path, path.resolve()))
    state = [values.get(key) for key in ("state_dir", "runtime_dir")]
    return Wanted(
        python=sys.executable,
        imports=_imports(),
        config=f"/{units.CONFIG}" if config is None else str(config),
        user=user,
        group=_group(user, real=real),
        listen=str(_table(values, "gateway").get("listen", "127.0.0.1:8000")),
        model=model,
        visible=tuple(path for path in seen if hidden(path)),
        writable=tuple(
            path
            for path in state
            if isinstance(path, str) and path.startswith("/") and path not in OWN_FOLDERS
        ),
        keys_file=_credential(_table(values, "gateway").get("keys_file"), user),
        split=split,
    )


def has_model(config: Path) -> bool:
    """Whether a configuration says what to serve, as far as can be seen."""
    model = _table(read(config), "engine").get("model")
    return isinstance(model, str) and model not in {"", "/models/..."}


def run(*command: str, timeout_s: float = COMMAND_S) -> subprocess.CompletedProcess[str]:
    """One command of systemd.

    Raises:
        UnavailableError: it does not exist or says no.
    """
    shown = " ".join(command)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"Cannot run `{shown}`: {error}.") from error
    if done.returncode:
        reason = (done.stderr or done.stdout).strip() or f"status {done.returncode}"
        raise UnavailableError(
            f"`{shown}` failed: {reason}.",
            hint="The files are written; mend the reason and run this again.",
        )
    return done


def began(unit: str) -> float | None:
    """When the main process of a unit began, in seconds since the epoch; None without one."""
    pid = run("systemctl", "show", "--property=MainPID", "--value", unit).stdout.strip()
    try:
        return psutil.Process(int(pid)).create_time() if pid not in {"", "0"} else None
    except psutil.Error:
        return None  # it has just ended


def need_polkit(root: Path = Path("/")) -> None:
    """Refuse where nothing would read the rule that lets tunerd start its engines.

    Raises:
        UnavailableError: there is no polkitd, or it is from before rules (0.105).
    """
    there = any((root / path).exists() for path in POLKITD)
    if not there or not (root / units.POLKIT).parent.is_dir():
        raise UnavailableError(
            "There is no polkitd with rules here, without which tunerd may not start an engine.",
            hint="Install the package polkitd (elsewhere than in Debian and Ubuntu: polkit), "
            "or leave --split out: the one unit needs none.",
        )


def user_exists(name: str) -> bool:
    """Whether this machine knows the user."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _imports() -> str | None:
    """Where tunerd is, unless the interpreter looks there anyway."""
    usual = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    return None if PACKAGES in usual else str(PACKAGES)


def _group(user: str, *, real: bool) -> str:
    try:
        return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
    except KeyError:
        if real and user != units.USER:
            raise ConflictError(
                f"There is no user {user!r}.",
                hint=f"Create it, or leave --user out: {units.USER!r} is made by itself.",
            ) from None
    return user


def _credential(keys_file: object, user: str) -> str | None:
    """The keys file, if it exists and the gateway cannot read it by itself.

    A copy of systemd's would outlive a removed key until the next start, and a missing file would
    fail the unit, so it is the second choice.
    """
    path = Path(keys_file) if isinstance(keys_file, str) else None
    if path is None or not path.is_absolute():
        return None
    try:
        owner = path.stat().st_uid
    except OSError:
        return None
    try:
        readable = owner == pwd.getpwnam(user).pw_uid  # its mode is 0600
    except KeyError:
        readable = False  # the user is yet to be made, so the file is somebody else's
    return None if readable and not hidden(str(path)) else str(path)


def _needed(
    values: dict[str, Any], engine: dict[str, Any], config: Path | None, model: str | None
) -> Iterator[Path]:
    """Folders and files that both processes or the engine read."""
    yield from _environment(Path(sys.executable), Path(sys.prefix))
    yield Path(sys.base_prefix)
    if _imports():
        yield PACKAGES
    if config is not None:
        yield config
    command = engine.get("command")
    if isinstance(command, list) and command and isinstance(command[0], str):
        python = Path(command[0]).expanduser()
        if python.is_absolute() and python.exists():
            yield from _environment(python, python.parent.parent)
    # a script that the interpreter runs, a template or a tokenizer: what a path names is read
    lists = [each for each in (command, engine.get("args")) if isinstance(each, list)]
    for word in (word for each in lists for word in each if isinstance(word, str)):
        if Path(word).is_absolute() and Path(word).exists():
            yield Path(word)
    drafters = values.get("drafters")
    models = [model or engine.get("model")]
    models += [each.get("model") for each in drafters or () if isinstance(each, dict)]
    for each in models:
        path = Path(each).expanduser() if isinstance(each, str) else None
        if path is not None and path.is_absolute() and path.exists():
            yield path


def _environment(python: Path, prefix: Path) -> Iterator[Path]:
    yield prefix
    if python.is_symlink():  # a virtual environment: its interpreter is elsewhere
        yield python.resolve().parent.parent


def _table(values: dict[str, Any], name: str) -> dict[str, Any]:
    table = values.get(name)
    return table if isinstance(table, dict) else {}


def read(file: Path) -> dict[str, Any]:
    """A configuration, unchecked; nothing of one that is not there.

    Raises:
        ConfigError: it is not TOML, or cannot be read.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot read {file}: {error}.") from error
