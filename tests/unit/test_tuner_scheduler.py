"""Our part of vLLM's scheduler over a double of it: knobs that are in force, and no exception."""

import os

import pytest
import scheduler_double as double
from scheduler_double import BUDGET, LONGEST, SEQS, Base, Request, add, live, look, step, warm

from profiles.schedule import ceilings, checked, constant
from service.engine_site import tuner_layout as layout
from service.live_files import read_telemetry

module, control = double.module, double.control  # fixtures
telemetry, start = double.telemetry, double.start


# --- knobs ----------------------------------------------------------------------------------------


def test_a_wish_that_was_there_at_the_start_is_in_force_at_the_first_step(start, control):
    """The file is written before the engine is started."""
    control.put(live(constant(2), active=3, budget=20))
    stage = start()

    assert [2] * SEQS == stage.dynamic_sd_lookup[1:]
    assert (3, 20) == (stage.max_num_active_reqs, stage.max_num_scheduled_tokens)


def test_knobs_are_in_force_at_the_next_step(start, control):
    """Draft length, admitted batch and budget, at the step that is scheduled next."""
    control.put(live())
    stage = start()
    warm(stage, 2)
    control.put(live(checked([(1, 1, 4), (2, 2, 1), (3, 9, 0)]), active=5, budget=30))
    output, _ = step(stage)

    assert 1 == output.num_spec_tokens_to_schedule
    assert (5, 30) == (stage.max_num_active_reqs, stage.max_num_scheduled_tokens)
    assert [4, 1, 0, 0, 0, 0, 0, 0] == stage.dynamic_sd_lookup[1:]


def test_the_engine_confirms_what_it_obeys(start, control, telemetry):
    """The generation, and the caps as they are in force."""
    stage = start()
    generation = control.put(live(active=999, budget=1))
    stage.clock.now += 2 * layout.LOOK_NS  # the file has appeared since
    stage.schedule()
    found = read_telemetry(telemetry)

    assert generation == found.fields["generation"]
    assert (SEQS, 1 + LONGEST) == (found.fields["active"], found.fields["budget"])


@pytest.mark.parametrize(
    ("wanted", "force"),
    [
        ((0, 0), (SEQS, BUDGET)),
        ((1, 5), (1, 5)),
        ((SEQS, BUDGET), (SEQS, BUDGET)),
        ((SEQS + 1, BUDGET + 1), (SEQS, BUDGET)),
        ((2**31 - 1, 2**31 - 1), (SEQS, BUDGET)),
        ((-1, -1), (SEQS, BUDGET)),
        ((-(2**31), -(2**31)), (SEQS, BUDGET)),
        ((3, 1), (3, 1 + LONGEST)),  # less than a draft and its token would starve every request
    ],
)
def test_caps_stay_between_what_works_and_what_was_started(start, control, wanted, force):
    """0 is the ceiling, nonsense is the ceiling, and a budget fits one request at least."""
    control.put(live(active=1, budget=10))
    stage = start()
    control.put(live(active=wanted[0], budget=wanted[1]))
    stage.schedule()

    assert force == (stage.max_num_active_reqs, stage.max_num_scheduled_tokens)


def test_a_budget_that_was_started_below_one_draft_stays_as_it_is(start, control):
    """The ceiling is above everything."""
    control.put(live(budget=1))

    assert 3 == start(budget=3).max_num_scheduled_tokens


@pytest.mark.parametrize("active", [1, 5, 0, 100])
def test_the_slots_of_the_model_runner_are_never_touched(start, control, active):
    """Lowering max_num_running_reqs would end the engine: vLLM asserts that no more run."""
    control.put(live())
    stage = start()
    warm(stage, SEQS)
    control.put(live(active=active))
    output, _ = step(stage)

    assert SEQS == stage.max_num_running_reqs
    assert SEQS == len(output.num_scheduled_tokens)  # who runs goes on


