"""P: the files of an installation, made from the templates beside this module."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from tuner.keys import CREDENTIAL
from tuner.starting import MARK

UNITS = "etc/systemd/system"
SYSUSERS = "etc/sysusers.d/tuner.conf"
TMPFILES = "etc/tmpfiles.d/tuner.conf"
POLKIT = "etc/polkit-1/rules.d/50-tuner.rules"
CONFIG = "etc/tuner/tuner.toml"
USER = "tuner"
ENGINE_USER = "tuner-engine"  # of the split form, whoever else runs the rest
STATE = "/var/lib/tuner"
RUN = "/run/tuner"
MARK_LINE = f"{MARK}, which overwrites changes; `systemctl edit` keeps them apart."
HOMES = ("/home", "/root", "/run/user")  # hidden by ProtectHome=
SCRATCH = ("/tmp", "/var/tmp")  # noqa: S108 - hidden by PrivateTmp=

ONE = ("tuner.service",)
SPLIT = (
    "tunerd.service", "tunerd-control.socket", "tunerd-status.socket",
    "tuner-gateway.service", "tuner-gateway.socket",
)  # fmt: skip
ENGINE = "tuner-engine@.service"
ENGINES = ("tuner-engine@a.service", "tuner-engine@b.service")
SLICE = "tuner.slice"  # of the split form, made by systemd itself
DOCTOR = "tuner-doctor.service"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the units have to say about this machine."""

    python: str  # interpreter that has tunerd
    imports: str | None  # folder for PYTHONPATH, where the interpreter does not find it by itself
    config: str
    user: str
    group: str
    listen: str
    model: str | None = None  # for a new configuration
    visible: tuple[str, ...] = ()  # folders that must be seen although homes are hidden
    writable: tuple[str, ...] = ()  # folders of state outside /var/lib/tuner
    keys_file: str | None = None  # that only systemd can read for the gateway
    split: bool = False


def files(wanted: Wanted, templates: Mapping[str, str]) -> dict[str, str | None]:
    """Content by path without its leading slash; None for a file of the other form."""
    found: dict[str, str | None] = dict.fromkeys(every_file())
    # a user of somebody else's making is not ours to describe
    users = [_USERS[USER]] if wanted.user == USER else []
    filled = partial(_filled, wanted=wanted, templates=templates)
    if wanted.split:
        for name in SPLIT:
            found[f"{UNITS}/{name}"] = filled(templates[name])
        # an engine writes into its own folders only, and does not see those of tunerd
        confined = replace(wanted, writable=())
        hidden_state = " ".join(quoted(f"-{path}") for path in (STATE, *wanted.writable))
        for name, template in ((ENGINE, ENGINE), (DOCTOR, "tuner-doctor-split.service")):
            text = filled(templates[template], wanted=confined)
            found[f"{UNITS}/{name}"] = text.replace("@STATE@", hidden_state)
        found[POLKIT] = filled(templates["polkit.rules"])
        users.append(_USERS[ENGINE_USER])
    else:
        for name in (*ONE, DOCTOR):
            found[f"{UNITS}/{name}"] = filled(templates[name])
    if users:
        lines = "\n".join(users)
        found[SYSUSERS] = filled(templates["sysusers.conf"]).replace("@USERS@", lines)
    split = "-split" if wanted.split else ""
    found[TMPFILES] = filled(templates[f"tmpfiles{split}.conf"])
    return found


def every_file() -> dict[str, str | None]:
    """The paths of both forms, to be removed."""
    names = (*ONE, *SPLIT, ENGINE, DOCTOR)
    return dict.fromkeys([*(f"{UNITS}/{name}" for name in names), SYSUSERS, TMPFILES, POLKIT])


def first_config(wanted: Wanted, templates: Mapping[str, str]) -> str:
    """A configuration that only lacks the model, or nothing."""
    return _filled(templates["tuner.toml"], wanted, templates)


def enabled(*, split: bool) -> tuple[str, ...]:
    """The units that start at boot."""
    return SPLIT if split else ONE


def quoted(text: str) -> str:
    """One word of a unit file: no specifier, no variable, no end of the word within it."""
    safe = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{safe}"' if any(char in text for char in " \t\"'\\;") else safe


def hidden(path: str, roots: Sequence[str] = (*HOMES, *SCRATCH)) -> bool:
    """Whether the sandbox hides a path."""
    return any(PurePosixPath(path).is_relative_to(root) for root in roots)


def listen_stream(listen: str) -> str:
    """gateway.listen as ListenStream= takes it: addresses, no names."""
    host, _, port = listen.rpartition(":")
    return f"127.0.0.1:{port}" if host == "localhost" else listen


_PARTS = {"@ENGINE@": "engine.conf", "@ONE@": "one.conf", "@SANDBOX@": "sandbox.conf"}
_USERS = {
    USER: f'u {USER} - "vLLM tuner" {STATE}',
    ENGINE_USER: f'u {ENGINE_USER} - "vLLM tuner engine" /var/cache/{ENGINE_USER}',
}


def _filled(template: str, wanted: Wanted, templates: Mapping[str, str]) -> str:
    for name, part in _PARTS.items():
        template = template.replace(name, templates[part].rstrip("\n"))
    imports = wanted.imports
    word = {
        # $ is a variable in ExecStart= only
        "@PYTHON@": quoted(wanted.python).replace("$", "$$"),
        "@CONFIG@": quoted(wanted.config).replace("$", "$$"),
        "@IMPORTS@": f"Environment={quoted(f'PYTHONPATH={imports}')}" if imports else "",
        "@HOME@": "\n".join(_home(wanted)),
        "@KEYS@": "\n".join(_keys(wanted)),
        "@USER@": wanted.user,
        "@ENGINE_USER@": ENGINE_USER,
        "@GROUP@": wanted.group,
        "@LISTEN@": listen_stream(wanted.listen),
        "@MARK@": MARK_LINE,
        "@MODEL@": _model(wanted.model),
    }
    lines = []
    for line in template.splitlines():
        filled = line
        for name, value in word.items():
            filled = filled.replace(name, value)
        if filled or not line.startswith("@"):  # a placeholder of nothing leaves no empty line
            lines.append(filled)
    return "\n".join(lines) + "\n"


def _home(wanted: Wanted) -> list[str]:
    binds = [f"BindReadOnlyPaths={quoted(path)}" for path in wanted.visible]
    extra = [f"ReadWritePaths={quoted(path)}" for path in wanted.writable]
    if any(hidden(path, HOMES) for path in wanted.visible):
        # homes are empty but for what an interpreter or a model there needs, read-only
        return ["ProtectHome=tmpfs", *binds, *extra]
    return ["ProtectHome=yes", *binds, *extra]


def _keys(wanted: Wanted) -> list[str]:
    if wanted.keys_file is None:
        return []
    path = wanted.keys_file.replace("%", "%%")  # the rest of the line is the path, never quoted
    return [
        "# a copy made at start: restart this unit after `tuner keys`; without the file it fails",
        f"LoadCredential={CREDENTIAL}:{path}",
    ]


def _model(model: str | None) -> str:
    if model is None:
        return 'model = "/models/..."         # path, or a hub id that is in the cache already'
    text = model.replace("\\", "\\\\").replace('"', '\\"')
    return f'model = "{text}"'


def templates() -> dict[str, str]:
    """The templates by name."""
    return {each.name: each.read_text("utf-8") for each in template_folder().iterdir()}


def template_folder() -> Path:
    """Where the templates are, as data of this package."""
    return Path(__file__).parent / "templates"
