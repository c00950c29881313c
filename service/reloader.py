"""The reloader: reads the configuration again when it is told to, once for many tellings."""

import asyncio
import time
from pathlib import Path

from profiles.errors import TunerError
from service.daemon import Daemon
from service.reload import Reloaded, reload
from tuner.config_file import load
from tuner.objective import Goals

# a storm of signals is one wish: the file is read when it is over, or after the longer time
SETTLE_S, MOST_S = 0.5, 5.0


class Reloader:
    """Puts a changed file in force as far as that can be done in a running daemon."""

    def __init__(self, file: Path, daemon: Daemon) -> None:
        self._file = file
        self._daemon = daemon
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Read the file soon."""
        self._asked.set()

    async def run(self) -> None:
        """Wait to be asked, until cancelled."""
        while True:
            await self._asked.wait()
            latest = time.monotonic() + MOST_S
            while self._asked.is_set() and time.monotonic() < latest:
                self._asked.clear()
                await asyncio.sleep(SETTLE_S)
            self._asked.clear()
            await self.read()

    async def read(self) -> None:
        """Read the file once; a wrong one changes nothing."""
        daemon = self._daemon
        try:
            new = await asyncio.to_thread(load, self._file)
        except TunerError as error:
            sentence = "the new configuration is not used, the one before stays in force: "
            sentence += " ".join(error.message.split())
            daemon.state.reloaded = Reloaded(at=time.time(), sentence=sentence, refused=True)
            await daemon.say("reload", sentence)
            return
        parts = daemon.parts
        found = reload(parts.config, new)
        config = parts.config = found.config
        parts.slot.configure(config)
        parts.lab.configure(config)
        parts.observer.configure(config.policy)
        parts.archive.goals = Goals.of(config.tuning)
        sentence = found.sentence()
        daemon.state.reloaded = Reloaded(at=time.time(), sentence=sentence, waiting=found.waiting)
        await daemon.say("reload", sentence)
        daemon.steward.retry()  # what kept an engine from starting may be mended
