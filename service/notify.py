"""What a process tells its service manager: ready, status, alive, stopping (sd_notify(3)).

Standard library only: the gateway uses it too.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Self

log = logging.getLogger(__name__)

START_S = 60.0  # asked for at a time while starting
PERIOD_S = 5.0  # between beats, at most
STATUS_CHARS = 200

Probe = Callable[[], Awaitable[object]]  # returns when a worker thread has answered


class Notifier:
    """The manager's end of NOTIFY_SOCKET; without one every message is dropped."""

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s  # without a beat for so long the manager ends us
        self.ready = False
        self._address = address
        self._status: str | None = None
        self._complained = False

    @classmethod
    def of(cls, environ: MutableMapping[str, str], pid: int) -> Self:
        """From the environment; its variables are consumed, they are not for our children."""
        address = environ.pop("NOTIFY_SOCKET", None)
        wanted = environ.pop("WATCHDOG_USEC", "")
        owner = environ.pop("WATCHDOG_PID", str(pid))
        usable = address is not None and address[:1] in {"/", "@"}
        watched = wanted.isascii() and wanted.isdigit() and int(wanted) > 0 and owner == str(pid)
        return cls(address if usable else None, int(wanted) / 1e6 if usable and watched else None)

    def __bool__(self) -> bool:
        """Whether somebody listens."""
        return self._address is not None

    @property
    def period_s(self) -> float:
        """Seconds between beats: at most half of what the manager waits."""
        return PERIOD_S if self.watchdog_s is None else min(PERIOD_S, self.watchdog_s / 2)

    def send(self, **fields: str | int) -> None:
        """One message; a manager that does not take it is no reason to stop serving."""
        if self._address is None:
            return
        text = "\n".join(f"{name}={value}" for name, value in fields.items())
        # an address in the abstract namespace begins with a zero byte, written as @
        address = self._address.replace("@", "\0", 1) if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
                manager.setblocking(False)
                manager.sendto(text.encode(), address)
        except OSError as error:
            if not self._complained:
                log.warning("cannot tell the service manager: %s", error)
            self._complained = True

    def is_ready(self) -> None:
        """We serve."""
        self.ready = True
        self.send(READY=1)

    def status(self, sentence: str) -> None:
        """One line for `systemctl status`, sent when it changes."""
        # a line break would begin another field
        line = " ".join(sentence.split())[:STATUS_CHARS]
        if line != self._status:
            self._status = line
            self.send(STATUS=line)

    def alive(self) -> None:
        """One beat of the watchdog."""
        if self.watchdog_s is not None:
            self.send(WATCHDOG=1)

    def stopping(self, within_s: float) -> None:
        """We end, which may take this long."""
        self.send(STOPPING=1, EXTEND_TIMEOUT_USEC=round(within_s * 1e6))

    def still_starting(self) -> None:
        """Not ready yet, and not stuck."""
        self.send(EXTEND_TIMEOUT_USEC=round(START_S * 1e6))


class Beat:
    """Beats while the loop turns and every worker thread answers.

    A thread may be busy for as long as the manager is patient; then it counts as wedged.
    """

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._sentence: Callable[[], str] = lambda: "starting"
        self._probes: Sequence[Probe] = ()
        self._task = asyncio.create_task(self._run(), name="beat") if notifier else None

    def go_on(self, sentence: Callable[[], str], probes: Sequence[Probe] = ()) -> None:
        """What to report, and which threads have to answer, from now on."""
        self._sentence, self._probes = sentence, probes

    async def end(self) -> None:
        """The last beat was the last."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        period_s = self._notifier.period_s
        while True:
            answered = await _answered(self._probes, period_s)
            if not self._notifier.ready:
                self._notifier.still_starting()
            elif answered:
                self._notifier.alive()
            self._notifier.status(self._sentence())
            if answered:
                await asyncio.sleep(period_s)
            else:
                log.warning("a worker thread is silent for %g s, no beat", period_s)


async def _answered(probes: Sequence[Probe], within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            await asyncio.gather(*(probe() for probe in probes))
    except TimeoutError:
        return False
    return True
