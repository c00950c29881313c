"""SIGHUP to the real processes: the configuration is read again, and nothing ends."""

import signal
import time

from stage import staged


def reloaded(stage, words):
    """The status once a reading of the file has had this outcome."""
    return stage.becomes(words, lambda s: s["reload"] and words in s["reload"]["sentence"])


def change(stage, **overrides):
    """Another file, and the signal."""
    stage.overrides = overrides
    stage.write()
    stage.process.send_signal(signal.SIGHUP)


def configured(stage):
    """The configuration in force."""
    return stage.ask("GET", "/v1/config", name="status")[1]["config"]


def test_a_changed_file_is_in_force_as_far_as_it_can_be():
    """F33: no process and no engine is restarted; what waits is named; a wrong file is refused."""
    with staged() as stage:
        stage.start()
        before = stage.settled()
        assert before["reload"] is None

        change(stage, policy={"dwell_s": 7.5}, engine={"args": ["--seed", "7"]})
        shown = reloaded(stage, "policy.dwell_s in force now")
        assert ["engine.args"] == shown["reload"]["waiting"]
        assert (7.5, []) == (
            configured(stage)["policy"]["dwell_s"],
            configured(stage)["engine"]["args"],
        )

        (stage.folder / "tuner.toml").write_text("[engine\n", encoding="utf-8")
        stage.process.send_signal(signal.SIGHUP)
        shown = reloaded(stage, "is not used, the one before stays in force")
        assert shown["reload"]["refused"]
        assert "line 1" in shown["reload"]["sentence"]
        assert 7.5 == configured(stage)["policy"]["dwell_s"]

        change(stage, policy={"dwell_s": 3.0})
        reloaded(stage, "policy.dwell_s in force now")
        after = stage.settled()
        assert 3.0 == configured(stage)["policy"]["dwell_s"]
        assert stage.complete("after", 8).right("after", 8)
        assert (before["pid"], before["engine"]["token"], before["gateway"]["pid"]) == (
            after["pid"],
            after["engine"]["token"],
            after["gateway"]["pid"],
        )
        said = [event for event in stage.events() if event.startswith("reload: ")]
        assert 3 == len(said), said


def test_a_storm_of_signals_is_one_reading():
    """F34: a hundred within a second, beginning before tunerd can hear: everything lives on."""
    with staged() as stage:
        stage.spawn()
        until = time.monotonic() + 3
        while time.monotonic() < until and stage.process.poll() is None:
            # the supervisor itself begins, too
            if stage.log.stat().st_size:
                stage.process.send_signal(signal.SIGHUP)
            time.sleep(0.01)
        stage.settled()
        pid = stage.status()["pid"]
        (daemon,) = [p for p in stage.named("-m", "service") if p.pid == pid]
        stage.process.send_signal(signal.SIGHUP)  # those of before were no longer needed
        reloaded(stage, "nothing has changed")
        before = len([event for event in stage.events() if event.startswith("reload: ")])
        for _ in range(100):
            daemon.send_signal(signal.SIGHUP)
            time.sleep(0.005)
        stage.becomes(
            "one more reading",
            lambda _: (
                len([event for event in stage.events() if event.startswith("reload: ")]) > before
            ),
        )
        time.sleep(1.5)

        readings = len([event for event in stage.events() if event.startswith("reload: ")])
        assert 1 <= readings - before <= 3  # a storm on a busy machine may have pauses
        assert pid == stage.settled()["pid"]
        assert stage.complete("after", 8).right("after", 8)
        assert 0 == stage.stop()


def test_reading_the_file_again_ends_a_pause():
    """F7: a change of the configuration is a reason to try now what would be tried later."""
    with staged() as stage:
        stage.script(exit={"code": 1, "log": "crash"})
        stage.spawn()
        stage.becomes("a long pause", lambda s: "next try is in 60 s" in s["sentence"])
        stage.script()
        asked = time.monotonic()
        stage.process.send_signal(signal.SIGHUP)
        stage.settled("off")

        assert time.monotonic() - asked < 55
        assert stage.complete("after", 8).right("after", 8)
