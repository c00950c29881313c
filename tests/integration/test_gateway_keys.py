"""Keys at a gateway process: who comes in, as whom, and what stays secret."""

import asyncio
import itertools
import os
import socket
import sys

import aiohttp
import pytest
from gateway_harness import Gateway, started, until

from service.gateway.guesses import MOST
from tuner import keys

SECRETS = {name: f"tuner-the-{name}-secret-0815" for name in ("coder", "chat")}
ENTRIES = [keys.Key.of(name, secret, keys.salt()) for name, secret in SECRETS.items()]
REQUEST = {"model": "fake", "prompt": "hello", "max_tokens": 2}
_hosts = itertools.count(10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def file(folder):
    path = folder / "gateway-keys"
    keys.write(path, ENTRIES[:1])
    return path


@pytest.fixture(scope="module")
def locked(folder, file):
    with started(Gateway(folder / "locked", {"keys_file": str(file)})) as gateway:
        yield gateway


@pytest.fixture
async def gateway(locked, file, engine):
    """A gateway that knows the key of one application."""
    keys.write(file, ENTRIES[:1])
    await locked.open()
    await locked.route(engine)

    async def in_force():
        return await status(locked, "coder") == 200 and await status(locked, "chat") == 401

    await until(in_force)
    locked.first = (await locked.state())["records_next"]
    await engine.fresh()
    yield locked
    await locked.close()


def client(gateway):
    """A client with an address of its own, whose wrong keys are counted for it alone."""
    high, low = divmod(next(_hosts), 250)
    connector = aiohttp.TCPConnector(local_addr=(f"127.0.{high}.{low + 1}", 0))
    return aiohttp.ClientSession(gateway.url, connector=connector)


def bearer(name):
    """The headers of an application's request."""
    return {"Authorization": f"Bearer {SECRETS[name]}"}


async def status(gateway, name, path="/v1/models"):
    """How a gateway answers an application's key."""
    async with client(gateway) as session, session.get(path, headers=bearer(name)) as reply:
        return reply.status


def no_secret_in(text):
    return not any(secret in text for secret in SECRETS.values())


@pytest.mark.parametrize(
    ("path", "header"),
    [
        ("/v1/completions", {"Authorization": f"Bearer {SECRETS['coder']}"}),
        ("/v1/messages", {"x-api-key": SECRETS["coder"]}),
    ],
)
async def test_a_key_is_an_application_and_goes_no_further(gateway, engine, path, header):
    """The record has the key's name, whatever else the client claims; the engine sees no key."""
    headers = {**header, "X-Tuner-Application": "chat"}
    async with gateway.session.post(path, json=REQUEST, headers=headers) as reply:
        assert 401 != reply.status
    [record] = await gateway.records(0, 5)

    assert "coder" == record["application"]
    seen = {name.lower(): value for name, value in (await engine.last())["headers"]}
    assert "host" in seen
    assert not {"authorization", "x-api-key"} & seen.keys()
    assert no_secret_in(gateway.log.read_text())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": f"Bearer {SECRETS['chat']}"},
        {"Authorization": f"Basic {SECRETS['coder']}"},
        {"x-api-key": SECRETS["coder"]},
        {"X-Tuner-Application": "coder"},
    ],
)
async def test_without_a_valid_key_the_engine_is_not_asked(gateway, engine, headers):
    """401 in the shape of the OpenAI API, the same for every reason; no record, no log."""
    async with gateway.session.post("/v1/completions", json=REQUEST, headers=headers) as reply:
        assert (401, "Bearer") == (reply.status, reply.headers["WWW-Authenticate"])
        answer = await reply.json()

    assert {"message", "type", "param", "code"} == answer["error"].keys()
    assert ("authentication_error", 401) == (answer["error"]["type"], answer["error"]["code"])
    assert {} == await engine.last()
    assert [] == await gateway.records()
    assert no_secret_in(gateway.log.read_text())


