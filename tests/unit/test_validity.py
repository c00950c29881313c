"""What makes a measurement invalid, and what only nearly does."""

import pytest

from profiles.measurement import Block, Environment, Measurement
from tuner.processes import EngineProcess, Listener
from tuner.replay import ReplayResult
from tuner.scrape import EngineCounters, Window
from tuner.validity import Code, Seen, cache_gap, decode_steps, invalidity

ENGINE = EngineProcess(pid=100, started_at=1000.0)


def result(**changes):
    fields = {
        "seconds": 1.0, "output_tokens": 100, "requests": 10, "errors": 0, "refused": 0,
        "busy": 2.0, "timings": (),
    }  # fmt: skip
    return ReplayResult(**(fields | changes))


def window(**changes):
    fields = {
        "generation_tokens": 200, "prompt_tokens": 0, "acceptance": None, "step_seconds": None,
        "steps": None, "preemptions": 0,
    }  # fmt: skip
    return Window(**(fields | changes))


def counters(**changes):
    fields = dict.fromkeys(
        ("generation_tokens", "prompt_tokens", "running", "waiting", "preemptions"), 0
    ) | dict.fromkeys(
        ("drafts", "draft_tokens", "accepted_tokens", "step_seconds_sum", "step_count", "kv_usage")
    )
    return EngineCounters(**(fields | {"accepted_per_position": ()} | changes))


def seen(**changes):
    """A sound measurement of two blocks at concurrency 2, but for these changes."""
    fields = {
        "concurrency": 2, "block_s": 1.0, "results": [result(), result()],
        "readings": [counters(), counters()], "whole": window(), "received": 200,
        "environment": Environment(),
    }  # fmt: skip
    return Seen(**(fields | changes))


def found(**changes):
    """The code and the sentence of what is wrong; None when sound."""
    reason = invalidity(seen(**changes))
    return None if reason is None else (reason.code, reason.sentence)


def around(**figures):
    return {"environment": Environment(**figures)}


def test_sound_blocks_are_valid():
    """Nothing wrong, no reason; also when everything was looked at."""
    figures = Environment(
        throttle_reasons=("sw_power_cap",), foreign_gpu_busy=0.0, foreign_gpu_mib=0.0,
        host_cpu=0.9, foreign_cpu=0.01, client_cpu=0.2,
    )  # fmt: skip
    listeners = [Listener(pid=100, started_at=1000.0)] * 2
    readings = [counters(started_at=1000.4, models=frozenset({"m"}))] * 2

    assert found() is None
    assert found(
        environment=figures, listeners=listeners, readings=readings, engine=ENGINE,
        whole=window(steps=400),
    ) is None  # fmt: skip


