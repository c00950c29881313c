"""The service as its users see it: one stage for all of these tests, with a fake vLLM."""

import asyncio
import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from stage import staged

from profiles.knobs import Knobs
from profiles.profile import Origin, Profile
from profiles.store import Store

CANARY = "xylophone-quartz-7731"  # in no file of a correct service
CLIENTS, EACH = 4, 6


@pytest.fixture(scope="module")
def stage():
    """A running service; every test leaves it serving."""
    with staged(policy={"min_requests": 5, "window_s": 5.0, "plain_s": 0.5}) as made:
        made.script(token_delay_s=0.002)
        yield made.start()


@pytest.fixture(autouse=True)
def by_default(stage):
    """Each test begins under the operator's own configuration."""
    stage.use("default")
    stage.settled("off")
    yield
    for pin in stage.ask("GET", "/v1/pins")[1]["pins"]:
        stage.ask("DELETE", f"/v1/pins/{pin['application']}")


def test_a_request_is_served(stage):
    """End to end: the engine's very text, and a record that has no text in it."""
    reply = stage.complete("hello", 12)

    assert reply.right("hello", 12)
    found = stage.becomes("the record", lambda s: s["traffic"]["requests"] > 0)
    assert "off" == found["engine"]["label"]
    assert found["gateway"]["counters"]["answered"] >= 1


def test_a_switch_under_load_loses_nothing(stage):
    """Four clients stream through two switches: every answer whole, right, and given once."""
    fast, default = stage.profile(3), "default"
    answered = stage.status()["gateway"]["counters"]["answered"]

    def client(name):
        replies = []
        for number in range(EACH):
            prompt = f"{name}-{number}"
            replies.append((prompt, stage.complete(prompt, 60, stream=True)))
        return replies

    with ThreadPoolExecutor(CLIENTS) as pool:
        work = [pool.submit(client, f"client{n}") for n in range(CLIENTS)]
        stage.use(fast)
        stage.settled("ngram k=3")
        stage.use(default)
        stage.settled("off")
        replies = [reply for future in work for reply in future.result()]

    assert CLIENTS * EACH == len(replies)
    assert [] == [prompt for prompt, reply in replies if not reply.right(prompt, 60)]
    counters = stage.becomes(
        "all are counted",
        lambda s: s["gateway"]["counters"]["answered"] == answered + CLIENTS * EACH,
    )["gateway"]["counters"]
    assert 0 == counters["failed"] + counters["rejected"] + counters["client_gone"]
    assert 1 == len(stage.engines())


def test_a_pin_comes_into_force_under_its_traffic(stage):
    """The profile of a pinned application serves once that application sends requests."""
    stage.use("auto")
    wanted = stage.profile(8)
    status, answered = stage.ask(
        "POST", "/v1/pins", {"application": "batch", "profile": wanted[:6]}
    )
    assert 200 == status
    assert "no request of 'batch' was seen yet" in answered["sentence"]

    deadline = time.monotonic() + 60
    while stage.status()["profile"]["id"] != wanted:
        assert time.monotonic() < deadline, stage.status()["sentence"]
        assert stage.complete("work", 30, application="batch").status == 200

    found = stage.settled("ngram k=8")
    assert "batch is pinned to it" in found["profile"]["why"]
    assert [{"application": "batch", "profile": wanted, "label": "ngram k=8"}] == found["pins"]


