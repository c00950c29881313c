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


# a vLLM for GPUs: the one of these tests is built for processors, and would not be asked to wait
METADATA = "Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n"
ON_GPU = {"../vllm-0.32.0.dist-info/METADATA": METADATA}


def processes(status):
    """How many processes the status shows on the card."""
    return len(status["telemetry"]["gpus"]["GPU-0"]["processes"])


def waits_for(status, words):
    """Whether the status says that the next profile waits for this."""
    return f"waiting: {words}" in (status["profile"]["waiting"] or "")


def test_no_engine_is_started_into_memory_that_others_hold(elsewhere, monkeypatch):
    """F14: the status names who holds how much and no engine is started; then all comes by itself.

    vLLM would load for a minute, say that memory is not free, and name nobody.
    """
    served_by(elsewhere.say("0.process 4242 60000"), monkeypatch)
    with staged() as stage:
        stage.tree = ON_GPU
        stage.spawn()
        stage.becomes("degraded", lambda s: s["mode"] == "degraded")
        said = next(event for event in stage.events() if event.startswith("start_failed"))
        assert "GPU-0: pid 4242 holds 60000 MiB; 21920 of 81920 MiB are left" in said
        assert [] == [*stage.engines(), *stage.state.rglob("engine-*.log")]

        elsewhere.say()
        stage.settled()
        assert serves(stage, "when the memory is free")


def test_no_engine_is_given_up_for_one_that_lacks_memory(elsewhere, monkeypatch):
    """F14: the operator's choice waits for the memory while the old engine serves."""
    served_by(elsewhere, monkeypatch)
    with staged() as stage:
        stage.tree = ON_GPU
        stage.start()
        pid = stage.record.pid
        own = f"0.process {pid} 70000"
        elsewhere.say(own, "0.process 4242 20000")
        stage.becomes("the stranger", lambda s: processes(s) == 2)
        stage.use(stage.profile(3))
        stage.becomes("waiting", lambda s: waits_for(s, "GPU-0: pid 4242 holds 20000 MiB"))
        assert serves(stage, "while the memory is held")
        assert pid == stage.record.pid

        elsewhere.say()
        stage.settled("ngram k=3")
        assert serves(stage, "with the other profile")
