"""A sweep of a drafter's table: the engine that it starts, or does not."""

from types import SimpleNamespace

import pytest

from profiles.errors import ConflictError
from profiles.knobs import Knobs
from service.table_sweep import TableSweep


class Slot:
    """Without room for another engine, and without live knobs."""

    engine, restarts = object(), 0

    def reaches(self, knobs):
        return False

    def lacking(self, knobs):
        return "/state has 0 MiB free"

    async def replace(self, knobs, **_):
        raise AssertionError("The engine was given up.")


async def test_a_sweep_gives_no_engine_up_for_one_that_cannot_start():
    """F41: it ended the engine that served, could not start its own, and nobody was served."""
    plan = SimpleNamespace(request=None, knobs=Knobs())
    with pytest.raises(ConflictError, match="cannot be started: /state has 0 MiB free"):
        await TableSweep(plan, Slot(), None)._engine(Knobs(drafter="ngram", draft_length=3))
