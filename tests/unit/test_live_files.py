"""tunerd's side of the two files: one writer of knobs, a careful reader of counters."""

import os
import struct
from array import array

import pytest
import scheduler_double as double
from scheduler_double import LONGEST, SEQS, STEP_NS, add, live, step

from profiles.knobs import Knobs
from profiles.schedule import checked, constant
from service.engine_site import tuner_layout as layout
from service.live_files import ControlFile, LiveKnobs, read_telemetry

module, control = double.module, double.control  # fixtures
telemetry, start = double.telemetry, double.start

TABLE = checked([(1, 2, 5), (3, 8, 1)])


def said(path):
    """What an engine would read."""
    raw = path.read_bytes()
    return layout.decode_control(
        raw[: layout.CONTROL_HEAD.size], lambda size, at: raw[at : at + size]
    )


# --- knobs ----------------------------------------------------------------------------------------


def test_live_knobs_are_the_live_part_of_knobs():
    """Schedule and caps; an unset cap is the ceiling."""
    knobs = Knobs(
        drafter="d",
        draft_length=5,
        live=True,
        draft_schedule=TABLE,
        max_active_seqs=3,
        max_scheduled_tokens=99,
    )

    assert LiveKnobs(lengths=TABLE, active=3, budget=99) == LiveKnobs.of(knobs)
    assert LiveKnobs(lengths=constant(5)) == LiveKnobs.of(knobs.cold())
    assert LiveKnobs(lengths=constant(0)) == LiveKnobs.of(Knobs())
    assert LiveKnobs(lengths=constant(4), active=1, budget=2) == LiveKnobs.constant(
        4, active=1, budget=2
    )


def test_a_wish_is_written_as_it_is(control):
    """Ranges, caps, limits by class."""
    control.put(LiveKnobs(lengths=TABLE, active=3, budget=99, limits={0: 2, 11: 0}))

    limits = [-1] * layout.CLASSES
    limits[0], limits[11] = 2, 0
    assert layout.Wanted(1, [(2, 5), (8, 1)], 3, 99, limits) == said(control.path)
    assert layout.CONTROL_SIZE == control.path.stat().st_size
    assert 0o600 == control.path.stat().st_mode & 0o777


def test_every_wish_has_a_new_generation(control):
    """The scheduler looks at changes only, so that equal wishes are two as well."""
    assert [1, 2, 3] == [control.put(live()) for _ in range(3)]
    assert (3, 3) == (control.generation, said(control.path).generation)
    assert live() == control.wish


def test_a_wish_goes_on_from_a_given_generation(tmp_path):
    """A daemon that takes over an engine begins above what it has seen."""
    assert 42 == ControlFile(tmp_path / "c", 41).put(live())


def test_the_file_is_written_in_place(control):
    """The engine holds it open: another inode under the name would be seen a second later."""
    control.put(live())
    before = control.path.stat().st_ino
    with control.path.open("rb") as held:
        control.put(live(TABLE))
        control.put(live(constant(3)))
        raw = held.read()

    assert before == control.path.stat().st_ino
    assert raw == control.path.read_bytes()


def test_the_slot_before_stays_until_the_head_is_written(control, monkeypatch):
    """At each write of the two, a reader has the old values or the new ones."""
    control.put(live(TABLE))
    seen, write = [], os.pwrite

    def watched(fd, data, at):
        seen.append(said(control.path).generation)
        write(fd, data, at)
        seen.append(said(control.path).generation)

    monkeypatch.setattr(os, "pwrite", watched)
    control.put(live(constant(1)))

    assert [1, 1, 1, 2] == seen


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: os.truncate(path, 0),
        lambda path: os.truncate(path, 100),
        lambda path: path.write_bytes(b"\xff" * layout.CONTROL_SIZE),
        lambda path: path.write_bytes(b"x" * (layout.CONTROL_SIZE + 1000)),
        lambda path: path.unlink(),
    ],
)
def test_a_damaged_file_is_good_again_with_the_next_wish(control, damage):
    """Whatever was done to it, and with the right size."""
    control.put(live())
    damage(control.path)
    control.put(live(TABLE))

    assert (2, [(2, 5), (8, 1)]) == said(control.path)[:2]
    assert layout.CONTROL_SIZE == control.path.stat().st_size


def test_a_wish_that_could_not_be_written_is_none(tmp_path):
    """The generation stands still, so that nobody waits for its confirmation."""
    control = ControlFile(tmp_path / "no" / "control")
    with pytest.raises(OSError, match="No such file"):
        control.put(live())

    assert (0, None) == (control.generation, control.wish)


def test_a_wish_that_no_file_can_say_leaves_the_file(control):
    """The values before stay in force."""
    control.put(live())
    with pytest.raises(ValueError, match="control file"):
        control.put(live(active=1 << 40))

    assert (1, 1) == (control.generation, said(control.path).generation)


def test_any_schedule_of_a_profile_fits_into_the_file(control):
    """Once an imported profile could hold more ranges than the file, which ended the daemon."""
    most = [(n, n, n % 2) for n in range(1, 65)]
    control.put(live(checked(most)))
    assert 64 == len(said(control.path).ranges)

    with pytest.raises(ValueError, match="65 ranges are more than 64"):
        checked([*most, (65, 65, 1)])


