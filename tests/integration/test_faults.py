"""Engines that fail, and starts that cannot succeed, with real processes around a fake vLLM."""

import json
import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from stage import staged, until

from profiles.backup import keep_copy
from profiles.schema import VERSION_TABLE
from profiles.store import Store
from service.engine_record import members
from service.run import OKAY_S

NOBODY = "/nonexistent/python3"


def dies(stage):
    """Kill the engine as if it had crashed, and wait until another one serves."""
    token = stage.settled()["engine"]["token"]
    stage.engines()[0].kill()
    return stage.becomes(
        "another engine",
        lambda s: (
            s["engine"] is not None
            and s["engine"]["token"] != token
            and (s["gateway"] or {}).get("gate") == "open"
        ),
    )


def test_a_bad_start_restores_the_last_good_profile():
    """Bad flag or out of memory: the old profile serves again, the bad one is barred and named."""
    with staged() as stage:
        stage.script(exit={"code": 1, "log": "flag", "draft_lengths": [15]})
        stage.start()
        bad, worse = stage.profile(15), stage.profile(13)

        stage.use(bad)
        stage.becomes(
            "the rollback", lambda s: any("not used" in e["sentence"] for e in s["events"])
        )
        after = stage.settled("off", modes={"serving"})
        events = stage.events()
        said = next(event for event in events if event.startswith("start_failed: ngram k=15: "))
        assert "The installed vLLM does not accept a flag. It says: error: unrecognized" in said
        assert Path(said.split("Its log: ")[1]).read_text()  # the operator can read all of it
        assert "quarantine: ngram k=15 is not used for 1 h" in events
        assert "your own configuration" not in after["profile"]["why"]

        stage.script(exit={"code": 1, "log": "oom", "draft_lengths": [13]})
        stage.use(worse)
        sentence = "start_failed: ngram k=13: The GPU ran out of memory while loading."
        until(lambda: any(sentence in event for event in stage.events()), sentence)
        stage.settled("off", modes={"serving"})

        assert stage.complete("after", 8).right("after", 8)
        assert 1 == len(stage.engines())


def test_an_engine_that_dies_is_started_again():
    """Three deaths, one with status 0: two restarts, then the default in place of the profile."""
    with staged(policy={"probation_s": 0.5}) as stage:
        stage.start()
        stage.use(stage.profile(3))
        stage.settled("ngram k=3", modes={"serving"})

        token = stage.settled()["engine"]["token"]
        stage.script(fail={"kind": "exit", "after": 1})
        stage.complete("the last words", 16, stream=True)
        stage.script()
        again = stage.becomes(
            "a restart",
            lambda s: s["engine"] is not None and s["engine"]["token"] != token,
        )
        assert any("ended by itself" in e["sentence"] for e in again["events"])
        assert stage.complete("recovered", 8).right("recovered", 8)
        stage.settled("ngram k=3", modes={"serving"})

        dies(stage)
        stage.settled("ngram k=3", modes={"serving"})
        dies(stage)
        after = stage.settled("off", modes={"serving"})

        assert "your configuration was restored" == after["profile"]["why"]
        assert "quarantine: ngram k=3 is not used for 1 h" in stage.events()
        assert stage.complete("default", 8).right("default", 8)


def test_an_engine_that_ignores_sigterm_leaves_nothing():
    """The whole group goes, a stubborn child included, in a switch and at the end."""
    with staged(engine={"stop_timeout_s": 0.5}) as stage:
        stage.script(ignore_sigterm=True, child=True)
        stage.start()
        first = stage.record
        assert 2 == len(members(first.token, None))

        stage.use(stage.profile(3))
        stage.settled("ngram k=3")
        assert [] == members(first.token, first.pid)
        assert not (stage.folder / "run" / f"engine-{first.token}.sock").exists()

        second = stage.record
        assert 0 == stage.stop()
        assert [] == members(second.token, second.pid)
        assert [] == stage.processes()


