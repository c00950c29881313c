"""The control API: HTTP and JSON on two unix sockets, one of them read-only."""

import asyncio
import logging
import os
import re
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, cast

from aiohttp import web
from pydantic import ValidationError

from profiles.errors import ExitCode, InvalidKnobsError, TunerError
from profiles.profile import Origin, Profile
from service.control_body import body_of, text_of
from service.daemon import Daemon
from service.explain import explained
from service.hold_routes import HoldRoutes
from service.modes import Event
from service.reception import Reception
from service.status import account, brief, event, learned, status
from service.table_sweep import SweepRequest
from tuner.telemetry import Telemetry

log = logging.getLogger(__name__)

MAX_BODY = 1 << 20  # bytes
BACKLOG = 128
STOP_S = 2.0  # for answers that are under way when the daemon ends
MAX_LIMIT = 10_000
LIMIT = re.compile("[0-9]{1,4}")

Given = Mapping[str, socket.socket]  # by name: "status", "control"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Control:
    """Serves the daemon to the command line and to whoever may open the sockets."""

    def __init__(self, daemon: Daemon, telemetry: Telemetry) -> None:
        self._daemon = daemon
        self._holds = HoldRoutes(daemon)
        self._telemetry = telemetry
        self._started_at = time.time()
        self._runners: list[web.AppRunner] = []
        self._receptions: list[Reception] = []

    async def serve(self, status_socket: Path, control_socket: Path, given: Given) -> None:
        """Listen where systemd does, or else at these paths.

        A socket file of a dead daemon is replaced (the lock is held by us).
        """
        await self._listen(status_socket, 0o666, given.get("status"), changes=False)
        await self._listen(control_socket, 0o660, given.get("control"), changes=True)

    async def close(self) -> None:
        """Stop listening; holders are told that they hold nothing any more."""
        self._daemon.parts.holds.clear("tunerd ends", again=True)
        for reception in self._receptions:
            await reception.close()
        for runner in self._runners:
            await runner.cleanup()

    async def _listen(
        self, path: Path, mode: int, given: socket.socket | None, *, changes: bool
    ) -> None:
        app = web.Application(middlewares=[_errors], client_max_size=MAX_BODY)
        app.add_routes(
            [
                web.get("/v1/status", self._status),
                web.get("/v1/classes", self._classes),
                web.get("/v1/profiles", self._profiles),
                web.get("/v1/profiles/{id}", self._profile),
                web.get("/v1/trials", self._trials),
                web.get("/v1/history", self._history),
                web.get("/v1/explain", self._explain),
                web.get("/v1/pins", self._pins),
                web.get("/v1/holds", self._holds.listed),
                web.get("/v1/config", self._config),
                web.get("/v1/sweep", self._sweep),
                web.get("/v1/live/visits", self._visits),
            ]
        )
        if changes:
            app.add_routes(
                [
                    web.post("/v1/pins", self._pin),
                    web.delete("/v1/pins/{application}", self._unpin),
                    web.post("/v1/holds", self._holds.hold),
                    web.post("/v1/use", self._use),
                    web.post("/v1/tune", self._tune),
                    web.post("/v1/tune/stop", self._tune_stop),
                    web.post("/v1/sweep", self._sweep_start),
                    web.post("/v1/sweep/stop", self._tune_stop),
                    web.post("/v1/profiles/import", self._import),
                    web.post("/v1/stop", self._stop),
                ]
            )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_S)
        await runner.setup()
        self._runners.append(runner)
        server = cast("web.Server", runner.server)  # since the setup
        # what its unit has bound keeps its mode and its file
        listener = _bound(path, mode) if given is None else given
        self._receptions.append(Reception(server, listener))

    async def _status(self, _: web.Request) -> web.Response:
        found = await status(self._daemon, self._telemetry, self._started_at)
        return _answer({**found, "pid": os.getpid()})

    async def _classes(self, _: web.Request) -> web.Response:
        found = await status(self._daemon, self._telemetry, self._started_at)
        seen = {
            name: {"concurrency": traffic.concurrency, "requests": traffic.requests}
            for name, traffic in self._daemon.parts.observer.seen.items()
        }
        return _answer({"classes": found["traffic"]["classes"], "seen": seen})

    async def _profiles(self, _: web.Request) -> web.Response:
        archive = self._daemon.parts.archive
        profiles = await archive.call(archive.store.profiles)
        return _answer(
            {
                "profiles": [brief(profile) for profile in profiles],
                "platform": self._daemon.parts.platform.digest,
                "in_force": self._daemon.state.in_force.id,
            }
        )

    async def _profile(self, request: web.Request) -> web.Response:
        archive = self._daemon.parts.archive
        profile = await archive.call(archive.store.profile, request.match_info["id"])
        return _answer(
            {
                "profile": profile.model_dump(mode="json"),
                "id": profile.id,
                "unfit": await archive.unfit(profile),
            }
        )

    async def _trials(self, request: web.Request) -> web.Response:
        archive = self._daemon.parts.archive
        rows = await archive.call(archive.store.trials, _limit(request))
        trials = []
        for row in rows:
            found = await archive.call(archive.store.measurements, row.platform, trial=row.id)
            measured = [
                {
                    "workload": m.workload,
                    "phase": m.phase,
                    "learned": learned(m.knobs),
                    "tok_s": m.tok_s,
                    "spread": m.spread,
                    "acceptance_length": m.acceptance and m.acceptance.mean_length,
                    "joule_per_token": m.joule_per_token,
                    "invalid": m.invalid,
                    "failure": m.failure and m.failure.sentence,
                }
                for m in found
            ]
            trials.append(
                {
                    **row.model_dump(mode="json"),
                    "label": row.knobs.label(),
                    "measurements": measured,
                }
            )
        return _answer({"trials": trials})

    async def _history(self, request: web.Request) -> web.Response:
        archive = self._daemon.parts.archive
        events = await archive.call(archive.store.events, _limit(request))
        accounts = await archive.call(archive.store.accounts, self._daemon.parts.platform.digest)
        return _answer({"ledger": account(accounts), "events": [event(e) for e in events]})

    async def _explain(self, request: web.Request) -> web.Response:
        return _answer(await explained(self._daemon, request.query.get("workload")))

    async def _pins(self, _: web.Request) -> web.Response:
        archive = self._daemon.parts.archive
        return _answer(
            {"pins": [pin.model_dump() for pin in await archive.call(archive.store.pins)]}
        )

    async def _config(self, _: web.Request) -> web.Response:
        config = self._daemon.parts.config.model_dump(mode="json")
        # environment values may be credentials of a model hub
        config["engine"]["env"] = dict.fromkeys(config["engine"]["env"], "(hidden)")
        return _answer({"config": config})

    async def _pin(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        application, wanted = text_of(body, "application"), text_of(body, "profile")
        parts = self._daemon.parts
        store = parts.archive.store
        known = await self._applications()
        profile = await parts.archive.call(store.profile, wanted)
        if profile.platform == parts.platform.digest:  # of another platform: the store says so
            await parts.archive.check_choice(profile)
        pin = await parts.archive.call(
            store.set_pin, application, wanted, platform=parts.platform.digest, at=time.time()
        )
        sentence = f"{application} is pinned to {pin.profile}"
        if application not in known:
            sentence += (
                f"; no request of {application!r} was seen yet "
                f"(seen: {', '.join(sorted(known)) or 'none'})"
            )
        await self._daemon.say("pin", sentence)
        return _answer({"pin": pin.model_dump(), "sentence": sentence})

    async def _applications(self) -> set[str]:
        return {r.application for r in self._daemon.parts.observer.since(0.0)}

    async def _unpin(self, request: web.Request) -> web.Response:
        application = request.match_info["application"]
        archive = self._daemon.parts.archive
        await archive.call(archive.store.unset_pin, application)
        await self._daemon.say("pin", f"{application} is not pinned any more")
        return _answer({"sentence": f"{application} is not pinned any more"})

    async def _use(self, request: web.Request) -> web.Response:
        sentence = await self._daemon.steward.use(text_of(await body_of(request), "profile"))
        return _answer({"sentence": sentence})

    async def _tune(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        classes = body.get("classes", [])
        if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
            raise InvalidKnobsError('"classes" must be a list of class names.')
        chosen = await self._daemon.steward.tune(classes, by_hand=True)
        return _answer({"classes": list(chosen), "sentence": f"tuning {', '.join(chosen)}"})

    async def _tune_stop(self, _: web.Request) -> web.Response:
        sentence = await self._daemon.stop_tuning()
        return _answer({"sentence": sentence})

    async def _sweep(self, _: web.Request) -> web.Response:
        return _answer(await asyncio.to_thread(self._daemon.parts.lab.sweep_answer))

    async def _sweep_start(self, request: web.Request) -> web.Response:
        try:
            wanted = SweepRequest.model_validate(await body_of(request))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise InvalidKnobsError(f"This is not a sweep: {place}: {first['msg']}.") from error
        return _answer({"sentence": self._daemon.steward.sweep(wanted)})

    async def _visits(self, _: web.Request) -> web.Response:
        live = self._daemon.parts.live
        return _answer({"visits": [] if live is None else list(live.visits)})

    async def _import(self, request: web.Request) -> web.Response:
        parts = self._daemon.parts
        raw = (await body_of(request)).get("profile")
        try:
            given = Profile.model_validate(raw)
        except ValueError as error:
            raise InvalidKnobsError(f"This is not a profile: {error}") from error
        # knobs must be startable here; what was measured elsewhere is no evidence here
        parts.slot.plan(given.knobs, profile="import", purpose="serve")
        profile = Profile(
            knobs=given.knobs,
            platform=parts.platform.digest,
            workload=given.workload,
            origin=Origin.IMPORT,
            created_at=time.time(),
        )
        await parts.archive.call(parts.archive.store.put_profile, profile)
        return _answer({"id": profile.id, "sentence": f"imported as {profile.id}"})

    async def _stop(self, _: web.Request) -> web.Response:
        self._daemon.post(Event.STOP_WANTED)
        return _answer({"sentence": "tunerd stops"})


def _bound(path: Path, mode: int) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(mode)  # before anybody can connect
    listener.listen(BACKLOG)
    return listener


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except TunerError as error:
        return _failure(error.http_status, error.message, error.hint, int(error.exit_code))
    except web.HTTPException as error:
        hint = "The read-only socket takes GET only; changes go to control.sock."
        return _failure(error.status, f"{error.reason}: {request.path}", hint, 2)
    except Exception:
        log.exception("%s %s", request.method, request.path)
        return _failure(500, "A defect of tunerd; its log says more.", "", int(ExitCode.INTERNAL))


def _failure(code: int, message: str, hint: str, exit_code: int) -> web.Response:
    body = {"v": 1, "error": {"message": message, "hint": hint, "exit_code": exit_code}}
    return web.json_response(body, status=code)


def _answer(body: dict[str, Any]) -> web.Response:
    return web.json_response({"v": 1, **body})


def _limit(request: web.Request) -> int:
    text = request.query.get("limit", "100")
    return int(text) if LIMIT.fullmatch(text) else MAX_LIMIT if text.isdecimal() else 100