@pytest.mark.parametrize(
    ("ranges", "table"),
    [
        ([(1, 1, 3)], [3] * SEQS),  # the last one goes on
        ([(1, 3, 2), (4, 1 << 20, 1)], [2, 2, 2, 1, 1, 1, 1, 1]),
        ([(1, SEQS, 3), (SEQS + 1, 500, 1)], [3] * SEQS),
        ([(1, 1000, 2), (1001, 2000, 1)], [2] * SEQS),
        ([(1, 2, 200), (3, 9, 0)], [4, 4, 0, 0, 0, 0, 0, 0]),  # never longer than started
        ([(n, n, n % 3) for n in range(1, 40)], [1, 2, 0, 1, 2, 0, 1, 2]),
    ],
)
def test_a_table_of_any_size_fits_the_engine(start, control, ranges, table):
    """Shorter and longer than the largest batch; index 0 is vLLM's own business."""
    control.put(live(checked(ranges)))
    stage = start()

    assert table == stage.dynamic_sd_lookup[1:]
    assert SEQS + 1 == len(stage.dynamic_sd_lookup)


def test_a_file_without_ranges_keeps_the_table(start, control):
    """Caps can be changed without saying anything about draft lengths."""
    stage = start()
    table = stage.dynamic_sd_lookup
    raw = bytearray(layout.CONTROL_SIZE)
    slot, at = layout.encode_slot(layout.Wanted(1, [], active=2)), layout.slot_offset(1)
    raw[at : at + len(slot)] = slot
    raw[: layout.CONTROL_HEAD.size] = layout.encode_head(1)
    control.path.write_bytes(raw)
    stage.clock.now += 2 * layout.LOOK_NS
    stage.schedule()

    assert (table, 2) == (stage.dynamic_sd_lookup, stage.max_num_active_reqs)


def test_an_engine_without_a_table_keeps_its_draft_length(start, control, telemetry):
    """Started without one, vLLM cannot vary it; the caps are live all the same."""
    control.put(live(constant(1), active=2))
    stage = start(table=False)

    assert (None, 2) == (stage.dynamic_sd_lookup, stage.max_num_active_reqs)
    found = read_telemetry(telemetry)
    assert (False, True) == (found.can(layout.LIVE_DRAFT), found.can(layout.LIVE_ACTIVE))


def test_a_version_without_admission_is_left_without(start, control, telemetry):
    """Before vLLM 0.31 there is no max_num_active_reqs: none is made up, and the rest is live."""

    class Older(Base):
        def __init__(self, **more):
            super().__init__(**more)
            del self.max_num_active_reqs

    control.put(live(constant(1), active=2, budget=20))
    stage = start(Older)
    warm(stage, 3)

    found = look(stage, telemetry)
    assert not hasattr(stage, "max_num_active_reqs")
    assert (20, [1] * SEQS) == (stage.max_num_scheduled_tokens, stage.dynamic_sd_lookup[1:])
    assert (False, 0) == (found.can(layout.LIVE_ACTIVE), found.fields["errors"])
    assert SEQS == stage.max_num_running_reqs


def test_a_control_file_that_disappears_leaves_its_values(start, control):
    """And damage to it does the same; both heal."""
    control.put(live(constant(1), active=2))
    stage = start()
    control.path.unlink()
    stage.clock.now += 2 * layout.LOOK_NS
    step(stage)
    assert (2, 1) == (stage.max_num_active_reqs, stage.dynamic_sd_lookup[1])

    control.path.write_bytes(b"garbage" * 100)
    stage.clock.now += 2 * layout.LOOK_NS
    step(stage)
    assert (2, 1) == (stage.max_num_active_reqs, stage.dynamic_sd_lookup[1])

    control.put(live(constant(3), active=4))
    step(stage)
    assert (4, 3) == (stage.max_num_active_reqs, stage.dynamic_sd_lookup[1])


def test_damage_is_counted(start, control, telemetry):
    """Whoever wrote the file sees that it was refused."""
    control.put(live())
    stage = start()
    os.truncate(control.path, 10)
    step(stage)

    assert 1 == look(stage, telemetry).fields["rejected"]


# --- limits of classes ----------------------------------------------------------------------------


