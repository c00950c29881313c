"""Starts of an engine on a disk that fills up meanwhile, with a fake vLLM."""

import errno

import pytest
from test_peer_defects_processes import launch_plan

from service import engine
from service.engine import Engine
from service.engine_record import EngineRecord, members


@pytest.mark.parametrize("writes", [1, 2])
async def test_a_record_that_cannot_be_written_leaves_no_engine(tmp_path, monkeypatch, writes):
    """Without a record nobody would find the engine again: it is ended, and nothing is left."""
    made, write = [], EngineRecord.write

    def some(record, path):
        made.append(record)
        if len(made) > writes:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(record, path)

    monkeypatch.setattr(engine.EngineRecord, "write", some)
    with pytest.raises(OSError, match="No space left"):
        await Engine.launch(launch_plan(tmp_path))

    assert made[-1].pid is not None
    assert [] == members(made[0].token, made[-1].pid)
