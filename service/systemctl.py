"""systemd as tunerd needs it: start, stop and look at a unit with `systemctl`."""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

CALL_S = 30.0
START_S = 120.0  # a bit more than systemd's own limit of 90 s
POLL_S = 0.1
KILL_S = 15.0  # for processes that were killed to be gone; a driver may take seconds

PROPERTIES = (
    "LoadState", "ActiveState", "Result", "MainPID", "ExecMainPID", "ExecMainCode",
    "ExecMainStatus", "ExecMainStartTimestampMonotonic", "InvocationID", "ControlGroup",
)  # fmt: skip
EXITED = 1  # ExecMainCode: CLD_EXITED; the others are deaths by a signal
DENIED = ("Access denied", "interactive authentication required", "Permission denied")
MISSING = ("not found", "not loaded", "is masked")
NO_BUS = ("Failed to connect to bus", "System has not been booted", "Failed to get D-Bus")


class SystemdError(Exception):
    """systemd did not do what it was asked for; a sentence with what to do."""


@dataclass(frozen=True, kw_only=True)
class UnitState:
    """What systemd says about a unit."""

    active: str  # "active", "inactive", "failed", "activating", "deactivating", ...
    result: str  # "success", "exit-code", "signal", "oom-kill", "timeout", ...
    pid: int | None  # of the main process while it runs
    invocation: str  # id of this very run; empty when it has not run
    control_group: str
    exit_code: int | None  # of the main process, negative for a signal; None while it runs
    started_us: int  # of the main process, on the monotonic clock

    @property
    def over(self) -> bool:
        """Whether nothing of it runs."""
        return self.active in {"inactive", "failed"}

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `systemctl show` has printed."""
        said = dict(line.partition("=")[::2] for line in text.splitlines())

        def number(name: str) -> int:
            word = said.get(name, "")
            return int(word) if word.isascii() and word.isdigit() else 0

        active = said.get("ActiveState", "")
        code, status = number("ExecMainCode"), number("ExecMainStatus")
        exit_code: int | None = None
        if code:
            exit_code = status if code == EXITED else -status
        elif active == "inactive":
            exit_code = 0  # systemd forgets a unit that has ended well
        return cls(
            active=active,
            result=said.get("Result", ""),
            pid=number("MainPID") or None,
            invocation=said.get("InvocationID", ""),
            control_group=said.get("ControlGroup", ""),
            exit_code=exit_code,
            started_us=number("ExecMainStartTimestampMonotonic"),
        )


class Systemctl:
    """Asks systemd; never for a password."""

    def __init__(self, program: Sequence[str] = ("systemctl",)) -> None:
        self._program = (*program, "--no-ask-password", "--no-pager")

    async def state(self, unit: str) -> UnitState:
        """What systemd says about a unit.

        Raises:
            SystemdError: it says nothing.
        """
        names = ",".join(PROPERTIES)
        return UnitState.parse(await self._call("show", f"--property={names}", "--", unit))

    async def start(self, unit: str) -> None:
        """Start a unit, and forget how it has ended before.

        Raises:
            SystemdError: it was not started.
        """
        with contextlib.suppress(SystemdError):  # systemd does not know it yet
            await self._call("reset-failed", "--", unit)
        await self._call("start", "--", unit, timeout_s=START_S)

    async def stop(self, unit: str) -> None:
        """Ask a unit to end; returns before it has.

        Raises:
            SystemdError: it was not asked.
        """
        await self._call("stop", "--no-block", "--", unit)

    async def end(self, unit: str, *, invocation: str | None = None) -> bool:
        """Kill all of a unit, or of one run of it, and wait until nothing is left of it.

        Whether nothing is. Another run, which began meanwhile, is left alone.

        Raises:
            SystemdError: systemd refuses, or does not answer.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + KILL_S
        asked = False
        while not (state := await self.state(unit)).over:
            if invocation and state.invocation not in {"", invocation}:
                return True
            if loop.time() > deadline:
                return False
            if not asked:
                await self.stop(unit)  # a kill alone is a death, which Restart= may undo
                asked = True
            with contextlib.suppress(SystemdError):  # it has gone meanwhile
                await self._call("kill", "--signal=KILL", "--", unit)
            await asyncio.sleep(POLL_S)
        return True

    async def _call(self, *words: str, timeout_s: float = CALL_S) -> str:
        """What it prints.

        Raises:
            SystemdError: it fails, or takes too long.
        """
        verb, unit = words[0], words[-1]
        try:
            process = await asyncio.create_subprocess_exec(
                *self._program,
                *words,
                env={**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0"},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise SystemdError(
                f"Cannot run systemctl: {error.strerror}. Engine units need systemd; start tunerd "
                "without --engine-units."
            ) from error
        try:
            out, err = await asyncio.wait_for(process.communicate(), timeout_s)
        except TimeoutError as error:
            raise SystemdError(
                f"`systemctl {verb} {unit}` took longer than {timeout_s:g} s. "
                f"`systemctl list-jobs` says what systemd waits for."
            ) from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise SystemdError(refusal(verb, unit, err.decode(errors="replace")))
        return out.decode(errors="replace")


def refusal(verb: str, unit: str, said: str) -> str:
    """Why systemctl failed, and what to do."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    reason = lines[0].removesuffix(".") if lines else "it does not say why"
    if any(text in said for text in NO_BUS):
        todo = "Engine units need a running systemd; start tunerd without --engine-units."
    elif any(text.lower() in said.lower() for text in DENIED):
        todo = "`tuner install --split` writes the polkit rule that allows it."
    elif any(text in said for text in MISSING):
        todo = "`tuner install --split` writes the unit."
    else:
        todo = f"`systemctl status {unit}` and `journalctl -u {unit}` say more."
    return f"Cannot {verb} {unit}: {reason}. {todo}"
