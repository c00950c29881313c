"""P: what of a changed configuration is in force at once, and what needs a restart."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from tuner.config import Config, Section

# settings, or sections of them, that are read anew whenever they matter
AT_ONCE = (
    "policy.",
    "tuning.",
    "live.learn",
    "gateway.drain_s",
    *(f"engine.{n}" for n in ("start_timeout_s", "stall_timeout_s", "stop_timeout_s")),
    *(f"engine.{n}" for n in ("hang_s", "canary_s")),
)
# but these belong to the gateway, or to the command line of a running engine
NOT_AT_ONCE = (
    *(f"tuning.{n}" for n in ("sampling", "sample_requests", "sample_s")),
    "tuning.space.draft_lengths",
)

S = TypeVar("S", bound=Section)


@dataclass(frozen=True, kw_only=True)
class Reload:
    """The configuration to go on with, and what it means."""

    config: Config
    applied: tuple[str, ...]  # settings that are in force now
    waiting: tuple[str, ...]  # settings of the file that a restart would put in force

    def sentence(self) -> str:
        """What an operator has to know."""
        parts = [f"{', '.join(self.applied)} in force now"] if self.applied else []
        if self.waiting:
            parts.append(f"restart tunerd and the gateway for {', '.join(self.waiting)}")
        return f"the configuration was read again: {'; '.join(parts) or 'nothing has changed'}"


@dataclass(frozen=True, kw_only=True)
class Reloaded:
    """How the last reading of the file went, for `tuner status`."""

    at: float  # seconds since the epoch
    sentence: str
    refused: bool = False  # the file is wrong, and the configuration before it is in force
    waiting: tuple[str, ...] = ()


def reload(old: Config, new: Config) -> Reload:
    """Take from a new configuration what can be had without a restart."""
    changed = tuple(_changes(old, new))
    applied = tuple(path for path in changed if at_once(path))
    return Reload(
        config=_merged(old, new, frozenset(applied)),
        applied=applied,
        waiting=tuple(path for path in changed if path not in applied),
    )


def at_once(path: str) -> bool:
    """Whether a setting, named by its dotted path, needs no restart."""
    return path.startswith(AT_ONCE) and path not in NOT_AT_ONCE


def _changes(old: Section, new: Section, prefix: str = "") -> Iterator[str]:
    for name in type(old).model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if isinstance(before, Section) and isinstance(after, Section):
            yield from _changes(before, after, f"{prefix}{name}.")
        elif before != after:
            yield f"{prefix}{name}"


def _merged(old: S, new: S, paths: frozenset[str], prefix: str = "") -> S:
    found: dict[str, object] = {}
    for name in type(old).model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if isinstance(before, Section):
            found[name] = _merged(before, after, paths, f"{prefix}{name}.")
        elif f"{prefix}{name}" in paths:
            found[name] = after
    return old.model_copy(update=found)
