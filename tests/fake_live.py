"""The live knobs of a fake engine: tunerd's own scheduler, which runs each answer by itself."""

import importlib
import itertools

from scheduler_base import Base, Request


class Live:
    """Obeys the control file and counts steps, as an engine with `--scheduler-cls` does."""

    def __init__(self, longest: int) -> None:
        module = importlib.import_module("tuner_scheduler")  # from the engine's PYTHONPATH
        made = type("Live", (module.Tuned, Base), {"tuner_trims": False})
        self._scheduler = made(longest=longest, table=longest > 0)
        self._scheduler.tuner_begin()
        self._names = (f"cmpl-{number}-0-abcdef01" for number in itertools.count())

    def run(self, tokens: int) -> None:
        """The steps of an answer of so many tokens."""
        self._scheduler.add_request(Request(next(self._names), max_tokens=tokens))
        while self._scheduler.requests:
            self._scheduler.update_from_output(self._scheduler.schedule(), 0)
