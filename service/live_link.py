"""The link to the scheduler in one engine: knobs in, counters out, and a test that both work."""

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import Self

from service.engine_client import EngineClient
from service.engine_site import tuner_layout as layout
from service.launch import live_environment
from service.live_files import ControlFile, LiveKnobs, Telemetry, read_telemetry
from service.shared_files import open_plain

POLL_S = 0.01
CONFIRM_S = 5.0  # a running engine takes one step

log = logging.getLogger(__name__)


class LiveLink:
    """Live knobs and step counters of one engine; `shared`: it has another user in our group."""

    def __init__(self, socket: Path, generation: int = 0, *, shared: bool = False) -> None:
        self.environment = live_environment(socket)  # what the engine needs to find both files
        self.telemetry_path = Path(self.environment[layout.TELEMETRY_VARIABLE])
        control = Path(self.environment[layout.CONTROL_VARIABLE])
        self._control = ControlFile(control, generation, shared=shared)

    @classmethod
    def adopted(cls, socket: Path, *, shared: bool = False) -> Self:
        """The link to an engine of an earlier daemon; goes on from its generation."""
        found = read_telemetry(socket.with_suffix(".telemetry"))
        head = b""
        try:
            with os.fdopen(open_plain(socket.with_suffix(".control")), "rb") as file:
                head = file.read(layout.CONTROL_HEAD.size)
        except OSError:
            pass
        written = layout.CONTROL_HEAD.unpack(head)[3] if len(head) == 24 else 0
        confirmed = 0 if found is None else found.fields["generation"]
        # never a generation that was used before: the scheduler looks at changes only
        generation = max(written if written < 1 << 62 else 0, confirmed) + 2
        return cls(socket, generation, shared=shared)

    @property
    def wish(self) -> LiveKnobs | None:
        """The knobs that were last asked for."""
        return self._control.wish

    @property
    def generation(self) -> int:
        """The number of the last wish; the engine confirms it in its telemetry."""
        return self._control.generation

    @property
    def can_admit(self) -> bool:
        """Whether the admitted batch is live; vLLM has it since 0.31."""
        found = self.read()
        return found is not None and found.can(layout.LIVE_ACTIVE)

    def put(self, wish: LiveKnobs) -> int:
        """Ask for knobs; they are in force at the engine's next step."""
        return self._control.put(wish)

    def put_after(self, generation: int, wish: LiveKnobs) -> int | None:
        """Ask for knobs unless somebody has asked for others since that generation: None then."""
        return self._control.put_after(generation, wish)

    def read(self) -> Telemetry | None:
        """The engine's counters."""
        return read_telemetry(self.telemetry_path)

    async def confirmed(self, generation: int, *, timeout_s: float = CONFIRM_S) -> Telemetry | None:
        """The counters once the engine has obeyed; None when it takes no step in that time."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = self.read()
            if found is not None and found.fields["generation"] == generation:
                return found
            if time.monotonic() > deadline:
                return None
            await asyncio.sleep(POLL_S)

    async def self_test(self, client: EngineClient) -> str | None:
        """Flip the draft length and see the counters follow; a sentence when they do not."""
        before = self.read()
        if before is None:
            return "The engine's scheduler writes no telemetry; its log may say why."
        if before.fields["errors"]:
            return "The engine's scheduler gave up its live knobs; its log says why."
        restore = self.wish
        lengths = (1, before.longest) if before.can(layout.LIVE_DRAFT) else (before.longest,)
        try:
            for k in lengths:
                fault = await self._flip(k, client)
                if fault is not None:
                    return fault
        finally:
            if restore is not None:
                self.put(restore)
        return None

    async def _flip(self, k: int, client: EngineClient) -> str | None:
        before = self.read()
        generation = self.put(LiveKnobs.constant(k))
        wrong = await client.canary()
        if wrong is not None:
            return wrong
        after = await self.confirmed(generation)
        if after is None or before is None:
            return f"The engine did not confirm draft length {k}."
        if after.fields["errors"]:
            return "The engine's scheduler gave up its live knobs; its log says why."
        cell, old = after.cells.get((1, k)), before.cells.get((1, k))
        if cell is None or (old is not None and cell.steps <= old.steps):
            return f"The engine's counters show no step with draft length {k}."
        return None

    def remove(self) -> None:
        """Take both files away; the engine has gone."""
        for path in (self._control.path, self.telemetry_path):
            path.unlink(missing_ok=True)
