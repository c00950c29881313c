"""The control file under any content: what was written comes back, and nothing else is believed."""

from hypothesis import given
from hypothesis import strategies as st

from service.engine_site import tuner_layout as layout
from service.engine_site.tuner_layout import Wanted

numbers = st.integers(-(1 << 31), (1 << 31) - 1)
ranges = st.lists(
    st.tuples(st.integers(1, (1 << 32) - 1), st.integers(0, layout.MAX_DRAFT)),
    max_size=layout.MAX_RANGES,
    unique_by=lambda each: each[0],
).map(sorted)
wishes = st.builds(
    Wanted,
    generation=st.integers(0, layout.MAX_GENERATION),
    ranges=ranges,
    active=numbers,
    budget=numbers,
    limits=st.lists(st.integers(-128, 127), min_size=layout.CLASSES, max_size=layout.CLASSES),
)
damage = st.lists(st.tuples(st.integers(0, layout.CONTROL_SIZE - 1), st.integers(1, 255)))


def write(raw, wanted):
    slot, at = layout.encode_slot(wanted), layout.slot_offset(wanted.generation)
    raw[at : at + len(slot)] = slot
    raw[: layout.CONTROL_HEAD.size] = layout.encode_head(wanted.generation)


def decode(raw):
    head = bytes(raw[: layout.CONTROL_HEAD.size])
    return layout.decode_control(head, lambda size, at: bytes(raw[at : at + size]))


@given(wishes)
def test_what_can_be_written_comes_back(wanted):
    """Every wish that the writer accepts is the one that the engine reads."""
    raw = bytearray(layout.CONTROL_SIZE)
    write(raw, wanted)

    assert wanted == decode(raw)


@given(wishes, wishes)
def test_the_slot_of_the_generation_before_survives(old, new):
    """Until the head is changed, a reader finds the old values whole."""
    old = old._replace(generation=min(old.generation, layout.MAX_GENERATION - 1))
    new = new._replace(generation=old.generation + 1)
    raw = bytearray(layout.CONTROL_SIZE)
    write(raw, old)
    slot, at = layout.encode_slot(new), layout.slot_offset(new.generation)
    raw[at : at + len(slot)] = slot

    assert old == decode(raw)


@given(wishes, damage)
def test_damage_is_never_obeyed(wanted, hits):
    """Bytes that change anywhere give the same values or none: never others, never an error."""
    raw = bytearray(layout.CONTROL_SIZE)
    write(raw, wanted)
    for at, mask in hits:
        raw[at] ^= mask

    assert decode(raw) in (None, wanted)


@given(wishes, st.integers(0, layout.CONTROL_SIZE))
def test_a_cut_file_is_never_obeyed_by_half(wanted, size):
    """A file of any length gives the values or none."""
    raw = bytearray(layout.CONTROL_SIZE)
    write(raw, wanted)

    assert decode(raw[:size]) in (None, wanted)


@given(st.binary(max_size=layout.CONTROL_SIZE), st.integers(0, 3))
def test_garbage_is_never_obeyed(rest, generation):
    """Whatever lies behind a good head, it needs a checksum to be believed."""
    raw = layout.encode_head(generation) + rest
    found = decode(bytearray(raw))

    assert found is None or found.generation == generation
    assert decode(bytearray(rest)) is None


@given(st.text(), st.integers(0, layout.CLASSES - 1), st.text(alphabet="-0123456789abcdef_"))
def test_a_stamp_is_found_in_whatever_surrounds_it(own, code, behind):
    """Any id of a client, and what vLLM adds behind it, give the class that was stamped."""
    assert code == layout.class_code(f"cmpl-{layout.stamped(own, code)}-{behind}")


@given(st.text())
def test_any_id_has_a_class(request_id):
    """No id raises, and each gives a row of the telemetry."""
    assert 0 <= layout.class_code(request_id) < layout.CLASSES


@given(st.integers(0, 64), st.integers(1, 512))
def test_the_parts_of_the_telemetry_do_not_overlap(longest, seqs):
    """Fields, cells, classes and totals lie one behind the other, whole rows each."""
    found = layout.shape(longest, seqs)

    assert len(layout.FIELDS) <= layout.CELLS
    assert layout.CELLS + (seqs + 1) * found.cell_row == found.classes
    assert found.classes + layout.CLASSES * (longest + 1) * found.class_row == found.totals
    assert found.totals + 2 * layout.CLASSES == found.end
