"""What our part of vLLM's scheduler counts: cells, time, classes, and when it says so."""

import os
from types import SimpleNamespace

import pytest
import scheduler_double as double
from scheduler_base import PROMPT
from scheduler_double import (
    BUDGET,
    LONGEST,
    SEQS,
    STEP_NS,
    add,
    live,
    look,
    step,
    warm,
)

from profiles.schedule import checked, constant
from service.engine_site import tuner_layout as layout
from service.live_files import read_telemetry

module, control = double.module, double.control  # fixtures
telemetry, start = double.telemetry, double.start


# --- cells ----------------------------------------------------------------------------------------


def test_pure_steps_are_counted_by_batch_and_length(start, control, telemetry):
    """Steps, tokens of the whole batch, and seconds."""
    control.put(live())
    stage = start()
    warm(stage, 3)
    for _ in range(4):
        step(stage, accepted=2)

    found = look(stage, telemetry)
    assert [(3, LONGEST)] == list(found.cells)
    cell = found.cells[3, LONGEST]
    assert (5, 3 + 4 * 9) == (cell.steps, cell.tokens)
    assert pytest.approx(5 * STEP_NS / 1e9) == cell.seconds


def test_a_prefill_is_no_decode_step(start, control, telemetry):
    """It is counted apart, with its prompt tokens, also when others decode beside it."""
    control.put(live())
    stage = start()
    add(stage, "a")
    step(stage)
    add(stage, "b")
    step(stage, accepted=1)

    found = look(stage, telemetry)
    fields = found.fields
    assert {} == found.cells
    assert (2, 2, 0) == (fields["prefill_steps"], fields["steps"], fields["mixed_steps"])
    assert (PROMPT - 1) * 2 == fields["prompt_tokens"]
    assert 1 + 3 == fields["prefill_tokens"]
    assert pytest.approx(2 * STEP_NS / 1e9) == found.total.seconds


def test_the_step_after_a_flip_is_mixed(start, control, telemetry):
    """It verifies drafts of the old length and makes those of the new one: in no cell of either."""
    control.put(live())
    stage = start()
    warm(stage)
    control.put(live(constant(1)))
    step(stage, accepted=LONGEST)
    found = look(stage, telemetry)
    assert (1, 1 + LONGEST) == (found.fields["mixed_steps"], found.fields["mixed_tokens"])
    assert [1] == [cell.steps for cell in found.cells.values()]

    step(stage, accepted=LONGEST)
    found = look(stage, telemetry)
    cell = found.cells[1, 1]
    assert (1, 2) == (cell.steps, cell.tokens)
    assert 1 == found.fields["mixed_steps"]


def test_another_batch_size_with_another_length_is_mixed_too(start, control, telemetry):
    """The table itself changes k when a request ends: that step verifies longer drafts."""
    control.put(live(checked([(1, 1, 4), (2, 9, 1)])))
    stage = start()
    add(stage, "a", max_tokens=1000)
    add(stage, "b", max_tokens=3)
    step(stage)  # prefill
    step(stage, accepted=1)  # both decode at k = 1, and b ends
    step(stage, accepted=1)  # a alone: drafts of length 1 verified, 4 made
    step(stage, accepted=4)

    found = look(stage, telemetry)
    assert {(2, 1): 1, (1, 4): 1} == {key: cell.steps for key, cell in found.cells.items()}
    assert 1 == found.fields["mixed_steps"]


def test_the_first_step_with_a_table_belongs_to_no_cell(start, telemetry):
    """Nobody knows of which length the drafts before it were."""
    stage = start()
    add(stage, "a", prompt=1)  # one token of prompt looks like a decode step
    step(stage)

    found = look(stage, telemetry)
    assert ({}, 1) == (found.cells, found.fields["mixed_steps"])


def test_tokens_are_exact_when_an_answer_ends_inside_a_draft(start, control, telemetry):
    """Four drafts were accepted, but the answer had room for two: two are counted."""
    control.put(live())
    stage = start()
    add(stage, "a", max_tokens=1000)
    add(stage, "b", max_tokens=4)
    step(stage)
    step(stage)  # one token each
    step(stage, accepted=LONGEST)  # 5 of a, 2 of b

    cell = look(stage, telemetry).cells[2, LONGEST]
    assert (2, 2 + 5 + 2) == (cell.steps, cell.tokens)


