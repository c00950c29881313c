"""Faults around the service: its store, its disk, its clock, its configuration."""

import asyncio
import contextlib
import errno
import os
import signal
import sqlite3
import time
from pathlib import Path

from soaking.hands import NOTICE_S, POLL_S, Hands, send

BROKEN = "[engine\nthis is no configuration"


class Around(Hands):
    """One method per `Fault.act`; each returns a note when it has undone what it did."""

    _edits = 0

    async def lock_store(self, _: str, lasts_s: float) -> str:
        """Another process has the store's lock."""
        with contextlib.closing(
            sqlite3.connect(self.house.store, timeout=10.0, isolation_level=None)
        ) as database:
            database.execute("BEGIN EXCLUSIVE")
            await asyncio.sleep(lasts_s)
            database.execute("ROLLBACK")
        return ""

    async def hide_store(self, _: str, lasts_s: float) -> str:
        """The file is not where it was, and comes back."""
        hidden = self.house.store.with_name("hidden")
        self.house.store.rename(hidden)
        try:
            await asyncio.sleep(lasts_s)
        finally:
            made = self.house.store.exists()
            hidden.rename(self.house.store)
        return "another store was made" if made else ""

    async def damage_store_and_kill(self, target: str, _: float) -> str:
        """The file is overwritten under a process that stands, and the next begins with that."""
        store = self.house.store
        for each in self.found(target):
            send(each.pid, signal.SIGSTOP)
        store.write_bytes(os.urandom(store.stat().st_size))
        self.end(target)
        back = await self.again(target)
        await self.until(lambda: any(store.parent.glob(f"{store.name}.damaged-*")))
        return back

    async def fill_disk_and_kill(self, target: str, lasts_s: float) -> str:
        """No byte is left, and a process begins anew with that."""
        return await self.fill_disk("", lasts_s, kill=target)

    async def fill_disk(self, _: str, lasts_s: float, *, kill: str = "") -> str:
        """No byte is left in the state folder."""
        filler = self.house.state / "filler"
        try:
            for size in (1 << 20, 1 << 12, 1):
                _fill(filler, size)
            self.end(kill)
            await asyncio.sleep(lasts_s)
        finally:
            filler.unlink(missing_ok=True)
        return await self.again(kill)

    async def jump(self, _: str, lasts_s: float) -> str:
        """The clock goes an hour forward, an hour back, and right again."""
        try:
            for offset in ("+3600", "-3600"):
                self.house.clock.write_text(offset)
                await asyncio.sleep(lasts_s / 2)
        finally:
            self.house.clock.write_text("+0")
        await asyncio.sleep(0.5)  # it is looked at a few times a second
        return ""

    async def edit(self, _: str, __: float) -> str:
        """Another value is written, and read again by SIGHUP, or by a restart without it."""
        self._edits += 1
        wanted = 10.0 + self._edits
        self.house.overrides["policy"]["dwell_s"] = wanted
        self.house.write()
        how = await self._reload()

        async def read() -> bool:
            with contextlib.suppress(OSError, ValueError):
                _status, found = await self.ask("GET", "/v1/config")
                return bool(found["config"]["policy"]["dwell_s"] == wanted)
            return False

        deadline = time.monotonic() + NOTICE_S
        while not await read():
            if time.monotonic() > deadline:
                return f"{how}: the new value is not in force"
            await asyncio.sleep(POLL_S)
        return how

    async def break_config_and_kill(self, target: str, lasts_s: float) -> str:
        """The file is no TOML, and a process begins anew with that."""
        path = self.house.folder / "tuner.toml"
        path.write_text(BROKEN)
        try:
            self.end(target)
            await asyncio.sleep(lasts_s)
        finally:
            self.house.write()
        return await self.again(target)

    async def break_config(self, _: str, lasts_s: float) -> str:
        """The file is no TOML for a while."""
        path = self.house.folder / "tuner.toml"
        path.write_text(BROKEN)
        how = "not read"
        try:
            if self._catches(signal.SIGHUP):
                how = await self._reload()
            await asyncio.sleep(lasts_s)
        finally:
            self.house.write()
        if self._catches(signal.SIGHUP):
            await self._reload()
        return how

    async def _reload(self) -> str:
        if self._catches(signal.SIGHUP):
            (supervisor,) = self.found("supervisor")
            send(supervisor.pid, signal.SIGHUP)
            return "SIGHUP"
        await self.kill("tunerd", 0.0)
        return "restart"

    def _catches(self, number: signal.Signals) -> bool:
        """Whether the supervisor handles this signal; else it would end it."""
        for seen in self.found("supervisor"):
            status = Path(f"/proc/{seen.pid}/status").read_text()
            caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
            return bool(int(caught.split()[1], 16) >> (number - 1) & 1)
        return False


def _fill(path: Path, size: int) -> None:
    """Append blocks until there is no room for another one."""
    with path.open("ab", buffering=0) as file:
        try:
            while file.write(bytes(size)) == size:
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