def test_a_limit_shortens_the_drafts_of_its_class_only(start, control):
    """Class 3 has two drafts at most, class 4 all of them."""
    control.put(live(limits={3: 2}))
    stage = start()
    add(stage, "a~t3", "b~t4", "plain")
    step(stage)
    output = stage.schedule()

    lengths = {name: len(d) for name, d in output.scheduled_spec_decode_tokens.items()}
    assert {"a~t3": 2, "b~t4": LONGEST, "plain": LONGEST} == lengths


def test_a_limit_of_zero_drafts_nothing(start, control):
    """0 is a limit, -1 is none."""
    control.put(live(limits={3: 0, 4: -1}))
    stage = start()
    add(stage, "a~t3", "b~t4")
    step(stage)

    assert ["b~t4"] == list(stage.schedule().scheduled_spec_decode_tokens)


def test_placeholders_are_not_trimmed(start, control):
    """An AsyncScheduler knows no drafts yet: cutting its placeholders would desynchronise it."""
    control.put(live(limits={3: 0}))
    stage = start(trims=False)
    add(stage, "a~t3")
    step(stage)

    assert LONGEST == len(stage.schedule().scheduled_spec_decode_tokens["a~t3"])


def test_a_limit_can_be_taken_back(start, control):
    """Without limits nothing is trimmed any more."""
    control.put(live(limits={3: 1}))
    stage = start()
    add(stage, "a~t3")
    step(stage)
    step(stage)
    control.put(live())

    assert LONGEST == len(stage.schedule().scheduled_spec_decode_tokens["a~t3"])


# --- what goes wrong ------------------------------------------------------------------------------


HOOKS = ["_tuner_obey", "_tuner_table", "_tuner_account", "_tuner_close", "_tuner_settle"]


@pytest.mark.parametrize("hook", [*HOOKS, "_tuner_trim", "_tuner_by_class"])
def test_a_defect_of_ours_is_never_vllms(start, control, telemetry, monkeypatch, hook):
    """Whatever fails is counted once, the parent goes on alone, and answers stay the same."""
    control.put(live(limits={3: 1}))
    stage = start()
    add(stage, "a~t3", max_tokens=3)

    def fail(*_, **__):
        raise KeyError(hook)

    monkeypatch.setattr(type(stage), hook, fail)
    control.put(live(constant(2), limits={3: 2}))
    request = stage.requests["a~t3"]
    for _ in range(5):
        step(stage, accepted=1)

    assert (3, {}) == (request.num_output_tokens, stage.requests)
    assert ["schedule", "update_from_output"] * 5 == stage.calls[1:]
    assert (False, 1) == (stage.tuner_on, read_telemetry(telemetry).fields["errors"])


@pytest.mark.parametrize(
    ("thing", "method"),
    [
        ("tuner_control", "poll"),
        ("tuner_meter", "publish"),
        ("tuner_meter", "_fold"),
        ("tuner_flight", "append"),
        ("tuner_flight", "popleft"),
    ],
)
@pytest.mark.parametrize("error", [OSError, ValueError, IndexError, RuntimeError])
def test_a_broken_part_never_stops_a_step(start, control, monkeypatch, thing, method, error):
    """Once a defect in publishing came back through the handler that counts defects."""
    control.put(live())
    stage = start()
    add(stage, "a", max_tokens=2)
    original = getattr(stage, thing)

    def fail(*_):
        raise error("broken")

    if thing == "tuner_flight":  # methods of a deque cannot be replaced
        whole = {"append": original.append, "popleft": original.popleft, "__bool__": lambda _: True}
        setattr(stage, thing, type("Deque", (), {**whole, method: fail})())
    else:
        monkeypatch.setattr(type(original), method, fail)
    request = stage.requests["a"]
    control.put(live(constant(1)))
    for _ in range(3):
        step(stage)

    assert (2, {}) == (request.num_output_tokens, stage.requests)
    assert not stage.tuner_on


def test_a_request_that_cannot_be_classed_is_served(start, control, module, monkeypatch):
    """add_request is the parent's first of all."""
    control.put(live())
    stage = start()

    def fail(_):
        raise ValueError

    monkeypatch.setattr(module.layout, "class_code", fail)
    add(stage, "a", max_tokens=2)
    step(stage)
    step(stage)

    assert {} == stage.requests
    assert not stage.tuner_on


