"""Engines that hang while /health says 200, and those that are only slow."""

import contextlib
import http.client
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from stage import staged

HUNG = "the engine hangs"


def replaced(stage, token):
    """The status once another engine serves."""
    return stage.becomes(
        "another engine",
        lambda s: (
            s["engine"] is not None
            and s["engine"]["token"] != token
            and (s["gateway"] or {}).get("gate") == "open"
        ),
    )


def asking_for_models(stage, over):
    """Ask for the list of models until it is over; how often that was."""
    asked = 0
    while not over.wait(0.2):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", stage.port)) as connection:
            connection.request("GET", "/v1/models")
            assert 200 == connection.getresponse().status
        asked += 1
    return asked


def said(stage):
    """The sentences about hung engines."""
    return [event for event in stage.events() if HUNG in event]


def test_an_engine_that_stops_in_the_middle_of_requests_is_replaced():
    """F4: the stream ends with an error, what had no answer yet gets it from the next engine.

    Somebody goes on asking for the list of models and gets it, which once passed for work.
    """
    with staged(engine={"hang_s": 3.0}) as stage, ThreadPoolExecutor(3) as pool:
        stage.start()
        token = stage.settled()["engine"]["token"]
        stage.script(fail={"kind": "hang", "after": 2})
        stream = pool.submit(stage.complete, "stream", 100, stream=True)
        plain = pool.submit(stage.complete, "plain", 100)
        stage.becomes("two requests", lambda s: (s["gateway"] or {}).get("in_flight") == 2)
        stage.script()  # for the next engine: what hangs goes on to hang
        over = threading.Event()
        lists = pool.submit(asking_for_models, stage, over)
        after = replaced(stage, token)
        over.set()

        broken, answered = stream.result(60), plain.result(60)
        assert (200, False) == (broken.status, broken.right("stream", 100))
        assert broken.error is not None
        assert answered.right("plain", 100)
        assert 1 < lists.result(60)
        assert 1 == len(said(stage)), stage.events()
        assert "requests run, and no step was made" in said(stage)[0]
        assert 1 == len(stage.engines())
        assert token != after["engine"]["token"]


def test_a_core_that_froze_while_nobody_asked_is_found():
    """F4: idle, with sound counters and a sound /health; the request that comes is answered."""
    with staged(engine={"hang_s": 2.0, "canary_s": 1.0}) as stage:
        stage.start()
        token = stage.settled()["engine"]["token"]
        stage.script(frozen=True)
        stage.becomes("the finding", lambda s: any(HUNG in e["sentence"] for e in s["events"]))
        stage.script()
        replaced(stage, token)

        assert stage.complete("after", 8).right("after", 8)
        assert "a short request had no answer within 2 s" in said(stage)[0]
        assert 1 == len(stage.engines())


def test_an_engine_that_is_busy_is_left_alone():
    """F5: neither /health nor the counters are shown, one request is very slow, others end."""
    with staged(engine={"hang_s": 2.0}) as stage:
        stage.start()
        token = stage.settled()["engine"]["token"]
        stage.script(health="hang", metrics="hang", token_delay_s=0.3)
        slow = []
        client = threading.Thread(target=lambda: slow.append(stage.complete("slow", 30)))
        client.start()
        until = time.monotonic() + 8
        while time.monotonic() < until:
            assert stage.complete("quick", 2).right("quick", 2)
        client.join(60)

        assert slow[0].right("slow", 30)
        assert token == stage.settled()["engine"]["token"]
        assert [] == said(stage)


def test_a_default_that_dies_again_and_again_is_left_alone_for_a_while():
    """F7: pauses that grow, 503 with Retry-After meanwhile, the reason, and a way out."""
    with staged(policy={"probation_s": 0.1}) as stage:
        stage.start()
        stage.script(exit={"code": 1, "log": "crash"})
        stage.engines()[0].kill()
        stage.becomes(
            "a long pause",
            # a kill in probation counts one failure less than one after it
            lambda s: (
                s["mode"] == "degraded" and re.search("next try is in (16|32) s", s["sentence"])
            ),
        )
        refused = stage.complete("refused", 8)
        headers = stage.headers

        assert "refuse" == stage.status()["gateway"]["gate"]
        assert (503, True) == (refused.status, "No engine stays up" in refused.error["message"])
        assert 1 <= int(headers["Retry-After"]) <= 60
        assert "true" == headers["x-should-retry"]
        assert [] == stage.engines()
        stage.script()
        asked = time.monotonic()
        stage.use("auto")
        stage.settled("off")
        assert stage.complete("healed", 8).right("healed", 8)
        assert time.monotonic() - asked < 15  # of at least 16


def test_a_default_that_dies_after_it_came_up_is_left_alone_too():
    """F7: an engine that is ready and then dies counts like one that does not start."""
    with staged(policy={"probation_s": 0.1}) as stage:
        stage.start()
        deaths = 0
        while "died 3 times in a row" not in stage.status()["sentence"]:
            for engine in stage.engines():
                if (stage.status()["gateway"] or {}).get("gate") == "open":
                    engine.kill()
                    deaths += 1
            time.sleep(0.05)
            assert deaths < 20

        assert any("the next try is in 2 s" in event for event in stage.events())
        stage.settled("off")
        assert stage.complete("healed", 8).right("healed", 8)
