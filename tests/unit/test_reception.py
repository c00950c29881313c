"""How many connections a user may have at the sockets of the control API."""

import asyncio
import json

import aiohttp
import pytest
from aiohttp import web

from service import reception
from service.control import _bound
from service.reception import Reception


@pytest.fixture
async def socket(tmp_path, monkeypatch):
    """A socket at which nobody is trusted, three connections a user, five in all."""
    monkeypatch.setattr(reception, "PER_USER", 3)
    monkeypatch.setattr(reception, "OF_OTHERS", 5)

    async def hello(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="hello")

    server = web.Server(hello)
    listener = _bound(tmp_path / "s", 0o600)
    receiving = Reception(server, listener, trusted=frozenset())
    yield tmp_path / "s"
    await receiving.close()
    await server.shutdown(1.0)


async def asked(path):
    """The status and the body of one question over a connection of its own."""
    connector = aiohttp.UnixConnector(str(path))
    async with (
        aiohttp.ClientSession("http://x", connector=connector) as session,
        session.get("/") as answer,
    ):
        return answer.status, await answer.text()


async def silent(path, number):
    """Connections that ask for nothing."""
    return [(await asyncio.open_unix_connection(path))[1] for _ in range(number)]


async def test_a_user_has_so_many_and_gets_them_back(socket):
    """F84: the fourth is refused in words, and let in when one of the three has gone."""
    held = await silent(socket, 3)
    reader, writer = await asyncio.open_unix_connection(socket)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    held[0].close()
    for _ in range(100):  # the server may not have heard yet that one has gone
        again = await asked(socket)
        if again[0] == 200:
            break
        await asyncio.sleep(0.1)
    for one in held:
        one.close()

    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 5" in head
    assert "Too many connections" in json.loads(body)["error"]["message"]
    assert (200, "hello") == again


async def test_users_do_not_take_each_others_place(socket, monkeypatch):
    """Another user comes in beside one that has all it may have, until all are too many."""
    users = iter([1, 1, 1, 1, 2, 2, 2, 3])
    monkeypatch.setattr(reception, "_user", lambda _: next(users))
    found, held = [], []
    for _ in range(8):
        reader, writer = await asyncio.open_unix_connection(socket)
        held.append(writer)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        found.append(int((await reader.readline()).split()[1]))
    for one in held:
        one.close()

    assert [200, 200, 200, 503, 200, 200, 503, 503] == found


async def test_one_that_cannot_be_let_in_is_in_nobodys_way(socket, monkeypatch, caplog):
    """A defect at one connection was the end of the task that accepts, and tunerd was deaf."""
    seen = iter([ValueError("a defect")])

    def user(_):
        error = next(seen, None)
        if error is not None:
            raise error
        return 1

    monkeypatch.setattr(reception, "_user", user)
    reader, writer = await asyncio.open_unix_connection(socket)
    assert b"" == await reader.read()
    writer.close()

    assert (200, "hello") == await asked(socket)
    assert "cannot let a connection in" in caplog.text


async def test_without_a_descriptor_it_waits(socket, monkeypatch):
    """Who connects while no descriptor is left is served when there is one again."""
    monkeypatch.setattr(reception, "PAUSE_S", 0.1)
    loop = asyncio.get_running_loop()
    accept, failures = loop.sock_accept, iter([True, True])

    async def scarce(listener):
        connection = await accept(listener)
        if next(failures, False):
            connection[0].close()
            raise OSError(24, "Too many open files")
        return connection

    monkeypatch.setattr(loop, "sock_accept", scarce)
    for one in await silent(socket, 3):  # one meets the accept under way, two the failing ones
        one.close()

    assert (200, "hello") == await asked(socket)


async def test_nothing_is_kept_of_those_who_are_not_counted(tmp_path):
    """Every connection of root, and of our own user, was kept for ever: memory grew with each.

    They were looked through only when somebody else came, which on most machines nobody does.
    """

    async def hello(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="hello")

    server = web.Server(hello)
    receiving = Reception(server, _bound(tmp_path / "s", 0o600))
    for _ in range(5):
        assert (200, "hello") == await asked(tmp_path / "s")
    kept = dict(receiving._users)
    await receiving.close()
    await server.shutdown(1.0)

    assert {} == kept