# --- counters -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"TUNERDT",
        b"garbage" * 1000,
        layout.TELEMETRY_HEAD.pack(layout.TELEMETRY_MAGIC, layout.VERSION, 4, 2),
        layout.TELEMETRY_HEAD.pack(layout.TELEMETRY_MAGIC, layout.VERSION, 4, 2) + bytes(8 * 20),
    ],
)
def test_what_is_not_there_is_none(telemetry, content):
    """No file, an empty one, another one, one that ends too early."""
    if content is not None:
        telemetry.write_bytes(content)

    assert read_telemetry(telemetry) is None


def counters(
    *, magic=layout.TELEMETRY_MAGIC, version=layout.VERSION, longest=2, sequence=2, seqs=3, cut=0
):
    """A file of an engine that has counted nothing."""
    size = layout.shape(longest, max(seqs, 1)).end if longest < 99 else 999
    n = array("q", bytes(8 * size))
    n[layout.FIELD["max_num_seqs"]] = seqs
    head = layout.TELEMETRY_HEAD.pack(magic, version, longest, sequence)
    whole = head + n.tobytes()
    return whole[: len(whole) - cut]


def test_counters_that_count_nothing_are_read(telemetry):
    """The good file from which the next tests take one thing away."""
    telemetry.write_bytes(counters())
    found = read_telemetry(telemetry)

    assert (2, 3, {}, {}) == (
        found.longest,
        found.fields["max_num_seqs"],
        found.cells,
        found.classes,
    )
    assert (0, 0.0) == (found.total.steps, found.total.seconds)


@pytest.mark.parametrize(
    "bad",
    [
        {"magic": b"TUNERDC\n"},
        {"version": 2},
        {"sequence": 0},  # nothing was ever published
        {"sequence": 3},  # the engine is writing, or died while it did
        {"cut": 1},
        {"cut": 8},
        {"seqs": 0},
        {"seqs": -1},
        {"seqs": -(1 << 40)},  # once an index error: rows were looked for before the file
        {"seqs": -40, "longest": 98},
        {"longest": (1 << 32) - 1},
        {"longest": (1 << 32) - 1, "seqs": -1},
    ],
)
def test_counters_that_make_no_sense_are_none(telemetry, bad):
    """Another version, half a publication, a file that is cut, numbers that no engine has."""
    telemetry.write_bytes(counters(**bad))

    assert read_telemetry(telemetry) is None


def test_a_count_of_batches_that_the_file_does_not_hold_is_none(telemetry):
    """The field says more rows than there are."""
    raw = bytearray(counters())
    at = layout.TELEMETRY_HEAD.size + 8 * layout.FIELD["max_num_seqs"]
    raw[at : at + 8] = struct.pack("<q", 1 << 50)
    telemetry.write_bytes(raw)

    assert read_telemetry(telemetry) is None


def test_a_publication_in_between_is_read_again(telemetry, monkeypatch):
    """The head has changed since the counters were read: they may be of two moments."""
    telemetry.write_bytes(counters())
    read, reads = os.pread, []

    def changing(fd, size, at):
        reads.append(size)
        if len(reads) == 2:  # the second look at the head, after the whole file
            telemetry.write_bytes(counters(sequence=4))
        return read(fd, size, at)

    monkeypatch.setattr(os, "pread", changing)

    assert 2 == read_telemetry(telemetry).longest
    assert 4 == len(reads)


def test_what_the_engine_counts_is_what_is_read(start, control, telemetry):
    """The writer in the engine and the reader here mean the same by every row."""
    control.put(LiveKnobs.constant(LONGEST, active=7, budget=60))
    stage = start()
    add(stage, "a~t3", "b~t1")
    step(stage)
    step(stage, accepted={"a~t3": 0, "b~t1": 3})
    stage.abort("b~t1")
    control.put(live(constant(2), active=6))
    step(stage, accepted=1)
    step(stage, accepted=1)
    step(stage, accepted=1)
    stage.tuner_meter.publish(0)
    found = read_telemetry(telemetry)

    assert {(2, LONGEST): (1, 5), (1, 2): (2, 4)} == {
        key: (cell.steps, cell.tokens) for key, cell in found.cells.items()
    }
    assert pytest.approx(3 * STEP_NS / 1e9) == sum(cell.seconds for cell in found.cells.values())
    expected = {"steps": 5, "mixed_steps": 1, "mixed_tokens": 2, "prefill_steps": 1}
    expected |= {"prefill_tokens": 2, "generation": 2, "active": 6, "errors": 0}
    assert expected == {name: found.fields[name] for name in expected}
    assert (4, 5 + 4 + 2) == (found.decode.steps, found.decode.tokens)
    assert (5, 13) == (found.total.steps, found.total.tokens)
    assert (SEQS, LONGEST) == (found.fields["max_num_seqs"], found.longest)
    a, b = found.classes[3], found.classes[1]
    assert (5, 1) == (b.tokens, b.requests)
    assert (1, 0, 0, 0, 0) == a.by_length[LONGEST].accepted
    assert (0, 0, 0, 1, 0) == b.by_length[LONGEST].accepted
    assert (2, 4, (0, 2, 0)) == (
        a.by_length[2].request_steps,
        a.by_length[2].drafted,
        a.by_length[2].accepted,
    )
