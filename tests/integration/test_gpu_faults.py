"""A GPU driver that fails under the running service: requests are answered, tuning pauses."""

import json
import secrets
import time

import nvml_machine
from stage import staged

WORKLOAD = "greedy.short-out.single"
driver, elsewhere = nvml_machine.driver, nvml_machine.elsewhere


def paused(status):
    """The code of the fault that the status shows."""
    fault = status["telemetry"]["fault"]
    return None if fault is None else fault["code"]


def serves(stage, prompt):
    """Whether a request gets its right answer."""
    return stage.complete(prompt, 8).right(prompt, 8)


def served_by(machine, monkeypatch):
    """Whatever is started from now on finds this driver."""
    for name, value in machine.environ().items():
        monkeypatch.setenv(name, value)


def test_a_lost_gpu_ends_a_session_and_not_the_service(elsewhere, monkeypatch):
    """The session stops with one line, its engine goes on, and the card's return ends the pause."""
    served_by(elsewhere, monkeypatch)
    with staged(tuning={"block_s": 30.0}) as stage:
        speeds = [{"num_speculative_tokens": 0, "concurrency": 1, "output_tok_s": 400.0}]
        (stage.folder / "landscape.json").write_text(json.dumps({"points": speeds}))
        stage.script(landscape=str(stage.folder / "landscape.json"))
        stage.start()
        assert (
            250.5
            == stage.becomes("power", lambda s: s["telemetry"]["gpus"])["telemetry"]["power_w"]
        )
        status, answered = stage.ask("POST", "/v1/tune", {"classes": [WORKLOAD]})
        assert 200 == status, answered
        running = stage.becomes("a session", lambda s: s["mode"] == "tuning")
        token = running["engine"]["token"]

        elsewhere.say("0.error * 15")
        after = stage.settled()
        assert "gpu_lost" == paused(after)
        assert token == after["engine"]["token"]
        assert serves(stage, "while the card is lost")
        status, answered = stage.ask("POST", "/v1/tune", {"classes": [WORKLOAD]})
        assert (409, True) == (status, "GPU-0 is lost" in json.dumps(answered))

        elsewhere.say()
        stage.becomes(
            "the end of the pause",
            lambda s: any("may go on" in event["sentence"] for event in s["events"]),
        )
        said = [event for event in stage.events() if event.startswith("sensors")]
        assert 2 == len(said), said
        assert "tuning is paused, serving goes on: GPU-0 is lost" in said[1]


def test_a_driver_of_another_version_leaves_serving_alone(elsewhere, monkeypatch):
    """The library refuses from the start: the service comes up, and says why nothing is tuned."""
    served_by(elsewhere.say("error nvmlInitWithFlags 18"), monkeypatch)
    with staged() as stage:
        stage.start()
        shown = stage.becomes("the fault", lambda s: paused(s) == "driver_mismatch")
        status, answered = stage.ask("POST", "/v1/tune", {"classes": [WORKLOAD]})

        assert serves(stage, "with a driver of another version")
        assert (409, True) == (status, "different versions" in json.dumps(answered))
        assert shown["telemetry"]["power_w"] is None


def test_a_driver_that_hangs_for_a_minute_delays_nobody(elsewhere, monkeypatch):
    """A sensor call of 60 s: status and requests are answered at once, and tuning pauses."""
    served_by(elsewhere, monkeypatch)
    with staged() as stage:
        stage.start()
        stage.becomes("power", lambda s: s["telemetry"]["gpus"])
        elsewhere.say("hang nvmlDeviceGetTemperature 60")
        stage.becomes("the fault", lambda s: paused(s) == "driver_hangs")
        began = time.monotonic()
        stage.status()
        assert serves(stage, "while the driver hangs")
        took_s = time.monotonic() - began
        elsewhere.say()

        stage.becomes("the end of the pause", lambda s: paused(s) is None)
        assert took_s < 30  # of 60 s


def test_a_card_has_one_tunerd(elsewhere, monkeypatch):
    """F16: with a state directory of its own the second is refused, unless it has another card."""
    served_by(elsewhere.cards(2), monkeypatch)
    names = [f"GPU-{secrets.token_hex(8)}" for _ in range(2)]
    elsewhere.lines |= {f"{number}.uuid": name for number, name in enumerate(names)}
    elsewhere.write()
    first, second = (
        {"exclusive": True, "env": {"CUDA_VISIBLE_DEVICES": str(number)}} for number in range(2)
    )
    with staged(engine=first) as stage:
        stage.start()
        pid = stage.status()["pid"]
        with staged(engine=first) as same:
            status, said = same.exits()
            assert (75, []) == (status, same.engines())
            assert f"Another tunerd, pid {pid}, uses {names[0]}." in said
            assert "Traceback" not in said
        with staged(engine=second) as other:
            other.start()
            assert serves(other, "the other card")

        assert serves(stage, "the first card")
        assert pid == stage.settled()["pid"]