@pytest.mark.parametrize("stats", [True, False])
def test_tokens_are_the_same_with_and_without_statistics(start, control, telemetry, stats):
    """--disable-log-stats takes vLLM's count of drafts away, and nothing else."""
    control.put(live())
    stage = start(stats=stats)
    warm(stage, 2)
    step(stage, accepted=3)

    found = look(stage, telemetry)
    cell = found.cells[2, LONGEST]
    assert (2, 2 + 8) == (cell.steps, cell.tokens)
    assert 2 * (PROMPT - 1) == found.fields["prompt_tokens"]


def test_drafts_that_a_grammar_refused_are_no_prompt(start, control, telemetry):
    """In the statistics of vLLM they were not drafted; they were scheduled all the same."""
    control.put(live())
    stage = start()
    warm(stage)
    stage.invalid = {"cmpl-r0~t3-0-abcdef01": 3}
    step(stage, accepted=1)

    found = look(stage, telemetry)
    assert 1 == found.fields["prefill_steps"]
    assert (2, 3) == (found.cells[1, LONGEST].steps, found.cells[1, LONGEST].tokens)


def test_plain_decoding_has_its_cells(start, telemetry):
    """Without speculation every step is of length 0."""
    stage = start(longest=0, table=False)
    warm(stage, 2)
    step(stage)

    found = look(stage, telemetry)
    assert [(2, 0)] == list(found.cells)
    assert (2, 4) == (found.cells[2, 0].steps, found.cells[2, 0].tokens)


# --- time -----------------------------------------------------------------------------------------


def test_time_between_two_steps_belongs_to_the_second(start, control, telemetry):
    """Scheduling, sampling, sending: a busy engine's steps add up to the wall clock."""
    control.put(live())
    stage = start()
    warm(stage)
    before = look(stage, telemetry).total.seconds
    stage.clock.now += 3 * STEP_NS
    step(stage)

    assert pytest.approx(4 * STEP_NS / 1e9) == look(stage, telemetry).total.seconds - before


def test_idle_time_is_no_step_time(start, control, telemetry):
    """An hour between two requests is in no step."""
    control.put(live())
    stage = start()
    add(stage, "a", max_tokens=2)
    step(stage)
    step(stage)
    stage.clock.now += 3600 * 10**9
    warm(stage)

    assert pytest.approx(4 * STEP_NS / 1e9) == look(stage, telemetry).total.seconds


def test_idle_time_after_an_abort_is_no_step_time(start, control, telemetry):
    """Once the last request was aborted between two steps, the pause after it was a long prefill.

    vLLM clears such a request away in a step that schedules nothing; it passed unseen.
    """
    control.put(live())
    stage = start()
    warm(stage)
    stage.abort("cmpl-r0~t3-0-abcdef01")
    step(stage)
    idle = read_telemetry(telemetry)
    stage.clock.now += 3600 * 10**9
    add(stage, "b")
    step(stage)

    assert pytest.approx(3 * STEP_NS / 1e9) == look(stage, telemetry).total.seconds
    assert (0, 1) == (idle.fields["running"], idle.classes[3].requests)


def test_a_step_that_schedules_nothing_hides_no_other(start, control, telemetry):
    """Once it threw away what was in flight, and the step behind it was not counted."""
    control.put(live())
    stage = start()
    add(stage, "a")
    empty = SimpleNamespace(num_scheduled_tokens={})
    output = stage.schedule()
    stage.update_from_output(empty, 0)
    stage.update_from_output(output, 0)

    assert 1 == look(stage, telemetry).fields["steps"]


def test_steps_in_flight_are_told_apart(start, control, telemetry):
    """Asynchronous scheduling: two steps are scheduled before the first one's output is there."""
    control.put(live(constant(2)))
    stage = start(trims=False)
    warm(stage)
    first = stage.schedule()
    control.put(live(constant(1)))
    second = stage.schedule()
    stage.clock.now += STEP_NS
    stage.update_from_output(first, 0)
    stage.clock.now += STEP_NS
    stage.update_from_output(second, 0)

    found = look(stage, telemetry)
    assert {(1, 2): 2} == {key: cell.steps for key, cell in found.cells.items()}
    assert 1 == found.fields["mixed_steps"]
    assert pytest.approx(4 * STEP_NS / 1e9) == found.total.seconds


