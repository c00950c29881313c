"""The control file as it is written and read, whole, damaged and half-written; and class stamps."""

import os
import struct
import zlib
from pathlib import Path

import pytest

from profiles.classes import CODES
from service.engine_site import tuner_layout as layout
from service.engine_site.tuner_layout import LOOK_NS, Control, Wanted, class_code, stamped

LIMITS = tuple(range(-1, layout.CLASSES - 1))
ONE = Wanted(7, [(1, 13), (4, 9), (1 << 20, 3)], active=5, budget=512, limits=LIMITS)
TWO = Wanted(8, [(2, 1), (9, 0)], active=6, budget=0)


def plain(wanted):
    """Wanted values as comparable ones."""
    return Wanted(
        wanted.generation,
        tuple(wanted.ranges),
        wanted.active,
        wanted.budget,
        tuple(wanted.limits),
    )


def whole(*all_wanted):
    """The file after these were written one after the other."""
    raw = bytearray(layout.CONTROL_SIZE)
    for wanted in all_wanted:
        for at, part in writes(wanted):
            raw[at : at + len(part)] = part
    return bytes(raw)


def writes(wanted):
    """What the writer does, in its order."""
    yield layout.slot_offset(wanted.generation), layout.encode_slot(wanted)
    yield 0, layout.encode_head(wanted.generation)


def decode(raw):
    """What a reader finds in these bytes."""
    head = raw[: layout.CONTROL_HEAD.size]
    return layout.decode_control(head, lambda size, at: raw[at : at + size])


def unsound(ranges, *, generation=7, active=0, count=None):
    """A file with a valid checksum that no writer of ours would write."""
    count = len(ranges) if count is None else count
    head = layout.SLOT_HEAD.pack(0, count, generation, active, 0, *[-1] * layout.CLASSES)
    bare = head[4:] + b"".join(layout.RANGE.pack(*each) for each in ranges)
    slot = struct.pack("<I", zlib.crc32(bare)) + bare
    raw = bytearray(layout.CONTROL_SIZE)
    raw[: layout.CONTROL_HEAD.size] = layout.encode_head(generation)
    at = layout.slot_offset(generation)
    raw[at : at + len(slot)] = slot
    return bytes(raw)[: layout.CONTROL_SIZE]


# --- what is written is read ----------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [ONE, TWO, Wanted(1, [])])
def test_what_is_written_is_read(wanted):
    """Ranges, caps and limits come back as they were."""
    assert plain(wanted) == plain(decode(whole(wanted)))


def test_the_slots_do_not_touch_each_other_or_the_head():
    """The longest table of one generation ends before the other one begins."""
    full = Wanted(1, [(n + 1, 255) for n in range(layout.MAX_RANGES)])
    offsets = sorted(layout.slot_offset(generation) for generation in (4, 5))

    assert layout.SLOT_SIZE == len(layout.encode_slot(full))
    assert offsets[0] >= layout.CONTROL_HEAD.size
    assert [layout.SLOT_SIZE, layout.SLOT_SIZE] == [
        offsets[1] - offsets[0],
        layout.CONTROL_SIZE - offsets[1],
    ]


@pytest.mark.parametrize(
    "wanted",
    [
        ONE._replace(ranges=[(4, 1), (4, 2)]),
        ONE._replace(ranges=[(4, 1), (3, 2)]),
        ONE._replace(ranges=[(0, 1)]),
        ONE._replace(ranges=[(1, layout.MAX_DRAFT + 1)]),
        ONE._replace(ranges=[(1, -1)]),
        ONE._replace(ranges=[(n + 1, 1) for n in range(layout.MAX_RANGES + 1)]),
        ONE._replace(limits=(1,)),
        ONE._replace(ranges=[(1 << 32, 1)]),
        ONE._replace(active=1 << 31),
        ONE._replace(budget=1 << 31),
        ONE._replace(limits=(128,) * layout.CLASSES),
    ],
)
def test_what_a_reader_would_refuse_is_not_written(wanted):
    """Once a number with too many bits was a struct.error, which nobody expects."""
    with pytest.raises(ValueError, match="control file"):
        layout.encode_slot(wanted)


# --- damage ---------------------------------------------------------------------------------------


