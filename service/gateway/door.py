"""The door of the data plane: what is let in, what is refused, and the account of both."""

import asyncio
import json
import logging
import random
import time
import traceback
import uuid

from aiohttp import web
from aiohttp.http import HttpVersion10, HttpVersion11

from service.gateway import body, ending, errors, headers, shape
from service.gateway.bodies import Bodies
from service.gateway.call import Call
from service.gateway.envelopes import Dialect
from service.gateway.keyring import Keyring
from service.gateway.ledger import Counters, Ledger
from service.gateway.relay import Relay
from service.gateway.reservoir import Reservoir, Sample
from service.gateway.route import Router
from service.gateway.upstream import Pool
from tuner.config import Config

log = logging.getLogger(__name__)

_REJECTED = frozenset({"hold_full", "hold_timeout", "refused", "bodies_full", "bad_request"})


class Door:
    """The handler of the listening socket."""

    def __init__(
        self,
        *,
        config: Config,
        router: Router,
        pool: Pool,
        ledger: Ledger,
        keyring: Keyring | None = None,
    ) -> None:
        self._keyring = keyring
        self._header = config.gateway.application_header
        self._body_s = config.gateway.body_timeout_s
        self.bodies = Bodies(limit=config.gateway.bodies_mib * body.MIB)
        self._max_body = config.gateway.max_body_mib * body.MIB
        self._router = router
        self._gate = router.gate
        self._ledger = ledger
        self.relay = Relay(
            router=router,
            pool=pool,
            hold_s=config.gateway.hold_s,
            write_s=config.gateway.write_timeout_s,
            comment_s=config.gateway.hold_comment_s if config.gateway.hold_comments else None,
        )
        self._calls: set[Call] = set()
        self.counters = Counters()
        self.last_request_at: float | None = None  # of one that generates, unix time
        self.reservoir: Reservoir | None = None
        if config.tuning.sampling == "memory":
            self.reservoir = Reservoir(
                per_class=config.tuning.sample_requests,
                age_s=config.tuning.sample_s,
                rng=random.Random(),  # noqa: S311 - a sample, not a secret
            )

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if request.raw_path == "/health" and request.method in {"GET", "HEAD"}:
            return self._health()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks
        call = Call(
            request=request,
            task=task,
            arrived=time.monotonic(),
            application=headers.application(request.headers.get(self._header)),
            request_id=headers.request_id(request.headers.get("X-Request-Id")) or uuid.uuid4().hex,
            dialect=Dialect.of(headers.endpoint(request.raw_path)),
        )
        self.counters.received += 1
        self._calls.add(call)
        try:
            self._authenticate(call)
            await self._check(call)
            return await self.relay.forward(call)
        except errors.ApiError as error:
            if call.opened is not None:  # 200 has been sent
                call.end(error.outcome)
                await ending.refuse(request, call.opened, error.event(call.dialect))
                return call.opened
            call.end(error.outcome, error.http_status)
            return _refusal(call, error)
        except asyncio.CancelledError:
            call.leave()
            raise
        except errors.ClientGoneError:
            call.leave()
            ending.abort(request)
            return call.response or call.opened or web.Response()
        except Exception as error:  # noqa: BLE001 - the gateway outlives a broken request
            return self._defect(call, error)
        finally:
            self._close(call)

    def stop(self) -> int:
        """Refuse new and waiting requests; how many are still being answered."""
        self.relay.stopping = True
        for call in self._calls:
            if call.ticket is not None and call.ticket.engine is None:
                call.awake.set()
        return self._gate.in_flight

    def cut(self) -> int:
        """End what is at the engine; how many requests that were."""
        found = [c for c in self._calls if c.ticket is not None and c.ticket.engine is not None]
        for call in found:
            call.cutting = True
            call.task.cancel()
        return len(found)

    def _authenticate(self, call: Call) -> None:
        """Name the application by its key, when keys are in force.

        Raises:
            ApiError: there is no valid key.
        """
        if self._keyring is not None:
            endpoint = headers.endpoint(call.request.raw_path)
            pairs = list(call.request.headers.items())
            call.application = self._keyring.application(endpoint, pairs, call.request.remote or "")

    async def _check(self, call: Call) -> None:
        """Read the request and refuse what no engine should see.

        Raises:
            ApiError: it is refused.
        """
        request = call.request
        if not HttpVersion10 <= request.version <= HttpVersion11:
            raise errors.BadRequestError("Only HTTP/1.0 and HTTP/1.1 are spoken here.")
        endpoint = headers.endpoint(request.raw_path)
        if endpoint is None:
            raise errors.UnknownPathError
        call.endpoint = endpoint
        if request.method not in headers.METHODS:
            raise errors.MethodError
        if "websocket" in request.headers.get("Upgrade", "").lower():
            raise errors.WebSocketError
        if self.relay.stopping:
            raise errors.StoppingError
        if call.generates:
            self.last_request_at = time.time()
        if not self._gate.passing and not self._gate.has_room(request.content_length or 0):
            raise errors.HoldFullError(retry_after_s=self._router.retry_after_s)
        call.body = await self._body(call)
        if request.method == "POST":
            media = request.headers.get("Content-Type", "")
            call.inspection = shape.inspect(endpoint, call.body, media)
            if call.inspection.problem is not None:
                raise errors.BadRequestError(call.inspection.problem)

    async def _body(self, call: Call) -> bytes:
        """The whole body, counted as it comes.

        Raises:
            ApiError: it is refused.
            ClientGoneError: the client left.
        """
        self.bodies.check(call.request.content_length or 0)

        def take(size: int) -> None:
            self.bodies.take(size)
            call.taken += size

        return await body.read(call.request, self._max_body, self._body_s, take)

    def _health(self) -> web.Response:
        gate = "open" if self._gate.passing else "hold"
        return web.json_response({"status": "ok", "gate": gate})

    def _defect(self, call: Call, error: Exception) -> web.StreamResponse:
        """Answer for our own mistake; its message may quote the request, so it is not logged."""
        place = traceback.extract_tb(error.__traceback__)[-1]
        log.error(
            "Cannot serve a request: %s at %s:%s", type(error).__name__, place.name, place.lineno
        )
        defect = errors.DefectError()
        begun = call.response or call.opened
        if begun is not None:
            call.end(defect.outcome)
            ending.abort(call.request)
            return begun
        call.end(defect.outcome, defect.http_status)
        return _refusal(call, defect)

    def _close(self, call: Call) -> None:
        """Account for a request that is over."""
        now = time.monotonic()
        self._calls.discard(call)
        self.bodies.give(call.taken)
        if call.ticket is not None:
            self._gate.leave(call.ticket, now)
        match call.outcome:
            case "ok":
                self.counters.answered += 1
            case "client_gone" | None:
                self.counters.client_gone += 1
            case "bad_request" if call.engine is not None:  # the engine said so
                self.counters.answered += 1
            case outcome if outcome in _REJECTED:
                self.counters.rejected += 1
            case _:
                self.counters.failed += 1
        record = call.record(now)
        if record is not None:
            self._ledger.add(record)
            self._sample(call, record.request_class)

    def _sample(self, call: Call, request_class: str) -> None:
        plain = call.inspection is not None and call.inspection.shape.refuses_speculation
        if (
            self.reservoir is not None
            and call.outcome == "ok"
            and call.status == 200
            and call.endpoint in shape.SAMPLED
            and not plain  # a measurement with speculation on could not replay it
        ):
            sample = Sample(at=time.monotonic(), endpoint=call.endpoint, body=call.body)
            self.reservoir.offer(request_class, sample)

    def samples(self, request_class: str) -> list[dict[str, object]]:
        """Kept requests of a class, parsed."""
        if self.reservoir is None:
            return []
        kept = self.reservoir.samples(request_class, time.monotonic())
        return [{"endpoint": one.endpoint, "body": json.loads(one.body)} for one in kept]

    def sampled_classes(self) -> dict[str, int]:
        """How many requests of each class are kept."""
        return {} if self.reservoir is None else self.reservoir.classes(time.monotonic())


def _refusal(call: Call, error: errors.ApiError) -> web.Response:
    fields = error.headers()
    fields["X-Request-Id"] = call.request_id
    if call.dialect is Dialect.ANTHROPIC:
        fields["Request-Id"] = call.request_id  # where its clients look
    response = web.Response(
        status=error.http_status,
        body=error.body(call.dialect),
        content_type="application/json",
        headers=fields,
    )
    if error.close:
        response.force_close()
    return response
