"""The life of the gateway's process: start, serve, stop."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator

from aiohttp import web

from profiles.errors import UnavailableError
from service.gateway import descriptors
from service.gateway import listener as sockets
from service.gateway.admin import Admin
from service.gateway.body import MIB
from service.gateway.door import Door
from service.gateway.gate import Gate, Limits
from service.gateway.guard import ConnectionLimits, Guard
from service.gateway.keyring import Keyring, check_exposure
from service.gateway.ledger import Ledger
from service.gateway.route import Router
from service.gateway.upstream import Pool
from service.notify import Beat, Notifier
from tuner.config import Config
from tuner.paths import Paths

log = logging.getLogger(__name__)

KEEPALIVE_S = 75.0  # aiohttp's low-level server would keep idle connections for an hour
UNREAD_BYTES = 64 * 1024  # of a body on its way to us, half of what is kept; aiohttp's is 256 KiB
CUT_S = 2.0  # for cut requests to end by themselves
STOP_MARGIN_S = 10.0  # beyond draining and cutting
# aiohttp logs malformed requests with their bytes, which may be a prompt
_silent = logging.Logger("service.gateway.http")  # noqa: LOG001 - below no other, so it says nothing
_silent.addHandler(logging.NullHandler())


async def serve(
    config: Config, listener: socket.socket | None, notifier: Notifier | None = None
) -> None:
    """Serve until SIGTERM or SIGINT: stop accepting, wait, cut the rest; a second one cuts now.

    Raises:
        UnavailableError: the address is in use, or aiohttp lacks its C parser.
        ConfigError: the keys cannot be used, or other machines could come in without one.
        BusyError: another gateway uses this runtime directory.
    """
    if os.environ.get("AIOHTTP_NO_EXTENSIONS"):
        raise UnavailableError(
            "aiohttp would run with its pure-Python HTTP parser (AIOHTTP_NO_EXTENSIONS is set).",
            hint="Unset it: that parser has let smuggled requests through.",
        )
    notifier = notifier or Notifier()
    limits = Limits(requests=config.gateway.hold_requests, size=config.gateway.hold_mib * MIB)
    pool = Pool(config.gateway.idle_timeout_s)
    router = Router(Gate(limits=limits), pool)
    ledger = Ledger()
    keyring = Keyring.of(config.gateway, os.environ)
    door = Door(config=config, router=router, pool=pool, ledger=ledger, keyring=keyring)
    admin = Admin(router=router, door=door, ledger=ledger)
    paths = Paths.of(config)
    front = listener if listener is not None else sockets.bound(*config.gateway.host_port)
    sockets.sparing(front)
    with contextlib.closing(front), stop_signals() as stops:
        check_exposure(sockets.address(front), loopback=sockets.is_loopback(front), keyring=keyring)
        async with _admin_site(admin, paths):
            web_server = Guard(
                door.handle,
                limits=ConnectionLimits(
                    total=descriptors.connections(config.gateway.connections),
                    per_address=config.gateway.connections_per_address,
                    head_s=config.gateway.header_timeout_s,
                ),
                handler_cancellation=True,
                keepalive_timeout=KEEPALIVE_S,
                read_bufsize=UNREAD_BYTES,
                auto_decompress=False,  # the engine gets the bytes that the client sent
                access_log=None,
                logger=_silent,
            )
            server = await asyncio.get_running_loop().create_server(
                web_server, sock=front, backlog=sockets.BACKLOG
            )
            host, port = front.getsockname()[:2]
            log.info("serving http://%s:%s/v1, admin on %s", host, port, paths.gateway_socket)
            notifier.is_ready()
            beat = Beat(notifier)
            beat.go_on(lambda: _sentence(router))
            await stops.get()
            notifier.stopping(config.gateway.drain_s + 2 * CUT_S + STOP_MARGIN_S)
            server.close()
            await _finish(door, router, stops, config.gateway.drain_s)
            web_server.pre_shutdown()
            await web_server.shutdown(CUT_S)
            await router.close()
            await pool.close()
            await beat.end()


@contextlib.contextmanager
def stop_signals() -> Iterator[asyncio.Queue[signal.Signals]]:
    """Stop signals as they come."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[signal.Signals] = asyncio.Queue()
    both = (signal.SIGTERM, signal.SIGINT)
    for number in both:
        loop.add_signal_handler(number, queue.put_nowait, number)
    try:
        yield queue
    finally:
        for number in both:
            loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def _admin_site(admin: Admin, paths: Paths) -> AsyncIterator[None]:
    paths.run.mkdir(parents=True, exist_ok=True)
    raw = sockets.private(paths.gateway_socket)
    inode = paths.gateway_socket.stat().st_ino
    runner = web.AppRunner(
        admin.application(), access_log=None, handler_cancellation=True, shutdown_timeout=CUT_S
    )
    await runner.setup()
    try:
        await web.SockSite(runner, raw).start()
        yield
    finally:
        await runner.cleanup()
        with contextlib.suppress(OSError):
            if paths.gateway_socket.stat().st_ino == inode:  # not a successor's
                paths.gateway_socket.unlink()


def _sentence(router: Router) -> str:
    state = router.state()
    return f"gate {state['gate']}, {state['in_flight']} in flight, {state['held']} held"


async def _finish(
    door: Door, router: Router, stops: asyncio.Queue[signal.Signals], drain_s: float
) -> None:
    """Let running requests end, up to the deadline or a second signal; then cut the rest."""
    left = door.stop()
    log.info("stopping: in_flight=%s, waiting up to %g s", left, drain_s)
    second = asyncio.create_task(stops.get(), name="second signal")
    drained = asyncio.create_task(router.drained(drain_s), name="drain")
    await asyncio.wait({second, drained}, return_when=asyncio.FIRST_COMPLETED)
    for task in (second, drained):
        task.cancel()
    await asyncio.gather(second, drained, return_exceptions=True)
    cut = door.cut()
    if cut:
        await router.drained(CUT_S)
    log.info("stopped: %s answers were cut", cut)
