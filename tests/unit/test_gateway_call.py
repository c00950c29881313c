"""What a client's leaving means, by what it had been sent."""

import asyncio
from types import SimpleNamespace

import pytest

from service.gateway.call import Call

EVENT = b'data: {"choices": []}\n\n'
DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error": {"message": "x"}}\n\n'
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


@pytest.mark.parametrize(
    ("endpoint", "said", "outcome"),
    [
        ("completions", b"", "client_gone"),
        ("completions", EVENT, "client_gone"),
        ("completions", EVENT + DONE, "ok"),
        ("completions", EVENT + ERROR, "engine_error"),
        ("completions", EVENT + ERROR + DONE, "engine_error"),
        ("messages", EVENT + STOP, "ok"),
        ("messages", b'event: error\ndata: {"type":"error","error":{}}\n\n', "engine_error"),
        ("responses", EVENT + DONE, "client_gone"),  # its end is not known
    ],
)
async def test_a_client_that_has_heard_the_end_may_leave(endpoint, said, outcome):
    """Some close at the last event, and at an error at once: the engine's fault stays its own."""
    call = Call(
        request=SimpleNamespace(),
        task=asyncio.current_task(),
        arrived=0.0,
        application="default",
        request_id="mine",
        endpoint=endpoint,
        streaming=True,
        status=200,
    )
    call.tail.feed(said)
    call.leave()

    assert (outcome, 200) == (call.outcome, call.status)