async def test_many_wrong_keys_get_429_and_a_valid_one_still_comes_in(gateway, engine):
    """From one address, while another is answered as before; the log has one line."""
    async with client(gateway) as session:

        async def answer(headers):
            async with session.post("/v1/completions", json=REQUEST, headers=headers) as reply:
                return reply.status, reply.headers.get("Retry-After")

        few = [await answer(bearer("chat")) for _ in range(MOST)]
        many = [await answer(headers) for headers in (bearer("chat"), {}, bearer("chat"))]
        assert {} == await engine.last()
        valid = await answer(bearer("coder"))
        again = await answer({})

    assert [(401, None)] * MOST == few
    assert [429] * 4 == [code for code, _ in (*many, again)]
    assert all(1 <= int(wait_s) <= 60 for _, wait_s in (*many, again))
    assert 200 == valid[0]
    assert 401 == await status(gateway, "chat")
    assert 1 == gateway.log.read_text().count("without a valid key")
    assert no_secret_in(gateway.log.read_text())


async def test_health_needs_no_key(gateway):
    """A load balancer has none, and it learns nothing but that the gateway lives."""
    async with gateway.session.get("/health") as reply:
        assert {"status": "ok", "gate": "open"} == await reply.json()


async def test_an_added_key_is_valid_and_a_removed_one_is_not_without_a_restart(gateway, file):
    """The file is looked at while requests come; the process is the same."""
    keys.write(file, ENTRIES[1:])

    async def turned():
        return await status(gateway, "chat") == 200 and await status(gateway, "coder") == 401

    await until(turned, 5)
    assert gateway.process.poll() is None


async def test_systemds_credential_turns_keys_on(folder, engine, tmp_path):
    """With $CREDENTIALS_DIRECTORY/gateway-keys the configuration needs to name no file."""
    keys.write(tmp_path / "gateway-keys", ENTRIES[1:])
    environ = {**os.environ, "CREDENTIALS_DIRECTORY": str(tmp_path)}
    with started(Gateway(folder / "credential"), env=environ) as gateway:
        await gateway.open()
        await gateway.route(engine)
        found = [await status(gateway, name) for name in ("coder", "chat")]
        await gateway.close()

    assert [401, 200] == found


@pytest.mark.parametrize("inherited", [False, True])
async def test_other_machines_without_keys_are_refused_at_start(tmp_path, inherited):
    """78 and a sentence, for an address of the configuration as for a socket of systemd's."""
    with socket.create_server(("0.0.0.0", 0)) as listener:
        number = listener.fileno()
        move = f"import os, sys; os.dup2({number}, 3); os.execv(sys.argv[1], sys.argv[1:])"
        options = {
            "prefix": (sys.executable, "-c", move),
            "pass_fds": (number,),
            "env": {**os.environ, "LISTEN_FDS": "1"},
        }
        settings = {} if inherited else {"listen": "0.0.0.0:0"}
        gateway = Gateway(tmp_path, settings)
        process = gateway.spawn(**(options if inherited else {}))
        code = await asyncio.to_thread(process.wait, 60)

    said = gateway.log.read_text()
    assert 78 == code
    assert "0.0.0.0" in said
    assert "gateway.keys_file" in said
    assert "Traceback" not in said


async def test_other_machines_with_keys_are_served(tmp_path, file):
    """The address that was refused above is fine with keys."""
    settings = {"listen": "0.0.0.0:0", "keys_file": str(file)}
    gateway = Gateway(tmp_path, settings)
    process = gateway.spawn()
    try:
        await until(lambda: "serving http://0.0.0.0:" in gateway.log.read_text())
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


@pytest.mark.parametrize("mode", [None, 0o644])
async def test_unusable_keys_end_the_start(tmp_path, mode):
    """A missing file or one that others can use: 78 and what to do, never an open gateway."""
    path = tmp_path / "keys"
    if mode is not None:
        keys.write(path, ENTRIES)
        path.chmod(mode)
    gateway = Gateway(tmp_path / "g", {"keys_file": str(path)})
    code = await asyncio.to_thread(gateway.spawn().wait, 60)

    assert 78 == code
    assert str(path) in gateway.log.read_text()
