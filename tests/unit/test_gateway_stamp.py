"""The class in the request id: for the engine only, and never for the client."""

import asyncio
from types import SimpleNamespace

import pytest
from aiohttp import web
from multidict import CIMultiDict

from profiles.classes import CODES, RequestClass
from service.engine_site.tuner_layout import UNSTAMPED, class_code
from service.gateway import shape
from service.gateway.call import Call, upstream_headers
from service.gateway.relay import Relay

GREEDY = b'{"prompt": "x", "max_tokens": 128, "temperature": 0}'
JSON = "application/json"


@pytest.fixture
async def call():
    """Makes calls as they are when they go to the engine."""

    def make(
        body=GREEDY, *, endpoint=shape.COMPLETIONS, method="POST", request_id="mine", seen=True
    ):
        return Call(
            request=SimpleNamespace(method=method, headers=CIMultiDict()),
            task=asyncio.current_task(),
            arrived=0.0,
            application="default",
            request_id=request_id,
            endpoint=endpoint,
            body=body,
            inspection=shape.inspect(endpoint, body, JSON) if seen else None,
        )

    return make


def sent_id(call):
    """The request ids that the engine gets."""
    return [value for name, value in upstream_headers(call) if name == "X-Request-Id"]


@pytest.mark.parametrize(
    ("body", "workload"),
    [
        (GREEDY, "greedy.balanced"),
        (b'{"prompt": "x"}', "sampled.short-out"),
        (b'{"prompt": "x", "structured_outputs": {"json": {}}}', "structured.short-out"),
    ],
)
async def test_the_engine_learns_the_class_from_the_id(call, body, workload):
    """One id, with the code of its class at its end."""
    (found,) = sent_id(call(body))

    assert found.startswith("mine~t")
    assert CODES.index(RequestClass.parse(workload)) == class_code(f"cmpl-{found}-0-abcdef01")


async def test_a_stamp_of_the_clients_own_is_not_taken_for_ours(call):
    """An id that looks stamped is stamped once more."""
    (found,) = sent_id(call(request_id="mine~tb"))

    assert ("mine~tb~t1", 1) == (found, class_code(found))


@pytest.mark.parametrize(
    "more",
    [
        {"endpoint": "models", "method": "GET", "body": b""},
        {"method": "GET"},
        {"endpoint": "tokenize"},
        {"seen": False},  # its body was never looked at
    ],
)
async def test_what_has_no_class_is_not_stamped(call, more):
    """Its id passes as it is, and a scheduler that saw it would count it as unstamped."""
    assert ["mine"] == sent_id(call(**more))
    assert UNSTAMPED == class_code("mine")


@pytest.mark.parametrize("echo", ["X-Request-Id", "x-request-id", None])
async def test_the_client_gets_its_own_id_back(call, echo):
    """An engine with --enable-request-id-headers echoes the stamped one, which nobody knows."""
    one = call()
    (stamped,) = sent_id(one)
    fields = CIMultiDict({"Content-Type": "application/json", "X-Other": "1"})
    if echo is not None:
        fields[echo] = stamped
    upstream = SimpleNamespace(headers=fields, status=200, reason="OK")
    relay = Relay(router=SimpleNamespace(gate=None), pool=None, hold_s=1.0, write_s=1.0)
    response = relay._response(one, upstream)

    assert isinstance(response, web.StreamResponse)
    assert ["mine"] == response.headers.getall("X-Request-Id")
    assert "1" == response.headers["X-Other"]
