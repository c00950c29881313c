"""The admin interface: HTTP/JSON on a unix socket that only our own user can open."""

import json
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.gateway.door import Door
from service.gateway.ledger import Ledger
from service.gateway.route import Router, RouteWish

MAX_WAIT_S = 300.0  # of one long poll

Model = TypeVar("Model", bound=BaseModel)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class DrainWish(BaseModel):
    """How long to wait for the engine to be idle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    deadline_s: float = Field(ge=0)


class RecordsWish(BaseModel):
    """Where to go on, and how long to wait for more."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    after: int = Field(default=0, ge=0)
    wait_s: float = Field(default=0.0, ge=0, le=MAX_WAIT_S)


class Admin:
    """What tunerd may ask of a gateway."""

    def __init__(self, *, router: Router, door: Door, ledger: Ledger) -> None:
        self._router = router
        self._door = door
        self._ledger = ledger

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[_explain])
        app.add_routes(
            [
                web.get("/state", self._state),
                web.put("/route", self._route),
                web.post("/drain", self._drain),
                web.post("/cut", self._cut),
                web.get("/records", self._records),
                web.get("/samples", self._samples),
                web.get("/samples/classes", self._classes),
            ]
        )
        return app

    def state(self) -> dict[str, Any]:
        """Everything that can be shown at once."""
        cost = self._router.gate.cost
        counters = self._door.counters
        return {
            **self._router.state(),
            "bodies_bytes": self._door.bodies.taken,
            "generated_bytes": self._door.relay.generated_bytes,
            "last_request_at": self._door.last_request_at,
            "counters": {
                "received": counters.received,
                "answered": counters.answered,
                "failed": counters.failed,
                "rejected": counters.rejected,
                "client_gone": counters.client_gone,
                "held_total": cost.total,
                "held_s_total": cost.s_total,
                "held_s_max": cost.s_max,
            },
            "records_next": self._ledger.newest,
            "records_dropped": self._ledger.dropped,
            "pid": os.getpid(),
        }

    async def _state(self, _: web.Request) -> web.Response:
        return web.json_response(self.state())

    async def _route(self, request: web.Request) -> web.Response:
        wish = RouteWish.model_validate_json(await request.read())
        if wish.gate == "open" and wish.engine is None:
            raise web.HTTPBadRequest(text="An open gate needs an engine.")
        self._router.put(wish)
        return web.json_response(self.state())

    async def _drain(self, request: web.Request) -> web.Response:
        wish = DrainWish.model_validate_json(await request.read())
        return web.json_response({"in_flight": await self._router.drained(wish.deadline_s)})

    async def _cut(self, _: web.Request) -> web.Response:
        return web.json_response({"cut": self._door.cut()})

    async def _records(self, request: web.Request) -> web.Response:
        wish = RecordsWish.model_validate(dict(request.query))
        return web.json_response(await self._ledger.after(wish.after, wish.wait_s))

    async def _samples(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"samples": self._door.samples(request.query.get("request_class", ""))}
        )

    async def _classes(self, _: web.Request) -> web.Response:
        return web.json_response({"classes": self._door.sampled_classes()})


@web.middleware
async def _explain(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors as JSON sentences."""
    try:
        return await handler(request)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "body"
        return _error(400, f"{place}: {first['msg']}")
    except web.HTTPException as error:
        return _error(error.status, error.text or error.reason)


def _error(status: int, message: str) -> web.Response:
    return web.Response(
        status=status,
        text=json.dumps({"error": {"message": message}}),
        content_type="application/json",
    )