def test_an_error_of_the_parent_is_the_parents(start, control):
    """What vLLM raises itself is not swallowed: it would hang the engine."""
    control.put(live())

    class Breaks(Base):
        def schedule(self, *args, **kwargs):
            raise ZeroDivisionError

        def update_from_output(self, output, accepted):
            raise ZeroDivisionError

        def add_request(self, request):
            raise ZeroDivisionError

    stage = start(Breaks)
    for call in (
        stage.schedule,
        lambda: stage.update_from_output(None, None),
        lambda: stage.add_request(Request("a")),
    ):
        with pytest.raises(ZeroDivisionError):
            call()

    assert stage.tuner_on


@pytest.mark.parametrize("missing", ["num_spec_tokens", "dynamic_sd_lookup"])
def test_a_vllm_that_has_changed_starts_without_us(start, control, telemetry, missing):
    """A renamed attribute: the engine starts and answers, and there is no telemetry."""

    class Renamed(Base):
        def __init__(self, **more):
            super().__init__(**more)
            self.kept = getattr(self, missing)
            delattr(self, missing)

        def schedule(self, *args, **kwargs):
            setattr(self, missing, self.kept)
            output = super().schedule()
            delattr(self, missing)
            return output

    control.put(live())
    stage = start(Renamed)
    add(stage, "a", max_tokens=2)
    step(stage)
    step(stage)

    assert ({}, False) == (stage.requests, stage.tuner_on)
    assert read_telemetry(telemetry) is None


def test_an_unwritable_telemetry_does_not_keep_the_engine_from_starting(
    start, control, monkeypatch, tmp_path
):
    """Its folder is not there: the engine serves without live knobs."""
    monkeypatch.setenv(layout.TELEMETRY_VARIABLE, str(tmp_path / "no" / "telemetry"))
    control.put(live(constant(1)))
    stage = start()
    add(stage, "a", max_tokens=2)
    step(stage)
    step(stage)

    assert ({}, False) == (stage.requests, stage.tuner_on)


def test_a_telemetry_that_cannot_be_written_any_more_does_not_stop_the_engine(
    start, control, monkeypatch, module
):
    """The disk is full in the middle of the day: answers go on."""
    control.put(live())
    stage = start()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "pwrite", full)
    add(stage, "a", max_tokens=3)
    request = stage.requests["a"]
    for _ in range(4):
        step(stage)

    assert (3, False) == (request.num_output_tokens, stage.tuner_on)


def test_without_files_the_engine_counts_for_itself(start, monkeypatch):
    """A scheduler that nobody gave a name for its files works on as vLLM's own."""
    monkeypatch.delenv(layout.CONTROL_VARIABLE)
    monkeypatch.delenv(layout.TELEMETRY_VARIABLE)
    stage = start()
    warm(stage)

    assert stage.tuner_on
    assert [0, *[LONGEST] * SEQS] == stage.dynamic_sd_lookup


def test_arguments_of_schedule_are_passed_on(start, control):
    """One version of vLLM gives one (throttle_prefills), another one another."""

    class Curious(Base):
        def schedule(self, *args, **kwargs):
            self.given = args, kwargs
            return super().schedule()

    control.put(live())
    stage = start(Curious)
    stage.schedule(True, more=1)

    assert ((True,), {"more": 1}) == stage.given
    stage.tuner_on = False
    stage.schedule(False, more=2)

    assert ((False,), {"more": 2}) == stage.given


def test_the_ranges_of_a_schedule_reach_the_table(start, control):
    """What tunerd calls k(b) is what vLLM looks up, at every batch size."""
    table = checked([(1, 2, 4), (3, 5, 2), (6, 6, 3), (7, 99, 0)])
    control.put(live(table))

    assert [4, 4, 2, 2, 2, 3, 0, 0] == start().dynamic_sd_lookup[1:]
    assert [(2, 4), (5, 2), (6, 3), (99, 0)] == ceilings(table)
