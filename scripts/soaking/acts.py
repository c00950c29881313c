"""What each fault does, and how it is undone again."""

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from soaking import watch
from soaking.faults import Fault
from soaking.house import House

POLL_S = 0.1
NOTICE_S = 30.0  # until the daemon has seen what was done
LENGTHS = (2, 3, 4, 5, 6, 7, 8)  # of the profiles that the operator chooses from
SLOW_CLIENTS = 12
NEVER_READ = 400  # questions of a client that reads no answer


class Acts:
    """One method per `Fault.act`; each returns a note when it has undone what it did."""

    def __init__(self, house: House) -> None:
        self.house = house
        self._edits = 0
        self._choices = 0

    async def strike(self, fault: Fault, lasts_s: float) -> str:
        """Do it, keep it up, undo it."""
        act = getattr(self, fault.act)
        return str(await act(fault.target, lasts_s) or "")

    # --- processes ------------------------------------------------------------------------------

    def found(self, role: str) -> list[watch.Seen]:
        """The live processes of a role."""
        return [seen for seen in watch.scan(self.house.needle) if seen.role == role]

    async def kill(self, target: str, _: float) -> str:
        """SIGKILL."""
        seen = self.found(target)
        for each in seen:
            _signal(each.pid, signal.SIGKILL)
        await self._until(lambda: {s.pid for s in self.found(target)} - {s.pid for s in seen})
        return "" if seen else f"there was no {target}"

    async def kill_engine(self, _: str, __: float) -> str:
        """SIGKILL of an engine's main process."""
        seen = self.found("engine")
        for each in seen:
            _signal(each.pid, signal.SIGKILL)
        await self._another_engine({each.token for each in seen})
        return "" if seen else "there was no engine"

    async def kill_child(self, _: str, __: float) -> str:
        """SIGKILL of what an engine has started."""
        seen = self.found("engine child")
        for each in seen:
            _signal(each.pid, signal.SIGKILL)
        return "" if seen else "the engine had no child"

    async def stop(self, target: str, lasts_s: float) -> str:
        """SIGSTOP, and SIGCONT after a while."""
        seen = self.found(target)
        for each in seen:
            _signal(each.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(lasts_s)
        finally:
            for each in seen:
                _signal(each.pid, signal.SIGCONT)
        return "" if seen else f"there was no {target}"

    # --- engine ---------------------------------------------------------------------------------

    async def bad_start(self, _: str, lasts_s: float) -> str:
        """The engine is killed, and none comes up for a while."""
        seen = self.found("engine")
        self.house.script(**self.house.normal, exit={"code": 1, "log": "oom"})
        try:
            for each in seen:
                _signal(each.pid, signal.SIGKILL)
            await asyncio.sleep(lasts_s)
        finally:
            self.house.script(**self.house.normal)
        await self._another_engine({each.token for each in seen})
        return ""

    async def die(self, _: str, lasts_s: float) -> str:
        """The engine dies within an answer, and so does each one that follows, for a while."""
        return await self._misbehave({"kind": "die", "after": 3}, lasts_s, dies=True)

    async def hang(self, _: str, lasts_s: float) -> str:
        """The engine says nothing more within answers, and is well as far as /health knows."""
        return await self._misbehave({"kind": "hang", "after": 2}, lasts_s, dies=False)

    async def _misbehave(self, fail: dict[str, Any], lasts_s: float, *, dies: bool) -> str:
        tokens = {each.token for each in self.found("engine")}
        self.house.script(**self.house.normal, fail=fail)
        try:
            if dies:  # without traffic nothing dies
                await self._until(lambda: not self._alive(tokens), within_s=5.0)
            await asyncio.sleep(lasts_s)
        finally:
            self.house.script(**self.house.normal)
        lived = self._alive(tokens)
        if dies and not lived:
            await self._another_engine(tokens)
        elif not dies:  # what hangs is ended by the gateway's timeout
            await asyncio.sleep(float(self.house.settings()["gateway"]["idle_timeout_s"]))
        return "it lived on" if dies and lived else ""

    async def choose(self, _: str, __: float) -> str:
        """The operator puts a profile in force, or hands the choice back."""
        self._choices += 1
        if self._choices % 3 == 0:
            status, answered = await self.ask("POST", "/v1/use", {"profile": "auto"})
            return f"auto: {status}"
        lengths = LENGTHS[self._choices % len(LENGTHS) :] + LENGTHS
        for length in lengths[: len(LENGTHS)]:
            knobs = {"drafter": "ngram", "draft_length": length}
            if self.house.real:
                knobs["cpu_kv_gib"] = 1
            given = {"knobs": knobs, "platform": "elsewhere", "workload": "any", "origin": "import"}
            status, answered = await self.ask("POST", "/v1/profiles/import", {"profile": given})
            if status != 200:
                return f"import: {status} {answered['error']['message']}"
            status, answered = await self.ask("POST", "/v1/use", {"profile": answered["id"]})
            if status == 200:  # else it is in quarantine
                return str(answered["sentence"])
        return f"every profile is refused: {answered['error']['message']}"

    # --- store, disk, clock ---------------------------------------------------------------------

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

    async def fill_disk(self, _: str, lasts_s: float) -> str:
        """No byte is left in the state folder."""
        filler = self.house.state / "filler"
        try:
            for size in (1 << 20, 1 << 12, 1):
                _fill(filler, size)
            await asyncio.sleep(lasts_s)
        finally:
            filler.unlink(missing_ok=True)
        return ""

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

    # --- clients --------------------------------------------------------------------------------

    async def slowloris(self, _: str, lasts_s: float) -> str:
        """Heads that never end and bodies that trickle."""
        head = b"POST /v1/completions HTTP/1.1\r\nHost: soak\r\n"
        body = head + b"Content-Type: application/json\r\nContent-Length: 5000\r\n\r\n"
        async with contextlib.AsyncExitStack() as stack:
            tasks = []
            for number in range(SLOW_CLIENTS):
                begin, more = (head, b"X-Slow: 1\r\n") if number % 2 else (body, b" ")
                reader, writer = await stack.enter_async_context(_connected(self.house.port))
                tasks.append(asyncio.create_task(_trickle(reader, writer, begin, more)))
            done, late = await asyncio.wait(tasks, timeout=lasts_s + 30.0)
            for task in late:
                task.cancel()
        answers = sorted({task.result() for task in done})
        return f"{len(late)} were not ended; {', '.join(answers)}"

    async def never_read(self, _: str, lasts_s: float) -> str:
        """A client asks the status socket all the time and reads nothing."""
        question = b"GET /v1/history?limit=1000 HTTP/1.1\r\nHost: tuner\r\n\r\n"
        sockets = []
        try:
            for _number in range(4):
                client = socket.socket(socket.AF_UNIX)
                sockets.append(client)
                client.setblocking(False)
                client.connect(str(self.house.folder / "run" / "status.sock"))
                with contextlib.suppress(BlockingIOError):
                    for _question in range(NEVER_READ):
                        client.send(question)
            await asyncio.sleep(lasts_s)
        finally:
            for client in sockets:
                client.close()
        return ""

    # --- configuration --------------------------------------------------------------------------

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

    async def break_config(self, _: str, lasts_s: float) -> str:
        """The file is no TOML for a while."""
        path = self.house.folder / "tuner.toml"
        path.write_text("[engine\nthis is no configuration")
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
            _signal(supervisor.pid, signal.SIGHUP)
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

    # --- helpers --------------------------------------------------------------------------------

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """A question to the control socket."""
        return await asyncio.to_thread(self.house.ask, method, path, body)

    async def _another_engine(self, tokens: set[str]) -> None:
        await self._until(lambda: {each.token for each in self.found("engine")} - tokens)

    def _alive(self, tokens: set[str]) -> set[str]:
        return tokens & {each.token for each in self.found("engine")}

    async def _until(self, condition: Callable[[], Any], *, within_s: float = NOTICE_S) -> None:
        """Wait for it; the healing, which has a bound, says what did not come."""
        deadline = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > deadline:
                return
            await asyncio.sleep(POLL_S)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _fill(path: Path, size: int) -> None:
    """Append blocks until there is no room for another one."""
    with path.open("ab", buffering=0) as file:
        try:
            while file.write(bytes(size)) == size:
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


@contextlib.asynccontextmanager
async def _connected(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def _trickle(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, begin: bytes, more: bytes
) -> str:
    """Write a little every half second until the other side ends it; the status that it said."""
    writer.write(begin)
    answer = asyncio.create_task(reader.read())
    while not answer.done():
        await asyncio.wait([answer], timeout=0.5)
        with contextlib.suppress(ConnectionError):
            writer.write(more)
            await writer.drain()
    try:
        said = answer.result()
    except ConnectionError:
        return "reset"
    return said.split(b" ")[1].decode() if said.startswith(b"HTTP/") else json.dumps(len(said))