def test_every_flipped_bit_of_the_head_is_noticed():
    """A bit of magic, version, size or generation makes the file say nothing."""
    good = whole(ONE)
    found = []
    for bit in range(8 * layout.CONTROL_HEAD.size):
        raw = bytearray(good)
        raw[bit // 8] ^= 1 << bit % 8
        found.append(decode(bytes(raw)))

    assert [None] * (8 * layout.CONTROL_HEAD.size) == found


def test_every_flipped_bit_of_the_slot_is_noticed():
    """Checksum, counts, numbers: what was damaged is not obeyed."""
    good, at = whole(ONE), layout.slot_offset(ONE.generation)
    bits = range(8 * at, 8 * (at + len(layout.encode_slot(ONE))))
    found = []
    for bit in bits:
        raw = bytearray(good)
        raw[bit // 8] ^= 1 << bit % 8
        found.append(decode(bytes(raw)))

    assert [None] * len(bits) == found


def test_a_file_that_ends_too_early_says_nothing():
    """At every length short of the last byte that counts."""
    good = whole(ONE)
    end = layout.slot_offset(ONE.generation) + len(layout.encode_slot(ONE))

    assert [None] * end == [decode(good[:size]) for size in range(end)]
    assert plain(ONE) == plain(decode(good[:end]))


@pytest.mark.parametrize(
    "raw",
    [
        unsound([(4, 1), (4, 2)]),
        unsound([(4, 1), (2, 2)]),
        unsound([(0, 1)]),
        unsound([(1, 256)]),
        unsound([(n + 1, 1) for n in range(layout.MAX_RANGES + 1)]),
        unsound([(1, 1)], count=0xFFFFFFFF),
        unsound([(1, 1)], count=layout.MAX_RANGES),
    ],
)
def test_a_valid_checksum_does_not_make_sense_of_nonsense(raw):
    """Ranges that do not ascend, too many of them, lengths that no engine has."""
    assert decode(raw) is None


def test_a_generation_that_cannot_be_confirmed_is_refused():
    """Above 63 bits the engine's counter would overflow, which switched its live knobs off."""
    top = layout.MAX_GENERATION

    assert top == decode(unsound([(1, 1)], generation=top)).generation
    assert decode(unsound([(1, 1)], generation=top + 1)) is None


def test_a_slot_of_another_generation_is_not_taken():
    """The head says 9, the slot there is still that of 7: the writer was cut off between them."""
    raw = bytearray(whole(ONE))
    raw[: layout.CONTROL_HEAD.size] = layout.encode_head(9)

    assert decode(bytes(raw)) is None


def test_another_version_is_not_read():
    """A file of a later tunerd is left alone, whatever it says."""
    good = whole(ONE)
    later = layout.CONTROL_HEAD.pack(
        layout.CONTROL_MAGIC, layout.VERSION + 1, layout.SLOT_SIZE, ONE.generation
    )

    assert decode(later + good[len(later) :]) is None


def test_a_reader_sees_the_old_values_or_the_new_ones():
    """Whatever it reads before, between and after the two writes, byte by byte, and in between."""
    raw, old, new = bytearray(whole(ONE)), plain(ONE), plain(TWO)
    seen = [plain(decode(bytes(raw)))]
    (slot_at, slot), (head_at, head) = writes(TWO)
    for number, byte in enumerate(slot):  # a write of a slot may be seen half done
        raw[slot_at + number] = byte
        seen.append(plain(decode(bytes(raw))))
    stale = bytes(raw)[: layout.CONTROL_HEAD.size]  # read before the head was written
    raw[head_at : head_at + len(head)] = head
    late = layout.decode_control(stale, lambda size, at: bytes(raw[at : at + size]))

    assert {old} == set(seen)
    assert old == plain(late)
    assert new == plain(decode(bytes(raw)))


def test_a_reader_that_is_overtaken_twice_takes_nothing():
    """Its slot was written again meanwhile: it waits for its next look instead of mixing."""
    before = whole(ONE)[: layout.CONTROL_HEAD.size]
    raw = whole(ONE, TWO, ONE._replace(generation=9))

    assert layout.decode_control(before, lambda size, at: raw[at : at + size]) is None
    assert 9 == decode(raw).generation


# --- classes in request ids -----------------------------------------------------------------------


@pytest.mark.parametrize("code", range(len(CODES)))
@pytest.mark.parametrize(
    "derived", ["{}", "cmpl-{}-0-abcdef01", "chatcmpl-{}", "0_cmpl-{}-0-abcdef01", "resp_{}"]
)
def test_the_class_survives_what_vllm_makes_of_an_id(code, derived):
    """It adds prefixes, the number of the prompt, of the sample, and random digits."""
    assert code == class_code(derived.format(stamped("mine", code)))


def test_every_class_has_one_digit():
    """A code beyond 15 would not fit into the id, and 15 is taken by requests without one."""
    assert len(CODES) <= layout.UNSTAMPED
    assert "x~tb" == stamped("x", 11)


@pytest.mark.parametrize("own", ["~t", "a~t5", "~t~t", "a~tz", "cmpl-x~t1-0-abcdef01"])
def test_a_stamp_of_the_clients_own_does_not_count(own):
    """Ours is behind it."""
    assert 3 == class_code(f"cmpl-{stamped(own, 3)}-0-abcdef01")


@pytest.mark.parametrize("request_id", ["", "x", "cmpl-x~t", "x~tg", "x~t-1", "x~", "x~t "])
def test_an_id_without_a_class_is_unstamped(request_id):
    """Requests that did not come through the gateway have no class, and do no harm."""
    assert layout.UNSTAMPED == class_code(request_id)


# --- the engine's look at the file ----------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    return tmp_path / "engine.control"


def put(path, *all_wanted):
    """Write in place, as tunerd does."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, whole(*all_wanted), 0)
    os.close(fd)


def generations(control, *moments):
    """What each look finds: a generation or None."""
    found = [control.poll(now) for now in moments]
    return [None if each is None else each.generation for each in found]


def test_values_are_told_once(path):
    """An unchanged head is no news, and a changed one is at the very next look."""
    put(path, ONE)
    control = Control(str(path))

    assert [7, None, None] == generations(control, 1, 2, 3)
    put(path, ONE, TWO)
    assert [8, None] == generations(control, 4, 5)
    assert 0 == control.rejected


def test_a_file_may_appear_later(path):
    """Nothing is there at first; it is found within a second."""
    control = Control(str(path))
    assert [None] == generations(control, 1)
    put(path, ONE)

    assert [None, 7] == generations(control, 2, LOOK_NS + 2)


def test_a_replaced_file_is_followed(path):
    """An editor or a restore puts another inode under the name; the old one counts till then."""
    put(path, ONE)
    control = Control(str(path))
    assert [7] == generations(control, 1)
    other = path.with_suffix(".new")
    put(other, TWO)
    other.replace(path)

    assert [None, 8] == generations(control, 2, LOOK_NS + 2)


def test_a_replaced_file_is_read_even_when_it_says_the_same_generation(path):
    """Its head may be equal and its values others."""
    put(path, ONE)
    control = Control(str(path))
    control.poll(1)
    other = path.with_suffix(".new")
    put(other, ONE._replace(active=1))
    other.replace(path)

    assert 1 == control.poll(LOOK_NS + 2).active


def test_looking_again_leaks_no_descriptor(path):
    """A file that is replaced every second for a month must not exhaust them."""
    put(path, ONE)
    control = Control(str(path))
    control.poll(1)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(1, 20):
        other = path.with_suffix(".new")
        put(other, ONE)
        other.replace(path)
        control.poll(number * (LOOK_NS + 2))

    assert before == len(list(Path("/proc/self/fd").iterdir()))


def test_a_deleted_file_leaves_its_values_in_force(path):
    """No news, no rejection; and a new file under the name is found."""
    put(path, ONE)
    control = Control(str(path))
    assert [7] == generations(control, 1)
    path.unlink()
    assert [None, None] == generations(control, 2, LOOK_NS + 2)
    put(path, TWO)

    assert [8] == generations(control, 2 * LOOK_NS + 4)
    assert 0 == control.rejected


@pytest.mark.parametrize("size", [0, 10, layout.CONTROL_HEAD.size, 100])
def test_a_truncated_file_is_rejected_at_most_once_and_heals(path, size):
    """The file is cut while the engine holds it: nothing new, until it is written again."""
    put(path, ONE, TWO)
    control = Control(str(path))
    assert [8] == generations(control, 1)
    os.truncate(path, size)
    assert [None, None] == generations(control, 2, 3)
    assert control.rejected <= 1
    put(path, ONE._replace(generation=9))

    assert [9] == generations(control, 4)


def test_a_bad_file_is_counted_once_per_head(path):
    """A damaged file that stays as it is does not count up at every step."""
    put(path, ONE)
    with path.open("r+b") as file:
        file.write(b"garbage")
    control = Control(str(path))

    assert [None, None, None] == generations(control, 1, 2, 3)
    assert 1 == control.rejected


@pytest.mark.parametrize("name", ["", "/nowhere/at/all"])
def test_no_file_at_all_is_silence(name):
    """An engine that was started without a control file runs as it was started."""
    control = Control(name)

    assert [None, None] == generations(control, 1, LOOK_NS + 2)
    assert 0 == control.rejected