def test_a_request_that_speculation_refuses_is_answered():
    """min_p under our own speculating profile: held, switched to a plain engine, answered 200."""
    with staged(policy={"plain_s": 3.0}) as stage:
        stage.start()
        stage.use(stage.profile(3))
        stage.settled("ngram k=3")

        reply = stage.complete("plain", 8, min_p=0.1)
        assert reply.right("plain", 8)

        # the operator's choice comes back, but not before plain_s have passed
        def switches():
            events = reversed(stage.ask("GET", "/v1/history")[1]["events"])
            return [(e["at"], e["sentence"]) for e in events if e["kind"] == "switch"]

        until(lambda: len(switches()) == 4, "the way back")
        (gone, why), (back, after) = switches()[2:]
        assert "min_p" in why
        assert after.startswith("ngram k=3 is in force")
        assert back - gone >= 2.0


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("[engine\n", 78, "toml"),
        ('state_dir = "/tmp/x"\n[engine]\nmodel = "/no/such/model"\n', 78, "/no/such/model"),
    ],
)
def test_a_wrong_file_is_refused(text, status, words):
    """Malformed TOML and a model that is not there: exit 78 and one sentence."""
    with staged() as stage:
        stage.write = lambda: stage.folder / "tuner.toml"
        (stage.folder / "tuner.toml").write_text(text)

        found, said = stage.exits()

        assert status == found
        assert words in said
        assert "Traceback" not in said


def test_a_wrong_edit_does_not_end_a_service_that_runs():
    """F33: tunerd dies while the file is broken: requests are answered, and it comes back.

    `tuner run` once ended the gateway, and itself with 78, as for a first start.
    """
    with staged() as stage:
        stage.start()
        before = stage.settled()
        (daemon,) = [p for p in stage.named("-m", "service") if p.pid == before["pid"]]
        until(lambda: time.time() - daemon.create_time() > OKAY_S + 1, "a child that has served")
        (stage.folder / "tuner.toml").write_text("[engine\n")
        daemon.kill()
        until(lambda: "ended with status 78" in stage.log.read_text(), "a start that is refused")

        assert stage.complete("meanwhile", 8).right("meanwhile", 8)
        stage.write()
        after = stage.becomes("another daemon", lambda s: s["pid"] != before["pid"])
        assert before["engine"]["token"] == stage.settled()["engine"]["token"]
        assert before["gateway"]["pid"] == after["gateway"]["pid"]
        assert 0 == stage.stop()


def test_places_that_are_taken():
    """A second daemon, a port in use, a state directory that is a file: each its own status."""
    with staged() as stage:
        stage.start()
        pid = stage.status()["pid"]
        with staged(state_dir=str(stage.state)) as second:
            status, said = second.exits()
            assert 75 == status
            assert f"Another daemon, pid {pid}, owns" in said
            assert "Traceback" not in said
        with staged(gateway={"listen": f"127.0.0.1:{stage.port}"}) as third:
            status, said = third.exits()
            assert 69 == status
            assert f"127.0.0.1:{stage.port} is in use" in said
        assert stage.complete().status == 200

    with staged() as stage:
        stage.state.touch()
        status, said = stage.exits()
        assert 74 == status
        assert "Cannot use the directory" in said
        assert "Traceback" not in said


def test_no_vllm_at_the_command():
    """Nothing to start: exit 69, what is missing, and no engine, gateway or daemon left."""
    with staged(engine={"command": [NOBODY, "-m", "vllm"]}) as stage:
        status, said = stage.exits()

        assert 69 == status
        assert f"There is no program {NOBODY!r}." in said
        assert "Traceback" not in said
        until(lambda: not stage.processes(), "nothing left")


def test_a_damaged_store_costs_what_came_after_its_copy():
    """F60: moved aside, the copy of the start is in its place, and the engine is adopted.

    tunerd once refused to start, with 74, until somebody moved the file.
    """
    with staged() as stage:
        stage.start()
        kept = stage.profile(4)
        pinned, _ = stage.ask("POST", "/v1/pins", {"application": "batch", "profile": kept})
        copy = keep_copy(stage.store, at=time.time())
        lost = stage.profile(7)
        before = stage.settled()
        os.kill(before["pid"], signal.SIGSTOP)  # nobody writes while it is damaged
        stage.store.write_bytes(b"this is no database " * 512)
        os.kill(before["pid"], signal.SIGKILL)
        after = stage.becomes("restored", lambda s: s["pid"] != before["pid"] and s["engine"])
        stage.settled()

        assert before["engine"]["token"] == after["engine"]["token"]
        assert 200 == pinned
        assert ["batch"] == [pin["application"] for pin in stage.ask("GET", "/v1/pins")[1]["pins"]]
        assert 404 == stage.ask("GET", f"/v1/profiles/{lost}")[0]
        (aside,) = stage.state.glob("tuner.sqlite3.damaged-*Z")
        assert b"this is no database " * 512 == aside.read_bytes()
        said = next(event for event in stage.events() if event.startswith("store: "))
        assert f"It was moved to {aside.name}, and {copy.name} took its place" in said
        assert stage.complete("after", 8).right("after", 8)