def test_a_step_that_was_scheduled_for_nobody_overlaps_no_other(start, control, telemetry):
    """Asynchronous scheduling: the last answer ends while the step behind it is in flight.

    Its time once began when it was scheduled, within the step before.
    """
    control.put(live())
    stage = start(trims=False)
    warm(stage, max_tokens=3)
    last, behind = stage.schedule(), stage.schedule()
    stage.clock.now += STEP_NS
    stage.update_from_output(last, 0)
    assert {} == stage.requests
    stage.clock.now += STEP_NS
    stage.update_from_output(behind, 0)

    found = look(stage, telemetry)
    assert pytest.approx(4 * STEP_NS / 1e9) == found.total.seconds


def test_an_output_that_was_lost_does_not_shift_the_others(start, control, telemetry):
    """A step whose output never comes is forgotten; the next one is counted as itself."""
    control.put(live())
    stage = start()
    warm(stage)
    stage.schedule()
    step(stage)

    found = look(stage, telemetry)
    assert 3 == found.fields["steps"]
    assert 0 == len(stage.tuner_flight)


# --- classes --------------------------------------------------------------------------------------


def test_requests_and_tokens_are_counted_by_class(start, control, telemetry):
    """When a request ends, with all its tokens; those without a stamp have a row of their own."""
    control.put(live())
    stage = start()
    add(stage, "cmpl-a~t3-0-abcdef01", max_tokens=6)
    add(stage, "chatcmpl-b~t0", max_tokens=2)
    add(stage, "health", max_tokens=1)
    for _ in range(4):
        step(stage, accepted=1)

    found = look(stage, telemetry).classes
    assert {3: (6, 1), 0: (2, 1), layout.UNSTAMPED: (1, 1)} == {
        code: (count.tokens, count.requests) for code, count in found.items()
    }


def test_what_a_class_got_is_sampled_by_length(start, control, telemetry):
    """Request-steps, drafts, drafted tokens, and how many had 0, 1, ... of them accepted."""
    control.put(live())
    stage = start()
    add(stage, "a~t3", "b~t3")
    step(stage)
    step(stage, accepted={"a~t3": 0, "b~t3": 2})
    step(stage, accepted={"a~t3": 2, "b~t3": 4})

    drafts = look(stage, telemetry).classes[3].by_length[LONGEST]
    assert (4, 4, 16) == (drafts.request_steps, drafts.drafts, drafts.drafted)
    assert (1, 0, 2, 0, 1) == drafts.accepted


def test_the_sample_of_a_large_batch_is_a_part_of_its_steps(start, control, telemetry):
    """Two requests a step on average: the cost does not grow with the batch."""
    control.put(live())
    stage = start()
    warm(stage, SEQS)
    for _ in range(8 * 4 - 1):
        step(stage, accepted=1)

    found = look(stage, telemetry)
    drafts = found.classes[3].by_length[LONGEST]
    assert 32 == found.cells[SEQS, LONGEST].steps
    assert 32 * 2 == drafts.request_steps
    assert drafts.request_steps == sum(drafts.accepted)


def test_an_aborted_request_is_counted_with_what_it_had(start, control, telemetry):
    """A client that left got its tokens all the same."""
    control.put(live())
    stage = start()
    add(stage, "a~t3", "b~t4")
    step(stage)
    step(stage, accepted=2)
    stage.abort("a~t3")
    step(stage)

    found = look(stage, telemetry).classes
    assert (4, 1) == (found[3].tokens, found[3].requests)
    assert 0 == found[4].requests


def test_a_request_that_is_aborted_while_the_model_runs_disturbs_nothing(start, control, telemetry):
    """Its output is dropped by vLLM; the tokens of the others stay exact."""
    control.put(live())
    stage = start()
    warm(stage, 2)
    output = stage.schedule()
    stage.abort("cmpl-r0~t3-0-abcdef01")
    stage.clock.now += STEP_NS
    stage.update_from_output(output, 1)

    found = look(stage, telemetry)
    tokens = found.total.tokens
    assert (2 + 2 + 2, 0) == (tokens, found.fields["errors"])
    assert 1 == found.classes[3].requests


