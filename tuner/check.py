"""One finding of `tuner doctor`."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

from profiles.errors import TunerError

State = Literal["ok", "warn", "fail"]  # only `fail` makes `tuner doctor` exit 1


@dataclass(frozen=True, kw_only=True)
class Check:
    """What was looked at, how it is, and what to do about it."""

    name: str
    state: State
    sentence: str
    hint: str = ""

    def as_json(self) -> dict[str, str]:
        """The check as plain data."""
        return asdict(self)


def ok(name: str, sentence: str) -> Check:
    """It is as it should be, or is not needed here."""
    return Check(name=name, state="ok", sentence=sentence)


def warn(name: str, sentence: str, hint: str = "") -> Check:
    """It works, but somebody should know."""
    return Check(name=name, state="warn", sentence=sentence, hint=hint)


def fail(name: str, sentence: str, hint: str = "") -> Check:
    """The daemon cannot work like this."""
    return Check(name=name, state="fail", sentence=sentence, hint=hint)


def guarded(name: str, check: Callable[[], Check]) -> Check:
    """The finding; a check that breaks is a finding too, so that the others still run."""
    try:
        return check()
    except TunerError as error:
        return fail(name, error.message, error.hint)
    except Exception as error:  # noqa: BLE001 - a doctor must not die of a patient
        return fail(name, f"Cannot check: {type(error).__name__}: {error}.")
