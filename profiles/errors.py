"""Errors are sentences with what to do next: the docstring is the default message."""

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Exit statuses of every command and process (docs/reference.md lists them)."""

    OK = 0
    NEGATIVE = 1  # the answer is no: not found, differs, nothing to show
    USAGE = 2  # the command line is wrong
    UNREACHABLE = 3  # the daemon does not answer
    DENIED = 4  # the socket refuses this user
    TIMED_OUT = 5
    UNAVAILABLE = 69  # no vLLM, port in use, engine does not start; or to be started again
    INTERNAL = 70  # a defect of tunerd
    STORE = 74  # the store cannot be read or written
    BUSY = 75  # another daemon owns this state directory
    CONFIG = 78  # the configuration file is wrong


class TunerError(Exception):
    """Something went wrong in tunerd."""

    hint: str = ""
    retryable: bool = False
    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL
    http_status: ClassVar[int] = 500

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        self.message = message or (self.__doc__ or "").strip().splitlines()[0]
        if hint is not None:
            self.hint = hint
        super().__init__(self.message)

    def sentence(self) -> str:
        """The message and, if there is one, what to do next."""
        return f"{self.message} {self.hint}".strip()


class ConfigError(TunerError):
    """The configuration file is wrong."""

    hint = "Run `tuner config check` for the line and the reason."
    exit_code = ExitCode.CONFIG
    http_status = 400


class InvalidKnobsError(TunerError):
    """These knob values contradict each other."""

    exit_code = ExitCode.USAGE
    http_status = 400


class NotFoundError(TunerError):
    """There is no such thing."""

    exit_code = ExitCode.NEGATIVE
    http_status = 404


class ConflictError(TunerError):
    """The daemon cannot do this now."""

    exit_code = ExitCode.NEGATIVE
    http_status = 409


class StoreError(TunerError):
    """The store cannot be used."""

    exit_code = ExitCode.STORE


class StoreReadOnlyError(StoreError):
    """The store cannot be written."""

    hint = "Give the daemon's user write permission to the state directory and its files."


class StoreCorruptError(StoreError):
    """The store is not a readable SQLite database."""

    hint = "Move the file aside and restore the newest backup beside it, or start with a new one."


class StoreDamagedError(StoreCorruptError):
    """The store is damaged."""

    hint = "tunerd moves it aside at its next start and restores the newest backup beside it."


class StoreNewerError(StoreError):
    """The store was written by a newer tunerd."""

    hint = "Upgrade tunerd, or restore the backup that the upgrade made."


class BusyError(TunerError):
    """Another daemon owns this state directory."""

    hint = "Stop it (`tuner status` shows its pid) or give this one another `state_dir`."
    exit_code = ExitCode.BUSY


class UnavailableError(TunerError):
    """Something that tunerd needs is not there."""

    exit_code = ExitCode.UNAVAILABLE
    http_status = 503


class RestartError(UnavailableError):
    """This process ends to be started again by its service manager."""


class UnreachableError(TunerError):
    """The daemon does not answer."""

    hint = "Start it with `tuner run` and check that `state_dir` is the same."
    exit_code = ExitCode.UNREACHABLE
    retryable = True
    http_status = 503


class DeniedError(TunerError):
    """The control socket refuses this user."""

    hint = "Join the group that owns the control socket, or use sudo."
    exit_code = ExitCode.DENIED
    http_status = 403


class DeadlineError(TunerError):
    """It took too long."""

    exit_code = ExitCode.TIMED_OUT
    retryable = True
    http_status = 504
