"""What the live knobs rely on in vLLM, on trees of a few lines each."""

import ast
import sys
from pathlib import Path

import pytest
from vllm_tree import TREE

from tuner import fit
from tuner.fit import NEEDS, inspect, installed_root

ROOT = Path(__file__).parents[2]
# for each need the text that meets it, and what stands there on a vLLM without it
WITHOUT = {
    "SchedulerConfig.scheduler_cls": ("scheduler_cls:", "other:"),
    "SchedulerConfig.async_scheduling": ("async_scheduling:", "other:"),
    "--scheduler-cls": ("--scheduler-cls", "--scheduler"),
    "AsyncScheduler(Scheduler)": ("(Scheduler)", "(Other)"),
    "Scheduler(vllm_config, ...)": ("self, vllm_config, log_stats", "self, log_stats, vllm_config"),
    "Scheduler.schedule()": None,  # nothing else is scheduled either: a test of its own
    "Scheduler.update_from_output(scheduler_output, model_runner_output)": (
        "model_runner_output):", "model_runner_output, more):",
    ),
    "Scheduler.add_request(request)": ("self, request)", "self, request, *, more)"),
    "Scheduler.requests": ("self.requests", "self._requests"),
    "Scheduler.running": ("self.running: list", "self._running: list"),
    "Scheduler.scheduler_config": ("self.scheduler_config", "self._scheduler_config"),
    "Scheduler.max_num_running_reqs": ("self.max_num_running_reqs = 8", "pass"),
    "Scheduler.dynamic_sd_lookup": ("self.dynamic_sd_lookup: list", "self._lookup: list"),
    "Scheduler.num_spec_tokens": ("self.num_spec_tokens", "self._num_spec_tokens"),
    "SpeculativeConfig.num_speculative_tokens_per_batch_size": ("_per_batch_size", ""),
    "Scheduler.schedule(): dynamic_sd_lookup[...]": ("lookup[len(self.running)]", "lookup"),
    "Scheduler.schedule(): SchedulerOutput(num_spec_tokens_to_schedule=...)": (
        "(num_spec_tokens_to_schedule=k)", "()",
    ),
    "SchedulerOutput.num_spec_tokens_to_schedule": ("    num_spec_tokens_to_schedule: int = 0", ""),
    "SchedulerOutput.num_scheduled_tokens": ("    num_scheduled_tokens", "    other"),
    "SchedulerOutput.total_num_scheduled_tokens": ("total_num_scheduled_tokens", "other"),
    "SchedulerOutput.scheduled_spec_decode_tokens": ("scheduled_spec_decode_tokens", "other"),
    "AsyncScheduler: num_spec_tokens_to_schedule": ("num_spec_tokens_to_schedule", "other"),
    "GPUModelRunner: num_spec_tokens_to_schedule": ("num_spec_tokens_to_schedule", "other"),
    "Scheduler.max_num_active_reqs": ("self.max_num_active_reqs = 8", "pass"),
    "Scheduler.schedule(): comparison with max_num_active_reqs": (
        "< self.max_num_active_reqs", "< 8",
    ),
    "no assertion about max_num_active_reqs": (
        "<= self.max_num_running_reqs", "<= self.max_num_active_reqs",
    ),
    "--max-num-active-seqs": ("--max-num-active-seqs", "--other"),
    "Scheduler.max_num_scheduled_tokens": ("self.max_num_scheduled_tokens = 2048", "pass"),
    "Scheduler.schedule(): assignment from max_num_scheduled_tokens": (
        "budget = self.max_num_scheduled_tokens", "budget = 1",
    ),
    "--max-num-scheduled-tokens": ("--max-num-scheduled-tokens", "--other"),
    "EngineCoreOutputs.scheduler_stats": ("scheduler_stats", "other"),
    "EngineCoreOutputs.outputs": ("outputs: list", "other: list"),
    "EngineCoreOutput.new_token_ids": ("new_token_ids", "other"),
    "EngineCoreOutput.request_id": ("request_id", "other"),
    "SchedulerStats.spec_decoding_stats": ("spec_decoding_stats", "other"),
    "SpecDecodingStats.num_drafts": ("num_drafts", "other"),
    "SpecDecodingStats.num_draft_tokens": ("num_draft_tokens:", "other:"),
    "SpecDecodingStats.num_accepted_tokens": ("num_accepted_tokens:", "other:"),
    "SpecDecodingStats.num_accepted_tokens_per_pos": ("num_accepted_tokens_per_pos", "other"),
    "SpecDecodingStats.num_draft_tokens_per_pos": ("num_draft_tokens_per_pos", "other"),
    "SchedulerOutput.num_invalid_spec_tokens": ("num_invalid_spec_tokens", "other"),
    "ModelRunnerOutput.sampled_token_ids": ("sampled_token_ids", "other"),
    "ModelRunnerOutput.req_id_to_index or req_ids": ("req_ids", "other"),
    "Request.num_output_tokens": ("num_output_tokens", "other"),
    "Scheduler.waiting": ("self.waiting", "self._waiting"),
    "_base_request_id(): X-Request-Id": ("X-Request-Id", "X-Other"),
    "chatcmpl-{_base_request_id()}": ("self._base_request_id(raw)", "uuid()"),
    "cmpl-{_base_request_id()}": ("self._base_request_id(raw)", "uuid()"),
    "InputProcessor.assign_request_id()": ("{request.external_req_id}-", ""),
    "Request.request_id": ("self.request_id", "self.other"),
    "Request.spec_token_ids": ("self.spec_token_ids", "self.other"),
    "Scheduler.update_draft_token_ids(): spec_token_ids": ("request.spec_token_ids = ids", "pass"),
    "Scheduler.schedule(): use of spec_token_ids": ("drafts = request.spec_token_ids", "pass"),
}  # fmt: skip
# where the file of a need is a folder
PLACES = {
    "_base_request_id(): X-Request-Id": "entrypoints/serve/serving.py",
    "chatcmpl-{_base_request_id()}": "entrypoints/openai/chat.py",
    "cmpl-{_base_request_id()}": "entrypoints/openai/completion.py",
}


