"""The control API's client: small, synchronous, standard library only."""

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from profiles.errors import (
    BusyError,
    ConfigError,
    ConflictError,
    DeadlineError,
    DeniedError,
    ExitCode,
    NotFoundError,
    StoreError,
    TunerError,
    UnavailableError,
    UnreachableError,
)
from tuner.paths import Paths
from tuner.starting import START

API_VERSION = 1
CONNECT_S = 1.0  # a daemon that is down must be noticed within a second (F85)
ANSWER_S = 30.0  # silence of the daemon, not the length of a search: those answer at once
MAX_ANSWER_BYTES = 16 << 20

Json = dict[str, Any]


class AnswerError(TunerError):
    """The daemon's answer cannot be understood."""

    hint = "Run the `tuner` that belongs to this daemon, or restart the daemon after an upgrade."
    exit_code = ExitCode.INTERNAL


class RefusedError(TunerError):
    """The daemon refused the request."""

    exit_code: ClassVar[ExitCode] = ExitCode.USAGE
    http_status = 400


# what an exit code and an HTTP status become again; any other is a plain TunerError
FAMILIES: tuple[type[TunerError], ...] = (
    RefusedError,
    ConfigError,
    NotFoundError,
    ConflictError,
    StoreError,
    BusyError,
    UnavailableError,
    UnreachableError,
    DeniedError,
    DeadlineError,
)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, *, connect_s: float, answer_s: float) -> None:
        super().__init__("localhost", timeout=answer_s)
        self._path = path
        self._connect_s = connect_s

    def connect(self) -> None:
        """Connect within the shorter deadline, then wait with the longer one."""
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.settimeout(self._connect_s)
            link.connect(str(self._path))
        except BaseException:
            link.close()
            raise
        link.settimeout(self.timeout)
        self.sock = link


class ControlClient:
    """Questions go to the status socket, changes to the control socket."""

    def __init__(
        self,
        paths: Paths,
        *,
        advice: str = START,  # when it does not answer
        connect_s: float = CONNECT_S,
        answer_s: float = ANSWER_S,
    ) -> None:
        self._paths = paths
        self._advice = advice
        self._connect_s = connect_s
        self._answer_s = answer_s

    def get(self, path: str) -> Json:
        """The answer to a question."""
        return self._request("GET", path, self._paths.status_socket)

    def post(self, path: str, body: Mapping[str, object] | None = None) -> Json:
        """The answer to a change."""
        return self._request("POST", path, self._paths.control_socket, body or {})

    def delete(self, path: str) -> Json:
        """The answer to a removal."""
        return self._request("DELETE", path, self._paths.control_socket)

    def stream(
        self, path: str, body: Mapping[str, object], *, silence_s: float = 60.0
    ) -> Iterator[Json]:
        """The answers to a change that lasts as long as its connection, one per line.

        Raises:
            TunerError: as for `post`; UnreachableError too when the daemon ends meanwhile.
        """
        at = self._paths.control_socket
        link = UnixConnection(at, connect_s=self._connect_s, answer_s=silence_s)
        try:
            with self._sentences(at):
                link.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
                answer = link.getresponse()
                if answer.status != 200:
                    decode(answer.status, answer.read(MAX_ANSWER_BYTES + 1))  # raises what it says
            while True:
                with self._sentences(at):
                    line = answer.readline(MAX_ANSWER_BYTES + 1)
                if not line:
                    return
                if line.strip():
                    yield decode(answer.status, line)
        finally:
            link.close()

    def _request(
        self, method: str, path: str, at: Path, body: Mapping[str, object] | None = None
    ) -> Json:
        """One exchange on a connection of its own.

        Raises:
            UnreachableError: no daemon listens, or it closed the connection without an answer.
            DeniedError: the socket refuses this user.
            DeadlineError: it listens but does not answer in time.
            AnswerError: the answer is no JSON object of this API version, or too long.
            TunerError: what the daemon itself answered, with its message, hint and exit code.
        """
        link = UnixConnection(at, connect_s=self._connect_s, answer_s=self._answer_s)
        content = None if body is None else json.dumps(body)
        headers = {} if content is None else {"Content-Type": "application/json"}
        try:
            with self._sentences(at):
                link.request(method, path, body=content, headers=headers)
                answer = link.getresponse()
                raw = answer.read(MAX_ANSWER_BYTES + 1)
        finally:
            link.close()
        return decode(answer.status, raw)

    @contextlib.contextmanager
    def _sentences(self, at: Path) -> Iterator[None]:
        """What goes wrong on a connection, as the errors that `_request` lists."""
        try:
            yield
        except TimeoutError as error:
            raise DeadlineError(
                f"The daemon at {at} did not answer in time.",
                hint="Look at its log; `tuner doctor` checks the rest.",
            ) from error
        except PermissionError as error:
            raise DeniedError(f"The socket {at} refuses this user.") from error
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(at, error) from error

    def _unreachable(self, at: Path, error: Exception) -> UnreachableError:
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            return UnreachableError(f"No daemon listens at {at}.", hint=self._advice)
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return UnreachableError(f"The daemon at {at} does not answer: {reason}.", hint=self._advice)


def decode(status: int, raw: bytes) -> Json:
    """The JSON object of an answer; raises what its error body says."""
    if len(raw) > MAX_ANSWER_BYTES:
        raise AnswerError(f"The daemon's answer is longer than {MAX_ANSWER_BYTES >> 20} MiB.")
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError) as error:  # ValueError: also bytes that are no text
        raise AnswerError(f"The daemon's answer (HTTP {status}) is not JSON.") from error
    if not isinstance(answer, dict):
        raise AnswerError(f"The daemon's answer (HTTP {status}) is not a JSON object.")
    if answer.get("v") != API_VERSION:
        raise AnswerError(
            f"The daemon speaks version {answer.get('v')!r} of the control API; "
            f"this tuner speaks {API_VERSION}."
        )
    if status >= 400 or "error" in answer:
        raise error_of(status, answer.get("error"))
    return answer


def error_of(status: int, body: Any) -> TunerError:
    """The error that the daemon raised, of the same family where there is one."""
    if not isinstance(body, dict) or not isinstance(body.get("message"), str):
        return AnswerError(f"The daemon answered HTTP {status} without a reason.")
    code = body.get("exit_code")
    same = [family for family in FAMILIES if family.exit_code == code]
    exact = [family for family in same if family.http_status == status]
    family = next(iter(exact or same), _by_status(status))
    hint = body.get("hint")
    return family(body["message"], hint=hint if isinstance(hint, str) else "")


def _by_status(status: int) -> type[TunerError]:
    """For an exit code of a newer daemon: what its HTTP status says."""
    if status == NotFoundError.http_status:
        return NotFoundError
    if status == DeniedError.http_status:
        return DeniedError
    return RefusedError if 400 <= status < 500 else TunerError