def test_pins_that_cannot_be(stage):
    """An unknown profile is 404, one of another platform 409, and neither changes anything."""
    unknown, error = stage.ask("POST", "/v1/pins", {"application": "a", "profile": "ffff0000"})
    assert 404 == unknown
    assert "There is no profile 'ffff0000'." == error["error"]["message"]

    knobs = Knobs(drafter="ngram", draft_length=5)
    foreign = Profile(knobs=knobs, platform="elsewhere", workload="any", origin=Origin.SEARCH)
    with Store.open(stage.store, now=time.time()) as store:
        store.put_profile(foreign)
    status, error = stage.ask("POST", "/v1/pins", {"application": "a", "profile": foreign.id})
    assert 409 == status
    assert "was made for platform elsewhere" in error["error"]["message"]
    assert 409 == stage.ask("POST", "/v1/use", {"profile": foreign.id})[0]
    assert [] == stage.ask("GET", "/v1/pins")[1]["pins"]
    assert 404 == stage.ask("DELETE", "/v1/pins/a")[0]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", "/v1/pins", b"{", 400, "not JSON"),
        ("POST", "/v1/pins", [1], 400, "not a JSON object"),
        ("POST", "/v1/pins", {"application": "a"}, 400, '"profile" must be a text'),
        ("POST", "/v1/pins", b"x" * (2 << 20), 413, "Too Large"),
        ("POST", "/v1/use", {"profile": "ffff0000"}, 404, "no profile"),
        ("POST", "/v1/tune", {"classes": "greedy"}, 400, "must be a list"),
        ("POST", "/v1/tune", {"classes": ["nonsense"]}, 400, "not a workload class"),
        ("POST", "/v1/tune/stop", {}, 409, "Nothing is being tuned"),
        ("POST", "/v1/profiles/import", {"profile": {"knobs": 1}}, 400, "not a profile"),
        ("GET", "/v1/profiles/ffff0000", None, 404, "no profile"),
        ("GET", "/v1/nothing", None, 404, "/v1/nothing"),
        ("DELETE", "/v1/status", None, 405, "Method Not Allowed"),
    ],
)
def test_a_wrong_question_gets_a_sentence(stage, method, path, body, status, words):
    """Errors of the control API are JSON with message, hint and exit code, and harm nothing."""
    found, answered = stage.ask(method, path, body)

    assert status == found
    assert 1 == answered["v"]
    assert {"message", "hint", "exit_code"} == set(answered["error"])
    assert words in answered["error"]["message"]
    assert stage.status()["mode"] in {"serving", "probation"}


def test_the_status_socket_changes_nothing(stage):
    """What changes something is not to be had on the read-only socket."""
    for path, body in [("/v1/use", {"profile": "default"}), ("/v1/stop", {}), ("/v1/pins", {})]:
        status, answered = stage.ask("POST", path, body, name="status")

        assert status in {404, 405}
        assert "control.sock" in answered["error"]["hint"]


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/v1/status", "mode"),
        ("/v1/profiles", "profiles"),
        ("/v1/trials?limit=3", "trials"),
        ("/v1/history?limit=nonsense", "events"),
        ("/v1/pins", "pins"),
        ("/v1/classes", "classes"),
        ("/v1/config", "config"),
    ],
)
def test_every_question_has_an_answer(stage, path, key):
    """All reads answer on the read-only socket, with the version of the format."""
    status, answered = stage.ask("GET", path, name="status")

    assert (200, 1) == (status, answered["v"])
    assert key in answered


def test_the_configuration_hides_the_environment(stage):
    """Values of engine.env may be credentials of a model hub."""
    shown = stage.ask("GET", "/v1/config")[1]["config"]["engine"]["env"]

    assert {"(hidden)"} == set(shown.values())


def test_a_request_leaves_no_text_behind(stage):
    """The words of a client are in no file below the state directory and in no log."""
    prompt = f"remember {CANARY}"
    assert stage.complete(prompt, 30, stream=True).right(prompt, 30)
    stage.use(stage.profile(3))
    stage.settled("ngram k=3")
    assert stage.complete(prompt, 30, min_p=0.1).right(prompt, 30)
    with closing(http.client.HTTPConnection("127.0.0.1", stage.port)) as connection:
        connection.request("POST", "/v1/completions", f'{{"prompt": "{prompt}", ')
        assert 400 == connection.getresponse().status

    files = [path for path in stage.folder.rglob("*") if path.is_file()]
    assert stage.log in files
    assert stage.store in files
    assert [] == [path for path in files if CANARY.encode() in path.read_bytes()]


async def test_sixteen_questions_at_once(stage):
    """The control API answers while others ask."""
    asked = [asyncio.to_thread(stage.ask, "GET", "/v1/status") for _ in range(16)]
    answers = await asyncio.gather(*asked)

    assert [200] * 16 == [status for status, _ in answers]