@pytest.mark.parametrize(
    ("code", "words", "wrong", "near"),
    [
        (
            Code.ERRORS, "1 of 11 requests failed",
            {"results": [result(errors=1)]}, {"results": [result()]},
        ),
        (
            Code.REFUSED, "refused 2 of 12",
            {"results": [result(refused=2)]}, {"results": [result(refused=1)]},
        ),
        (
            Code.TOO_FEW_REQUESTS, "Only 1 requests ended in 1 blocks of 1 s at concurrency 2",
            {"results": [result(requests=1)]}, {"results": [result(requests=2)]},
        ),
        (
            Code.TOO_FEW_STEPS, "took only 19 steps in 2 blocks of 1 s; make tuning.block_s",
            {"whole": window(steps=18)}, {"whole": window(steps=20)},
        ),
        (
            Code.LOAD_LIMITED, "(load-limited): 1.8 of 2 requests in flight",
            {"results": [result(busy=1.8)]}, {"results": [result(busy=1.9)]},
        ),
        (
            Code.FOREIGN_TOKENS, "generated 243 tokens where the replay received 200",
            {"whole": window(generation_tokens=243)}, {"whole": window(generation_tokens=242)},
        ),
        (
            Code.CLIENT_LIMITED, "used 90% of the one core",
            around(client_cpu=0.9), around(client_cpu=0.89),
        ),
        (
            Code.THROTTLED, "slowed down (hw_thermal_slowdown)",
            around(throttle_reasons=("hw_thermal_slowdown", "sw_power_cap")),
            around(throttle_reasons=("sw_power_cap",)),
        ),
        (
            Code.THROTTLED, "slowed down (hw_power_brake)",
            around(throttle_reasons=("hw_power_brake",)),
            around(throttle_reasons=("applications_clocks",)),
        ),
        (Code.GPU_FAULT, "It is lost.", around(gpu_fault="It is lost."), around()),
        (
            Code.FOREIGN_GPU, "Others used 6% of the GPU's time",
            around(foreign_gpu_busy=0.06), around(foreign_gpu_busy=0.05),
        ),
        (
            Code.FOREIGN_GPU, "Others took 300 MiB",
            around(foreign_gpu_mib=300.0), around(foreign_gpu_mib=256.0),
        ),
        (
            Code.FOREIGN_CPU, "Others used 25% of the processors, which were 90% busy",
            around(foreign_cpu=0.25, host_cpu=0.9), around(foreign_cpu=0.25, host_cpu=0.8),
        ),
        (
            Code.FOREIGN_CPU, "Others used 55%",
            around(foreign_cpu=0.55, host_cpu=0.7), around(foreign_cpu=0.2, host_cpu=1.0),
        ),
        (Code.FOREIGN_CPU, "100%", around(foreign_cpu=1.0, host_cpu=1.0), around(foreign_cpu=1.0)),
        (Code.COUNTER_RESET, "counters fell", {"whole": None}, {"whole": window()}),
    ],
)  # fmt: skip
def test_a_reason_and_its_near_miss(code, words, wrong, near):
    """Each rule has a code and a sentence, and leaves alone what is just within bounds."""
    reason = found(**wrong)

    assert reason is not None
    assert code is reason[0]
    assert words in reason[1]
    assert found(**near) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"listeners": [Listener(pid=100, started_at=None), Listener(pid=101, started_at=None)]},
        {"readings": [counters(started_at=1000.0), counters(started_at=1003.0)]},
        {"readings": [counters(models=frozenset({"a"})), counters(models=frozenset({"b"}))]},
        {"engine": ENGINE, "listeners": [Listener(pid=7, started_at=900.0)]},
        {"engine": ENGINE, "readings": [counters(started_at=900.0)]},
    ],
)
def test_another_engine_is_noticed(changes):
    """A changed process, start or model, and one that is older than what was started."""
    assert Code.OTHER_ENGINE is found(**changes)[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"listeners": [Listener(pid=100, started_at=None)] * 2},
        {"readings": [counters(started_at=1000.0), counters(started_at=1001.0)]},
        {"readings": [counters(models=frozenset({"a"}))] * 2},
        # behind a launcher the server is younger than what was started, and has another pid
        {"engine": ENGINE, "listeners": [Listener(pid=7, started_at=1010.0)]},
        {"engine": ENGINE, "listeners": [Listener(pid=7, started_at=None)]},
        {"engine": ENGINE, "readings": [counters(started_at=999.0)]},
    ],
)
def test_the_same_engine_is_not_doubted(changes):
    """Clocks disagree a little, and an engine may have a launcher before it."""
    assert found(**changes) is None


def test_the_cause_is_said_before_its_effects():
    """A replay that cannot keep up also gives an unsteady load; the first is what to mend."""
    assert Code.CLIENT_LIMITED is found(**around(client_cpu=1.0), results=[result(busy=1.0)])[0]
    assert Code.OTHER_ENGINE is found(
        listeners=[Listener(pid=1, started_at=None), Listener(pid=2, started_at=None)], whole=None
    )[0]  # fmt: skip


def test_an_engine_that_counts_no_steps_is_not_judged_by_them():
    """Without the series nothing is known; answers of one token have only their prefill."""
    assert decode_steps(window(), 10, 2) is None
    assert decode_steps(None, 10, 2) is None
    assert 20.0 == decode_steps(window(steps=0), 40, 2)


def measured(hits):
    return Measurement(
        platform="p", workload="greedy.balanced.single", knobs="{}", started_at=1.0,
        engine_token="t", blocks=(Block(seconds=1, output_tokens=9, requests=1),),
        cache_hits=hits,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [(0.1, 0.3, True), (0.1, 0.4, False), (0.9, 0.2, False), (None, 0.9, True), (0.9, None, True)],
)
def test_arms_whose_prompts_were_cached_differently_are_not_compared(one, other, alike):
    """Cold laps may be cut elsewhere; a warm cache against a cold one is another load."""
    gap = cache_gap(measured(one), measured(other))

    assert alike == (gap is None)
    assert alike or f"{one:.0%}" in gap
