"""kill -9 of each process at its worst moment, with real processes around a fake vLLM."""

import contextlib
import http.client
import signal
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from stage import staged, until


def intact(stage):
    """Whether SQLite finds nothing wrong with the store."""
    with contextlib.closing(sqlite3.connect(stage.store)) as database:
        return database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def kill_daemon(stage):
    """The pid that was killed by SIGKILL."""
    pid = stage.status()["pid"]
    (daemon,) = [p for p in stage.named("-m", "service") if p.pid == pid]
    daemon.send_signal(signal.SIGKILL)
    until(lambda: not daemon.is_running() or daemon.status() == "zombie", "the end of the daemon")
    return pid


def restarted(stage, pid):
    """The status of the daemon that took its place."""
    return stage.becomes("another daemon", lambda s: s["pid"] != pid)


def test_a_killed_daemon_adopts_its_engine():
    """While serving: requests go on, the engine keeps its pid, nothing is started twice."""
    with staged() as stage:
        stage.start()
        engine = stage.settled()["engine"]["pid"]

        pid = kill_daemon(stage)
        assert stage.complete("meanwhile", 8).right("meanwhile", 8)
        restarted(stage, pid)
        after = stage.settled()

        assert engine == after["engine"]["pid"]
        assert any("adopted" in event for event in stage.events())
        assert 1 == len(stage.engines())
        assert stage.complete("after", 8).right("after", 8)


def test_a_daemon_killed_during_a_switch_leaves_one_engine():
    """The half-started engine is cleared away, the store is whole, held requests are answered."""
    with staged() as stage:
        stage.start()
        stage.script(start_delay_s=2.0)
        stage.use(stage.profile(3))
        stage.becomes("the start of the new engine", lambda s: s["mode"] == "switching")
        until(stage.engines, "the process of the new engine")
        held = []
        client = threading.Thread(target=lambda: held.append(stage.complete("held", 8)))
        client.start()

        pid = kill_daemon(stage)
        stage.script()
        restarted(stage, pid)
        stage.settled()
        client.join(60)

        assert intact(stage)
        assert 1 == len(stage.engines())
        assert [True] == [reply.right("held", 8) for reply in held]
        assert stage.complete("after", 8).right("after", 8)


def test_a_daemon_killed_during_a_trial_voids_it():
    """The trial is interrupted, its engine is replaced, and a new session goes on from the rows."""
    with staged() as stage:
        stage.script(token_delay_s=0.005)
        stage.start()
        for number in range(10):
            assert stage.complete(f"p{number}", 8).status == 200
        stage.ask("POST", "/v1/tune", {"classes": ["greedy.short-out.single"]})
        stage.becomes("the second trial", lambda s: (s["tuning"] or {}).get("trial", 0) >= 1)
        until(lambda: stage.record and stage.record.purpose == "trial", "a trial's engine")

        pid = kill_daemon(stage)
        restarted(stage, pid)
        after = stage.settled()
        trials = stage.ask("GET", "/v1/trials")[1]["trials"]
        assert intact(stage)
        assert ["interrupted", "done"] == [t["status"] for t in trials]
        assert "serve" == after["engine"]["purpose"]
        assert 1 == len(stage.engines())
        assert stage.complete("after", 8).right("after", 8)

        stage.ask("POST", "/v1/tune", {"classes": ["greedy.short-out.single"]})
        progress = stage.becomes(
            "the next session",
            lambda s: (s["tuning"] or {}).get("active") and s["tuning"]["trial"] > 0,
        )
        assert progress["tuning"]["trial"] >= 1


def test_a_killed_gateway_comes_back_with_its_route():
    """No connection is refused, because the socket is inherited; the route is told again."""
    with staged() as stage:
        stage.start()
        token = stage.settled()["engine"]["token"]
        pid = stage.status()["gateway"]["pid"]
        (gateway,) = [p for p in stage.named("-m", "service.gateway") if p.pid == pid]

        gateway.send_signal(signal.SIGKILL)
        # connects while nobody accepts: the listening socket is held by the supervisor
        reply = stage.complete("patience", 8)

        assert reply.right("patience", 8)
        after = stage.settled()
        assert pid != after["gateway"]["pid"]
        assert token == after["engine"]["token"]


def test_a_killed_supervisor_takes_everything_along():
    """SIGKILL of `tuner run`: the children hear of it, and the engine is stopped in order."""
    with staged(gateway={"drain_s": 1.0}) as stage:
        stage.start()

        stage.process.kill()
        stage.process.wait()

        until(lambda: not stage.processes(), "nothing left")
        assert intact(stage)


def test_a_stop_during_a_session_leaves_nothing():
    """SIGTERM while an engine of a trial starts: everything ends, in order, with status 0."""
    with staged() as stage:
        stage.start()
        stage.script(start_delay_s=1.0)
        status, _ = stage.ask("POST", "/v1/tune", {"classes": ["greedy.balanced.single"]})
        assert 200 == status
        stage.becomes("a session", lambda s: s["mode"] == "tuning")
        until(lambda: stage.record and stage.record.purpose == "trial", "a trial's engine")

        assert 0 == stage.stop()
        assert [] == stage.processes()
        assert intact(stage)


@pytest.mark.parametrize("module", ["service", "service.gateway"])
def test_an_aborted_process_leaves_its_stacks(module):
    """F37: SIGABRT, as of a watchdog, writes what every thread was doing, and another one comes."""
    with staged() as stage:
        stage.start()
        engine = stage.settled()["engine"]["token"]
        (wedged,) = stage.named("-m", module)
        wedged.send_signal(signal.SIGABRT)
        until(lambda: stage.named("-m", module) not in ([], [wedged]), "another process")
        after = stage.settled()

        assert "Fatal Python error: Aborted" in stage.log.read_text()
        assert "(most recent call first):" in stage.log.read_text()
        assert engine == after["engine"]["token"]
        assert stage.complete("after", 8).right("after", 8)


def test_streams_of_a_killed_gateway_break_and_nobody_is_refused():
    """F36: what was in flight ends at once and does not look whole; who comes now is answered."""
    with staged() as stage:
        stage.start()
        stage.script(token_delay_s=0.05)
        with ThreadPoolExecutor(12) as pool:
            streams = [pool.submit(stage.complete, f"s{n}", 1000, stream=True) for n in range(4)]
            stage.becomes("four streams", lambda s: (s["gateway"] or {}).get("in_flight") == 4)
            (gateway,) = stage.named("-m", "service.gateway")
            gateway.send_signal(signal.SIGKILL)
            stage.script()
            later = [pool.submit(stage.complete, f"n{n}", 8) for n in range(8)]

            hung = wait(streams, timeout=30).not_done
            whole = []
            for stream in streams:
                with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                    whole.append(stream.result().whole)
            answers = [each.result(60) for each in later]

        assert set() == hung
        assert not any(whole)
        assert [True] * 8 == [reply.right(f"n{n}", 8) for n, reply in enumerate(answers)]