def test_a_store_that_cannot_be_used():
    """Another program's and a newer schema: exit 74, what to do, and the file is as it was."""
    with staged() as stage:
        stage.state.mkdir()
        with closing(sqlite3.connect(stage.store)) as database, database:
            database.execute("CREATE TABLE theirs (x)")
        whole = stage.store.read_bytes()
        status, said = stage.exits()
        assert 74 == status
        assert "of another program" in said
        assert "Traceback" not in said
        assert whole == stage.store.read_bytes()

        stage.store.unlink()
        Store.open(stage.store, now=0.0).close()
        with closing(sqlite3.connect(stage.store)) as database, database:
            database.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
        status, said = stage.exits("service")
        assert 74 == status
        assert "Upgrade tunerd" in said
        assert "Traceback" not in said
        assert [] == list(stage.state.glob("*.damaged-*"))


def test_the_first_engine_never_starts():
    """The operator's own configuration fails: degraded, with the reason, and healed by itself."""
    with staged() as stage:
        stage.script(exit={"code": 1, "log": "no_kv"})
        stage.spawn()
        found = stage.becomes("degraded", lambda s: s["mode"] == "degraded")
        assert "no engine starts" in found["sentence"]
        assert any("no memory for KV blocks" in e["sentence"] for e in found["events"])

        stage.script()
        stage.settled("off")
        assert stage.complete("healed", 8).right("healed", 8)
        kept = json.dumps(stage.status())
        assert "not used for" not in kept


def test_a_slow_start_that_goes_on_saying_so_is_waited_for():
    """F10: loading takes long: silence for stall_timeout_s ends a start, and lines prevent it."""
    with staged(engine={"stall_timeout_s": 3.0}) as stage:
        stage.script(start_delay_s=6.0)
        stage.spawn()
        found = stage.becomes("degraded", lambda s: s["mode"] == "degraded")
        assert any("no engine starts" in e["sentence"] for e in found["events"])

        stage.script(start_delay_s=6.0, start_says_s=0.3)
        stage.settled("off")
        assert stage.complete("patience", 8).right("patience", 8)


def test_an_engine_that_is_slow_to_say_it_is_well_is_left_alone():
    """F5: /health hangs while requests are answered: the same engine serves on."""
    with staged() as stage:
        stage.start()
        engine = stage.settled()["engine"]
        stage.script(health="hang")
        for number in range(10):
            prompt = f"busy {number}"
            assert stage.complete(prompt, 8).right(prompt, 8)
            time.sleep(0.2)

        assert engine["token"] == stage.settled()["engine"]["token"]
        assert 1 == len(stage.engines())


def test_requests_are_answered_while_tunerd_is_stopped():
    """F39: the gateway needs tunerd for changes only, and tunerd goes on where it was."""
    with staged() as stage:
        stage.start()
        before = stage.settled()
        (daemon,) = [p for p in stage.named("-m", "service") if p.pid == before["pid"]]
        daemon.suspend()
        try:
            until(lambda: daemon.status() == "stopped", "the standstill")
            for number in range(5):
                prompt = f"alone {number}"
                assert stage.complete(prompt, 8, stream=True).right(prompt, 8)
        finally:
            daemon.resume()
        after = stage.settled()

        assert (before["pid"], before["engine"]["token"]) == (
            after["pid"],
            after["engine"]["token"],
        )


def test_a_choice_ends_a_session():
    """F29: the operator wins over the search: its rows stay, and the choice comes into force."""
    with staged() as stage:
        stage.start()
        wanted = stage.profile(3)
        stage.script(token_delay_s=0.005)
        assert 200 == stage.ask("POST", "/v1/tune", {"classes": ["greedy.short-out.single"]})[0]
        until(lambda: stage.record and stage.record.purpose == "trial", "a trial's engine")
        stage.use(wanted)
        stage.settled("ngram k=3")

        assert any("tuning was stopped; its rows are kept" in said for said in stage.events())
        assert "serve" == stage.record.purpose
        assert stage.complete("chosen", 8).right("chosen", 8)
