"""Memory on the cards for the start of an engine: asked for before, and waited for a moment."""

import asyncio
import time
from collections.abc import Callable, Iterable

from profiles.measurement import Failure, FailureKind
from service.engine import Engine, EngineStartError
from tuner.card_room import Need, shortage
from tuner.gpu_reading import GpuReading
from tuner.processes import EngineProcess

# of a process that was killed it comes back within seconds
WAIT_S = 10.0
POLL_S = 0.5


class CardMemory:
    """Looks at the latest readings of the cards that an engine may use."""

    def __init__(self, cards: Callable[[], Iterable[GpuReading]] = tuple) -> None:
        self._cards = cards

    def lacking(self, need: Need, engine: Engine | None) -> str | None:
        """Why this engine should not be given up for one with such a need; None when it may be."""
        cards, ours = tuple(self._cards()), frozenset[int]()
        if cards and engine is not None:
            record = engine.record
            meant = EngineProcess.of(record.pid, record.started_at, record.control_group)
            ours = frozenset() if meant is None else meant.pids()
        return shortage(cards, need, ours)

    async def wait(self, need: Need) -> None:
        """Wait until there is enough of it.

        Raises:
            EngineStartError: others hold it and keep it; vLLM would find the same after a minute.
        """
        end = time.monotonic() + WAIT_S
        while (short := shortage(self._cards(), need)) is not None:
            if time.monotonic() > end:
                sentence = f"Another process holds GPU memory that this engine needs: {short}."
                failure = Failure(kind=FailureKind.FOREIGN_MEMORY, sentence=sentence)
                raise EngineStartError(failure)
            await asyncio.sleep(POLL_S)
