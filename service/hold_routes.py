"""The control API's holds: a stream that is the lease."""

import asyncio
import json
import logging
import time
from typing import Any

from aiohttp import web

from profiles.errors import TunerError
from service.control_body import body_of, text_of
from service.daemon import Daemon
from service.holds import Hold

log = logging.getLogger(__name__)

LOOK_S = 0.5  # how soon a holder that has gone is noticed
BEAT_S = 15.0  # an empty line, so that a holder notices a daemon that has gone
REASON_CHARS = 200


class HoldRoutes:
    """Takes, lists and ends holds."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def listed(self, _: web.Request) -> web.Response:
        """Every hold."""
        holds = [shown(hold) for hold in self._daemon.parts.holds]
        return web.json_response({"v": 1, "holds": holds})

    async def hold(self, request: web.Request) -> web.StreamResponse:
        """Answer with one line of JSON, and keep the profile until the connection ends.

        Raises:
            InvalidKnobsError: the body lacks something.
            NotFoundError: there is no such profile.
            ConflictError: it belongs to another platform, or did harm here.
            BusyError: there are too many holds.
        """
        parts, body = self._daemon.parts, await body_of(request)
        application, wanted = text_of(body, "application"), text_of(body, "profile")
        profile = await self._daemon.steward.chosen(wanted)
        reason = body.get("reason")
        hold = parts.holds.take(
            application, profile, reason[:REASON_CHARS] if isinstance(reason, str) else ""
        )
        said = f"{application} holds {profile.id}"
        try:
            answer = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
            await answer.prepare(request)
            await self._say(said)
            await _line(answer, {"hold": shown(hold), "sentence": said})
            await self._decide()
            await _until_over(request, answer, hold)
            if hold.over.is_set():
                await _line(answer, {"released": hold.why_over, "again": hold.again})
        except ConnectionError:
            pass  # the holder has gone, which is how a hold ends
        finally:
            parts.holds.release(hold)
        await self._say(f"{application} does not hold {profile.id} any more")
        return answer

    async def _decide(self) -> None:
        """Decide now; what cannot be decided is at the policy's next turn."""
        try:
            await self._daemon.steward.consider()
        except TunerError as error:  # half an answer is out: no other can be given
            log.warning("cannot decide: %s", error.sentence())

    async def _say(self, sentence: str) -> None:
        await self._daemon.say("hold", sentence)


async def _until_over(request: web.Request, answer: web.StreamResponse, hold: Hold) -> None:
    """Wait until the hold is ended, or its connection."""
    beaten = time.monotonic()
    while not hold.over.is_set() and request.transport is not None:
        try:
            await asyncio.wait_for(hold.over.wait(), LOOK_S)
        except TimeoutError:
            if time.monotonic() - beaten > BEAT_S:
                beaten = time.monotonic()
                await answer.write(b"\n")


async def _line(answer: web.StreamResponse, body: dict[str, Any]) -> None:
    await answer.write(json.dumps({"v": 1, **body}).encode() + b"\n")


def shown(hold: Hold) -> dict[str, Any]:
    """One hold for a list."""
    return {
        "application": hold.application,
        "profile": hold.profile.id,
        "label": hold.profile.knobs.label(),
        "reason": hold.reason,
        "since": hold.since,
    }
