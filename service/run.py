"""`tuner run`: gateway and tunerd in the foreground, each restarted when it dies.

The listening socket is bound here and handed down, so that a gateway that is restarted refuses
no connection.
"""

import argparse
import contextlib
import errno
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from profiles.errors import ExitCode, TunerError, UnavailableError
from service.lock import make_folders, only_daemon
from service.logs import configure
from service.notify import Notifier
from service.ward import Ward
from tuner.config import Config
from tuner.config_file import load
from tuner.paths import Paths

log = logging.getLogger("tuner.run")

BACKLOG = 1024
OKAY_S = 10.0  # a child that lived shorter has failed to start
RESTART_S = 0.5
DEAF_S = 1.0  # a child that begins would be ended by SIGHUP
GIVE_UP = 5  # failed starts in a row
ABORT_S = 3.0  # for the stacks of a wedged child
STOP_GRACE_S = 30.0  # beyond drain and engine stop
PATIENCE_S = 30.0  # longest pause before a child that has served is tried again
# statuses that a restart cannot mend, unless the child has served before: then a disk has filled
# up, a file was edited, and the others need not go down with it
FINAL = frozenset({ExitCode.UNAVAILABLE, ExitCode.STORE, ExitCode.BUSY, ExitCode.CONFIG})


@dataclass(kw_only=True)
class Child:
    """One supervised process."""

    name: str
    command: list[str]
    listener: int | None = None
    ward: Ward | None = None  # without a service manager nobody asks how it is
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    aborted: float | None = None  # when it was found wedged
    failures: int = 0
    proven: bool = False  # it has served: what is wrong now is new, and may pass
    due: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        """Spawn it in a session of its own: the terminal's Ctrl-C is ours to pass on."""
        told = {}
        if self.ward is not None:
            self.ward.started()
            told = self.ward.environment
        handed = [] if self.listener is None else ["--listen", str(self.listener)]
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "service.child", "--parent", str(os.getpid())),
                *(*handed, "--", *self.command),
            ],
            pass_fds=() if self.listener is None else (self.listener,),
            start_new_session=True,
            env={**os.environ, **told},
        )
        self.started, self.aborted = time.monotonic(), None

    def check(self) -> None:
        """End it when it is wedged: SIGABRT, for the stacks of its threads, then SIGKILL."""
        if self.ward is None or self.process is None or self.process.poll() is not None:
            return
        self.ward.read()
        if self.aborted is not None:
            if time.monotonic() - self.aborted > ABORT_S:
                self.process.kill()  # a stopped process does not even see SIGABRT
        elif self.ward.wedged:
            log.error("%s is wedged: no beat in time, aborted", self.name)
            self.aborted = time.monotonic()
            self.process.send_signal(signal.SIGABRT)

    def hang_up(self) -> bool:
        """Have it read its configuration again; False when it cannot hear yet."""
        if self.process is None or self.process.poll() is not None:
            return False
        if time.monotonic() - self.started < DEAF_S:
            return False
        self.process.send_signal(signal.SIGHUP)
        return True

    def stop(self, timeout_s: float, meanwhile: Callable[[], None]) -> None:
        """SIGTERM, then SIGKILL after the timeout; `meanwhile` is called every second or so."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        deadline = time.monotonic() + timeout_s
        while self.process.poll() is None and time.monotonic() < deadline:
            meanwhile()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(1.0)
        if self.process.poll() is None:
            log.warning("%s did not stop within %g s, killed", self.name, timeout_s)
            self.process.kill()
            self.process.wait()


def main() -> int:
    """Run until SIGTERM or SIGINT; the exit status is one of `profiles.errors.ExitCode`."""
    parser = argparse.ArgumentParser(prog="tuner run", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument(
        "--leave-engine", action="store_true", help="keep the engine running after the stop"
    )
    options = parser.parse_args()
    configure()
    try:
        config = load(options.config)
        paths = Paths.of(config)
        make_folders(paths)
        with only_daemon(paths.lock):  # a daemon that is there already is named before we bind
            listener = bind(config)
    except TunerError as error:
        sys.stderr.write(f"tuner: {error.sentence()}\n")
        return int(error.exit_code)
    notifier = Notifier.of(os.environ, os.getpid())
    file = options.config.absolute()
    return supervise(config, file, listener, notifier, leave=options.leave_engine)


def bind(config: Config) -> socket.socket:
    """The listening socket of the gateway.

    Raises:
        UnavailableError: somebody else listens there, or it is not ours to listen on.
    """
    host, port = config.gateway.host_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        used = error.errno == errno.EADDRINUSE
        reason = "is in use" if used else f"cannot be used: {error.strerror}"
        raise UnavailableError(
            f"The address {config.gateway.listen} {reason}.",
            hint="Stop what listens there (`ss -ltnp`), or set gateway.listen to another port.",
        ) from error
    return listener


def supervise(
    config: Config, file: Path, listener: socket.socket, notifier: Notifier, *, leave: bool
) -> int:
    """Keep both children running until a signal comes."""
    python = sys.executable
    daemon_options = ["--leave-engine"] if leave else []
    gateway = Child(
        name="gateway",
        command=[python, "-m", "service.gateway", "--config", str(file)],
        listener=listener.fileno(),
    )
    daemon = Child(
        name="tunerd", command=[python, "-m", "service", "--config", str(file), *daemon_options]
    )
    both = (gateway, daemon)
    for child in both if notifier else ():
        path = Paths.of(config).run / f"notify-{child.name}.sock"
        child.ward = Ward(path, notifier.watchdog_s)
    report = Report(notifier, both)
    heard_of: list[int] = []  # signals
    wake_read = _woken_by_signals(heard_of)
    log.info("listening on http://%s/v1", config.gateway.listen)
    status = 0
    try:
        while not _ends(heard_of):
            if signal.SIGHUP in heard_of and daemon.hang_up():
                heard_of.remove(signal.SIGHUP)  # not a stop that came meanwhile
                with contextlib.suppress(TunerError):  # tunerd says what is wrong with it
                    config = load(file)
            for child in both:
                status = _tend(child)
                if status:
                    return status
            report()
            timeout = max(0.05, min(child.due for child in both) - time.monotonic())
            heard = [wake_read, *report.filenos()]
            ready, _, _ = select.select(heard, [], [], min(timeout, 1.0))
            if wake_read in ready:
                os.read(wake_read, 4096)
    finally:
        drain_s = config.gateway.drain_s + config.engine.stop_timeout_s + STOP_GRACE_S
        notifier.stopping(drain_s + 2 * STOP_GRACE_S)
        daemon.stop(drain_s, report)  # first: it drains through the gateway
        gateway.stop(STOP_GRACE_S, report)
        listener.close()
        report.close()
    return 0


def _woken_by_signals(heard_of: list[int]) -> int:
    """A descriptor that can be read after each signal; those to act on are put in the list."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)

    def on_signal(number: int, _: FrameType | None) -> None:
        if number != signal.SIGCHLD and number not in heard_of:
            heard_of.append(number)
        try:
            os.write(wake_write, b".")
        except BlockingIOError:
            return  # it is awake

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, on_signal)
    return wake_read