@pytest.fixture
def root(tmp_path):
    """A `vllm` folder that has everything."""
    for name, text in TREE.items():
        (tmp_path / "vllm" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "vllm" / name).write_text(text)
    return tmp_path / "vllm"


def change(root, name, old, new):
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))


def named(found):
    return [need.what for need in found.missing]


def test_a_vllm_that_has_everything(root):
    """Nothing is missing, every capability is there and the sentence says so."""
    found = inspect(root)

    assert ((), frozenset(fit.LOST), "9.8.7") == (found.missing, found.capabilities, found.version)
    assert "vLLM 9.8.7: all that the live knobs rely on is there." == found.sentence()


def test_every_need_has_its_counterexample():
    """A need without a tree that lacks it would be untested."""
    assert [*WITHOUT] == [need.what for need in NEEDS]


@pytest.mark.parametrize("need", [need for need in NEEDS if WITHOUT[need.what]], ids=str)
def test_what_is_missing_is_named(root, need):
    """Without one thing exactly that is named and exactly its capability is lost."""
    change(root, PLACES.get(need.what, need.file), *WITHOUT[need.what])

    found = inspect(root)

    assert (need,) == found.missing
    assert fit.LOST.keys() - {need.capability} == found.capabilities
    assert f"vLLM 9.8.7: {fit.LOST[need.capability]} ({need.sentence})." == found.sentence()


def test_a_scheduler_without_schedule_is_named(root):
    """All that is looked for in the method is lost with it, for this one reason."""
    change(root, fit.SCHEDULER, "def schedule(", "def plan(")

    found = inspect(root)

    assert "Scheduler.schedule()" in named(found)
    expected = {"Scheduler.schedule() is missing in v1/core/sched/scheduler.py"}
    assert expected == {need.sentence for need in found.missing}


def test_several_losses_are_one_sentence(root):
    """Each lost capability gives its first reason and the number of the others."""
    change(root, fit.SCHEDULER, "max_num_active_reqs", "max_num_running_reqs")
    change(root, fit.FLAGS, "--max-num-scheduled-tokens", "--other")

    expected = (
        "vLLM 9.8.7: admitted batch is not live (Scheduler.max_num_active_reqs is missing, "
        "and 1 more); token budget is not live (--max-num-scheduled-tokens is missing)."
    )
    assert expected == inspect(root).sentence()


