"""Defects of other tuners that ours must not have: processes, with a fake vLLM where one runs."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from session_bench import CLASS, HERE
from stage import FAKE, ROOT, staged

from profiles.knobs import Knobs
from profiles.measurement import FailureKind
from profiles.records import TrialStatus
from profiles.store import Store
from service.engine import Engine, EngineStartError, LaunchPlan
from tuner.measure import MeasurePlan, measure
from tuner.replay import ReplayRequest


def launch_plan(folder, *, script=None, command=(sys.executable, str(FAKE)), timeout_s=60.0):
    """The launch of a fake vLLM."""
    return LaunchPlan(
        command=[*command, "--model", "fake/model"],
        env={"FAKE_VLLM": json.dumps(script or {})},
        profile="p",
        purpose="trial",
        knobs=Knobs(),
        run=folder / "run",
        logs=folder / "logs",
        record_path=folder / "engine.json",
        start_timeout_s=timeout_s,
        stall_timeout_s=60.0,
    )


@contextlib.contextmanager
def child(*arguments, **options):
    """A process that is ended by its own pid."""
    process = subprocess.Popen([sys.executable, *arguments], **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_p04_an_orphan_that_answers_is_not_measured(tmp_path):
    """vllm-tuner measured whatever answered on port 8000, though its own vLLM never bound it."""
    orphan = await Engine.launch(launch_plan(tmp_path))  # of an earlier trial, in the same folders
    try:
        with pytest.raises(EngineStartError) as caught:
            await Engine.launch(launch_plan(tmp_path, script={"hang_start": True}, timeout_s=1.0))
        answers = await orphan.client.canary() is None
    finally:
        await orphan.stop(timeout_s=5.0)

    assert FailureKind.TIMEOUT is caught.value.failure.kind
    assert answers


async def test_p04_every_start_has_a_socket_of_its_own(tmp_path):
    """No address is fixed, so an earlier engine cannot stand at that of the next one."""
    engines = [await Engine.launch(launch_plan(tmp_path)) for _ in range(2)]
    sockets = {engine.record.socket for engine in engines}
    for engine in engines:
        await engine.stop(timeout_s=5.0)

    assert 2 == len(sockets)
    assert all(Path(socket).parent == tmp_path / "run" for socket in sockets)


def test_p12_a_stopped_session_gives_back_what_was_in_force_before():
    """vllm-optimizer left the last trial's configuration running when a study was stopped."""
    with staged(tuning={"block_s": 5.0}) as stage:
        stage.start()
        stage.use(stage.profile(3))
        stage.settled("ngram k=3")
        status, _ = stage.ask("POST", "/v1/tune", {"classes": ["greedy.balanced.single"]})
        assert 200 == status
        stage.becomes(
            "the engine of a trial with other knobs, under load",
            lambda s: (
                (engine := s["engine"])
                and (engine["purpose"], engine["state"]) == ("trial", "running")
                and engine["label"] != "ngram k=3"
            ),
        )
        status, _ = stage.ask("POST", "/v1/tune/stop", {})
        assert 200 == status
        after = stage.settled("ngram k=3")

        assert "ngram k=3" == after["engine"]["label"]
        assert "serve" == stage.record.purpose
        assert 1 == len(stage.engines())


SESSION = """
import asyncio, os, signal, sys
from pathlib import Path
from session_bench import HERE, Runner, answer, session
from service.archive import Archive

def engine(length, number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer(tok_s=100.0 + length)

async def main():
    archive = await Archive.open(Path(sys.argv[1]))
    await archive.call(archive.store.ensure_platform, HERE, at=1.0)
    await session(Runner(archive, engine)).run()

asyncio.run(main())
"""


def test_p21_kill_9_in_a_session_loses_the_running_trial_only(tmp_path):
    """vllm-tuner wrote what its trials had given only after the whole loop."""
    path = tmp_path / "tuner.sqlite3"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    died = subprocess.run([sys.executable, "-c", SESSION, str(path)], env=environment, check=False)

    assert -signal.SIGKILL == died.returncode
    with Store.open(path, now=2.0) as store:
        assert 2 == len(store.measurements(HERE.digest, CLASS))
        assert 1 == store.sweep_open_trials("killed", at=2.0)
        statuses = [trial.status for trial in store.trials()]
    assert [TrialStatus.INTERRUPTED, TrialStatus.DONE, TrialStatus.DONE] == statuses


CHATTY = """
import os, sys
for stream in (sys.stdout, sys.stderr):
    for _ in range(2048):
        stream.write("x" * 1023 + chr(10))
    stream.flush()
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


async def test_p22_an_engine_that_writes_much_is_not_blocked_by_a_full_pipe(tmp_path):
    """auto-tune-vllm gave its child two pipes that nobody read until its end."""
    engine = await Engine.launch(
        launch_plan(tmp_path, command=(sys.executable, "-c", CHATTY, str(FAKE)))
    )
    size = Path(engine.record.log).stat().st_size
    await engine.stop(timeout_s=5.0)

    assert size > 4_000_000


async def test_p22_the_start_of_an_engine_is_no_measuring_time(tmp_path):
    """auto-tune-vllm counted the start of its load generator against the time of the benchmark."""
    engine = await Engine.launch(
        launch_plan(tmp_path, script={"start_delay_s": 1.5, "token_delay_s": 0.002})
    )
    requests = [
        ReplayRequest("completions", {"model": "fake/model", "prompt": str(n), "max_tokens": 8})
        for n in range(4)
    ]
    plan = MeasurePlan(requests=requests, concurrency=2, warmup_s=0.3, block_s=0.3, blocks=2)
    measured = await measure(plan, socket=Path(engine.record.socket), telemetry=None)
    await engine.stop(timeout_s=5.0)

    assert engine.record.ready_s > 1.4
    assert 0.6 == pytest.approx(sum(block.seconds for block in measured.blocks), rel=0.5)


async def test_p24_a_bystander_named_vllm_survives(tmp_path):
    """auto_tune.sh and SCOOT kill every process whose command line contains "vllm"."""
    sleep = "import time; time.sleep(600)"
    with (
        child("-c", sleep, "vllm", "serve", "somebody/elses-model") as other,
        child("-c", sleep, str(FAKE), "--uds", "engine-vllm.sock", start_new_session=True) as twin,
    ):
        # the hard way out: it ignores SIGTERM and leaves a child of its group behind
        engine = await Engine.launch(
            launch_plan(tmp_path, script={"ignore_sigterm": True, "child": True})
        )
        await engine.stop(timeout_s=0.5)

        assert not engine.record.alive()
        assert (None, None) == (other.poll(), twin.poll())


CALLER = """
import asyncio, os, subprocess, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from test_peer_defects_processes import Engine, launch_plan

async def main():
    sibling = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        engine = await Engine.launch(
            launch_plan(Path(sys.argv[1]), script={"ignore_sigterm": True, "child": True})
        )
        group = os.getpgid(engine.record.pid)
        await engine.stop(timeout_s=0.5)
        print(group != os.getpgid(0), os.getpgid(sibling.pid) == os.getpgid(0), sibling.poll())
    finally:
        sibling.kill()

asyncio.run(main())
"""


def test_p25_the_group_of_the_caller_survives_the_end_of_an_engine(tmp_path):
    """auto-tune-vllm killed the process group that its own caller was in, a whole Ray cluster."""
    folders = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]
    # in a session of its own: the defect would end this test run as well
    ended = subprocess.run(
        [sys.executable, "-c", CALLER, str(tmp_path), *folders],
        start_new_session=True, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert (0, "True True None\n") == (ended.returncode, ended.stdout), ended.stderr