def _ends(heard_of: list[int]) -> bool:
    return signal.SIGTERM in heard_of or signal.SIGINT in heard_of


class Report:
    """What the service manager hears of both children."""

    def __init__(self, notifier: Notifier, children: Sequence[Child]) -> None:
        self._notifier = notifier
        self._children = children
        self._wards = [child.ward for child in children if child.ward is not None]
        self._beat_at = 0.0

    def filenos(self) -> list[int]:
        """For select."""
        return [ward.fileno() for ward in self._wards]

    def close(self) -> None:
        """Listen to no child any more."""
        for ward in self._wards:
            ward.close()

    def __call__(self) -> None:
        """Pass on what they said; a wedged one is ended here and costs no engine."""
        if not self._notifier:
            return
        for child in self._children:
            child.check()
        wards = self._wards
        if not self._notifier.ready and all(ward.ready for ward in wards):
            self._notifier.is_ready()
        self._notifier.status("; ".join(ward.status for ward in reversed(wards) if ward.status))
        now = time.monotonic()
        if now - self._beat_at >= self._notifier.period_s:
            self._beat_at = now
            if self._notifier.ready:
                self._notifier.alive()
            else:
                self._notifier.still_starting()


def _tend(child: Child) -> int:
    """Start or restart a child if it is due; a status other than 0 ends everything."""
    now = time.monotonic()
    if child.process is not None:
        code = child.process.poll()
        if code is None:
            return 0
        lived = now - child.started
        child.process = None
        child.proven = child.proven or lived >= OKAY_S
        if code in FINAL and not child.proven:
            return code
        if code == 0 and child.name == "tunerd":
            log.info("tunerd was asked to stop")
            return -1  # `tuner stop`: an orderly end of everything
        child.failures = child.failures + 1 if lived < OKAY_S else 0
        if child.failures >= GIVE_UP and code not in FINAL:
            log.error("%s died %d times in a row, status %s", child.name, child.failures, code)
            return int(ExitCode.INTERNAL)
        pause_s = min(RESTART_S * 2**child.failures, PATIENCE_S)
        child.due = now + pause_s
        log.warning(
            "%s ended with status %s after %.0f s, restarting in %g s",
            *(child.name, code, lived, pause_s),
        )
    if now >= child.due:
        child.start()
        child.due = now + 3600.0
    return 0


if __name__ == "__main__":
    sys.exit(max(main(), 0))
