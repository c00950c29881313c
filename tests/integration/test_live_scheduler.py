"""Our layer over vLLM's own scheduler objects, both kinds, without an engine."""

import sys
from collections import deque
from pathlib import Path

import pytest

from service.engine_site import tuner_layout as layout
from service.live_files import ControlFile, LiveKnobs, read_telemetry

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),  # vLLM's and torch's own, at import
]

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "service" / "demo" / "pair" / "target-core"


@pytest.fixture(scope="module")
def stage():
    sys.path.insert(0, str(ROOT / "scripts" / "benchmarks"))
    import scheduler_stage

    yield scheduler_stage
    sys.path.remove(str(ROOT / "scripts" / "benchmarks"))


def made(stage, folder, *, asynchronous):
    return stage.scheduler(
        CORE, asynchronous=asynchronous, longest=8, seqs=64, live=True, folder=folder
    )


@pytest.mark.parametrize("asynchronous", [False, True], ids=["Scheduler", "AsyncScheduler"])
def test_the_base_is_the_one_that_vllm_would_have_chosen(stage, tmp_path, asynchronous):
    """A subclass of plain Scheduler would turn asynchronous scheduling off."""
    scheduler = made(stage, tmp_path, asynchronous=asynchronous)
    names = [base.__name__ for base in type(scheduler).__mro__]

    assert ("TunedAsyncScheduler" if asynchronous else "TunedScheduler") == names[0]
    assert asynchronous == ("AsyncScheduler" in names)
    assert asynchronous != scheduler.tuner_trims


def test_a_flip_is_in_force_at_the_next_step(stage, tmp_path):
    """The step after a change makes drafts of the new length, the one after verifies them."""
    control = ControlFile(tmp_path / "control")
    control.put(LiveKnobs.constant(4))
    scheduler = made(stage, tmp_path, asynchronous=False)
    stage.add(scheduler, 3)
    lengths = []
    for k in (4, 4, 4, 7, 7, 0, 0):
        control.put(LiveKnobs.constant(k))
        output, _ = stage.step(scheduler, 2)
        drafts = output.scheduled_spec_decode_tokens
        lengths.append((output.num_spec_tokens_to_schedule, {len(d) for d in drafts.values()}))

    assert [
        (4, set()), (4, {4}), (4, {4}), (7, {4}), (7, {7}), (0, {7}), (0, set()),
    ] == lengths  # fmt: skip
    scheduler.tuner_meter.publish(0)  # it would within 100 ms
    found = read_telemetry(tmp_path / "telemetry")
    assert {(3, 4): 2, (3, 7): 1, (3, 0): 1} == {key: c.steps for key, c in found.cells.items()}
    # 1 + 2 accepted per request; without drafts 1
    assert {(3, 4): 18, (3, 7): 9, (3, 0): 3} == {key: c.tokens for key, c in found.cells.items()}
    assert (1, 2) == (found.fields["prefill_steps"], found.fields["mixed_steps"])
    assert 0 == found.fields["errors"]


def test_caps_hold_new_requests_back_and_break_nothing(stage, tmp_path):
    """Fewer admitted than running: the running ones go on, and none is added until they end."""
    control = ControlFile(tmp_path / "control")
    control.put(LiveKnobs.constant(2))
    scheduler = made(stage, tmp_path, asynchronous=False)
    stage.add(scheduler, 6, tokens=12)
    stage.step(scheduler, 2)
    control.put(LiveKnobs.constant(2, active=2, budget=1))
    stage.add(scheduler, 4, prefix="late", tokens=12)
    running = []
    while scheduler.has_unfinished_requests():
        stage.step(scheduler, 2)
        running.append(len(scheduler.running))

    assert max(running) <= 6
    assert all(count <= 2 for count in running[running.index(min(running)) :])
    assert 64 == scheduler.max_num_running_reqs
    found = read_telemetry(tmp_path / "telemetry")
    assert 2 == found.fields["active"]
    assert 9 == found.fields["budget"]  # a request with its longest draft fits
    assert {3: 10} == {code: count.requests for code, count in found.classes.items()}
    assert 120 == found.classes[3].tokens


def test_asynchronous_steps_in_flight_are_counted_once(stage, tmp_path):
    """Two steps are scheduled ahead, as vLLM's batch queue does; k flips meanwhile."""
    from vllm.v1.outputs import ModelRunnerOutput

    control = ControlFile(tmp_path / "control")
    control.put(LiveKnobs.constant(3))
    scheduler = made(stage, tmp_path, asynchronous=True)
    stage.add(scheduler, 4, tokens=60)
    queue, steps = deque(), 0
    while scheduler.has_unfinished_requests() or queue:
        if len(queue) < 2 and scheduler.has_unfinished_requests():
            output = scheduler.schedule()
            if output.num_scheduled_tokens:
                queue.append(output)
                if len(queue) < 2:
                    continue
        if not queue:
            break
        output = queue.popleft()
        ids = list(output.num_scheduled_tokens)
        drafts = output.scheduled_spec_decode_tokens
        result = ModelRunnerOutput(
            req_ids=ids,
            req_id_to_index={one: number for number, one in enumerate(ids)},
            sampled_token_ids=[[7] * (1 + min(1, len(drafts.get(one, ())))) for one in ids],
            logprobs=None,
            prompt_logprobs_dict={},
            pooler_output=[],
        )
        scheduler.update_from_output(output, result)
        steps += 1
        if steps % 7 == 0:
            control.put(LiveKnobs.constant((3, 0, 8, 1)[steps // 7 % 4]))

    found = read_telemetry(tmp_path / "telemetry")
    assert 0 == found.fields["errors"]
    assert steps == found.fields["steps"]
    assert found.fields["capabilities"] & layout.ASYNC
    assert {3: (4, 240)} == {c: (n.requests, n.tokens) for c, n in found.classes.items()}
    counted = found.total.tokens
    assert 240 == counted