def test_nothing_is_remembered_of_requests_that_have_ended(start, control):
    """Memory does not grow with the requests of a month, ended, aborted, or never begun."""
    control.put(live())
    stage = start()
    for number in range(50):
        add(stage, f"a{number}~t3", f"b{number}", f"c{number}~t1", max_tokens=3)
        step(stage)
        stage.abort(f"b{number}")
        step(stage, accepted=4)
    add(stage, "waits~t2")
    stage.abort("waits~t2")
    step(stage)

    assert (0, 0, 0) == (len(stage.requests), len(stage.tuner_class), len(stage.tuner_flight))
    assert {} == stage.tuner_meter.seen


# --- publication ----------------------------------------------------------------------------------


def test_counters_are_published_ten_times_a_second(start, control, telemetry):
    """Not at every step: a write costs 8 microseconds."""
    control.put(live())
    stage = start()
    warm(stage)
    step(stage, took=10)
    assert 0 == read_telemetry(telemetry).fields["steps"]
    step(stage, took=100_000_001)

    assert 4 == read_telemetry(telemetry).fields["steps"]


def test_a_publication_writes_only_what_has_changed(start, control, telemetry, module, monkeypatch):
    """The whole file would be a thousand rows, every time."""
    control.put(live())
    stage = start()
    warm(stage, 2)
    stage.tuner_meter.publish(stage.clock.now)
    writes, write = [], os.pwrite

    def counted(fd, data, at):
        writes.append(len(data))
        return write(fd, data, at)

    monkeypatch.setattr(module.os, "pwrite", counted)
    stage.tuner_meter.publish(stage.clock.now)
    unchanged = len(writes)
    step(stage)
    stage.tuner_meter.publish(stage.clock.now)

    assert 4 == unchanged  # the head twice, fields, totals
    assert 2 * 4 + 2 == len(writes)  # one batch size, and one row of a class
    assert read_telemetry(telemetry).cells == look(stage, telemetry).cells


def test_an_idle_engine_has_published_everything(start, control, telemetry):
    """The last step of the last request is there at once, and nobody runs."""
    control.put(live())
    stage = start()
    add(stage, "a", max_tokens=2)
    step(stage)
    step(stage)

    found = read_telemetry(telemetry)
    assert (2, 0, 0) == tuple(found.fields[name] for name in ("steps", "running", "waiting"))


def test_a_flip_publishes_what_was_counted_before(start, control, telemetry):
    """Who changes the knobs wants the counters of the time until then."""
    control.put(live())
    stage = start()
    warm(stage)
    step(stage, took=10)
    generation = control.put(live(constant(1)))
    stage.schedule()

    found = read_telemetry(telemetry)
    assert (3, generation) == (found.fields["steps"], found.fields["generation"])


def test_the_engine_says_how_it_was_started(start, control, telemetry):
    """Ceilings, capabilities and the longest draft are there before the first step."""
    control.put(live(active=1, budget=9))
    stage = start(trims=False)

    found = read_telemetry(telemetry)
    fields = found.fields
    assert (LONGEST, SEQS) == (found.longest, fields["max_num_seqs"])
    assert (SEQS, BUDGET) == (fields["active_ceiling"], fields["budget_ceiling"])
    assert os.getpid() == fields["pid"]
    capabilities = (layout.LIVE_DRAFT, layout.LIVE_ACTIVE, layout.LIVE_BUDGET, layout.ASYNC)
    assert [True] * 4 == [found.can(each) for each in capabilities]
    assert stage.tuner_on


def test_counters_of_another_engine_are_not_taken_over(start, control, telemetry):
    """A file of the same name from an engine before begins anew."""
    control.put(live())
    stage = start()
    warm(stage)
    stage.tuner_meter.publish(1)
    assert {} != read_telemetry(telemetry).cells
    start()

    assert {} == read_telemetry(telemetry).cells