def test_a_missing_file_is_said_once(root):
    """All needs of the file are missing, and the sentence names the file."""
    (root / fit.REQUEST).unlink()

    found = inspect(root)

    assert {fit.REQUEST} == {need.file for need in found.missing}
    assert {fit.TELEMETRY, fit.CLASS, fit.LIMIT} == fit.LOST.keys() - found.capabilities
    assert 3 == found.sentence().count("(v1/request.py is missing)")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"class Request:\n  def (", "cannot be parsed, line 2"),
        (b"\xff\xfe", "cannot be parsed"),
        (b"a = 1\0", "cannot be parsed"),
        (b"x = " + b"(" * 5000 + b")" * 5000, "cannot be parsed"),
    ],
)
def test_a_file_that_is_no_python_is_missing(root, text, said):
    """A file of a later language, or a damaged one, is a missing need and never an exception."""
    (root / fit.REQUEST).write_bytes(text)

    assert f"(v1/request.py {said}" in inspect(root).sentence()


def test_a_missing_class_is_said(root):
    """The sentence names the class, not the first of its fields."""
    change(root, fit.STATS, "class SchedulerStats", "class Stats")

    assert "(class SchedulerStats is missing in v1/metrics/stats.py)" in inspect(root).sentence()


def test_warnings_of_vllm_are_not_ours(root):
    """An invalid escape in one of its strings is neither shown nor an error."""
    change(root, fit.REQUEST, "class Request:", "PATTERN = '\\d'\n\n\nclass Request:")

    assert () == inspect(root).missing


def test_fields_of_a_base_in_the_same_file_count(root):
    """Where a class got a base, its fields are still its fields."""
    change(root, fit.OUTPUTS, "class ModelRunnerOutput:", "class Base:")
    with (root / fit.OUTPUTS).open("a") as file:
        file.write("\nclass ModelRunnerOutput(Base):\n    pass\n")

    assert () == inspect(root).missing


def test_one_unreadable_entrypoint_is_not_the_end(root):
    """What another file below the folder has is found, whatever the first one is."""
    (root / fit.ENTRYPOINTS / "a.py").write_text("def _base_request_id(")
    (root / fit.ENTRYPOINTS / "b.py").write_bytes(b"\xff")

    assert () == inspect(root).missing


def test_no_vllm_at_all(tmp_path):
    """A folder without vLLM has no capability and no version, and says why."""
    found = inspect(tmp_path / "vllm")

    assert (None, frozenset(), NEEDS) == (found.version, found.capabilities, found.missing)
    assert found.sentence().startswith("This vLLM: live knobs cannot be loaded (config/scheduler.")


def test_all_that_the_scheduler_reads_is_in_the_catalogue():
    """What `Tuned` uses of the scheduler that it is mixed into is looked for beforehand."""
    module = ast.parse((ROOT / "service" / "engine_site" / "tuner_scheduler.py").read_text())
    (tuned,) = (node for node in module.body if getattr(node, "name", "") == "Tuned")
    used = {node.attr for node in ast.walk(tuned) if fit.source.is_self(node)}
    theirs = {name for name in used if not name.removeprefix("_").startswith("tuner_")}
    known = {need.what.removeprefix("Scheduler.") for need in NEEDS if need.file == fit.SCHEDULER}

    assert "num_spec_tokens" in theirs
    assert set() == theirs - known


async def test_the_root_is_where_the_command_finds_vllm(root):
    """The interpreter of the engine's command is asked, not our own."""
    (root / "__init__.py").write_text("raise SystemExit('imported')")
    command = [sys.executable, "-S", "-m", "vllm.entrypoints.openai.api_server"]

    assert root == await installed_root(command, {"PYTHONPATH": str(root.parent)})


@pytest.mark.parametrize("command", [[], ["/no/such/python"], [sys.executable, "-S", "-m", "vllm"]])
async def test_no_root_without_vllm(tmp_path, command):
    """No command, no program and no vLLM are all none."""
    assert None is await installed_root(command, {"PYTHONPATH": str(tmp_path)})
