"""The two files between tunerd and its scheduler in vLLM: their layout, read and written.

Standard library only, because vLLM may live in another environment than tunerd.

Control, written by tunerd and read at every step: a head and two slots. The parity of the
generation names the valid slot; a writer fills the other one first and changes the head last, so
that a reader sees the old values or the new ones, never a mixture. It is read by pread, not through
a mapping: a truncated mapping would end the engine by SIGBUS.

Telemetry, written by the engine: a head whose sequence number is odd while the file is being
written, then 64-bit counters: FIELDS; cells (batch size x draft length x CELL); a sample of what
each request class got, a row by class and draft length: request-steps, drafts, drafted tokens, and
how many request-steps had 0, 1, ... drafts accepted; and by class tokens and requests, of all.
"""

import itertools
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

CONTROL_VARIABLE, TELEMETRY_VARIABLE = "TUNER_CONTROL", "TUNER_TELEMETRY"
VERSION = 1

CONTROL_MAGIC = b"TUNERDC\n"
CONTROL_HEAD = struct.Struct("<8sIIQ")  # magic, version, size of a slot, generation
SLOT_HEAD = struct.Struct("<IIQii16b")  # crc of the rest, ranges, generation, batch, budget, limits
RANGE = struct.Struct("<II")  # highest batch size of a range, its draft length
MAX_RANGES, MAX_DRAFT = 64, 255
MAX_GENERATION = (1 << 63) - 1  # it is confirmed in a signed counter
SLOT_SIZE = SLOT_HEAD.size + MAX_RANGES * RANGE.size
SLOTS_AT = 64
CONTROL_SIZE = SLOTS_AT + 2 * SLOT_SIZE

TELEMETRY_MAGIC = b"TUNERDT\n"
TELEMETRY_HEAD = struct.Struct("<8sIIQ")  # magic, version, longest draft, sequence number
FIELDS = (
    "max_num_seqs", "active_ceiling", "budget_ceiling", "capabilities",  # as started
    "generation", "rejected", "errors", "active", "budget",  # of the control file; in force
    "steps", "mixed_steps", "mixed_tokens", "mixed_ns",  # decoding while k was just changed
    "prefill_steps", "prefill_tokens", "prefill_ns", "prompt_tokens",  # steps with a prefill
    "running", "waiting", "pid", "clock_ns",
)  # fmt: skip
FIELD = {name: number for number, name in enumerate(FIELDS)}
CELLS = 32  # where the cells begin; the fields have room to grow
CELL = 3  # steps, tokens, nanoseconds; or request-steps, drafts, drafted tokens
CLASSES = 16  # codes of request classes
UNSTAMPED = CLASSES - 1  # the code of requests that did not come through the gateway
LIVE_DRAFT, LIVE_ACTIVE, LIVE_BUDGET, ASYNC = 1, 2, 4, 8  # capabilities

LOOK_NS = 1_000_000_000  # between looks for another control file of the same name

STAMP = "~t"  # the gateway ends a request id with it and a hexadecimal class code


class Wanted(NamedTuple):
    """What a control file says."""

    generation: int
    ranges: Sequence[tuple[int, int]]  # (highest batch size, draft length), ascending
    active: int = 0  # admitted requests; 0: the ceiling
    budget: int = 0  # tokens of one step; 0: the ceiling
    limits: Sequence[int] = (-1,) * CLASSES  # longest draft by class code; -1: none


class Shape(NamedTuple):
    """Offsets and row lengths within the telemetry, in counters."""

    cell_row: int  # of one batch size
    classes: int
    class_row: int  # of one class and draft length
    totals: int
    end: int


def stamped(request_id: str, code: int) -> str:
    """A request id with the code of its class; vLLM only adds to both ends of it."""
    return f"{request_id}{STAMP}{code:x}"


def class_code(request_id: str) -> int:
    """The code that was stamped into a request id; the last stamp counts, which is ours."""
    at = request_id.rfind(STAMP)
    try:
        return int(request_id[at + len(STAMP)], 16) if at >= 0 else UNSTAMPED
    except (ValueError, IndexError):
        return UNSTAMPED


def shape(longest: int, max_num_seqs: int) -> Shape:
    """Where everything is, for a longest draft and a largest batch."""
    lengths = longest + 1
    classes = CELLS + (max_num_seqs + 1) * lengths * CELL
    class_row = CELL + lengths
    totals = classes + CLASSES * lengths * class_row
    return Shape(lengths * CELL, classes, class_row, totals, totals + CLASSES * 2)


def slot_offset(generation: int) -> int:
    """Where the slot of a generation lies."""
    return SLOTS_AT + (generation & 1) * SLOT_SIZE


def encode_head(generation: int) -> bytes:
    """The head that puts a generation in force."""
    return CONTROL_HEAD.pack(CONTROL_MAGIC, VERSION, SLOT_SIZE, generation)


def encode_slot(wanted: Wanted) -> bytes:
    """The slot of a generation.

    Raises:
        ValueError: a reader would refuse it.
    """
    if not _sound(wanted.ranges) or len(wanted.limits) != CLASSES:
        raise ValueError(f"a control file cannot say {wanted}")
    try:
        ranges = b"".join(RANGE.pack(*each) for each in wanted.ranges)
        head = SLOT_HEAD.pack(
            0, len(wanted.ranges), wanted.generation, wanted.active, wanted.budget, *wanted.limits
        )
    except struct.error as error:
        raise ValueError(f"a control file has no room for {wanted}") from error
    bare = head[4:] + ranges
    return struct.pack("<I", zlib.crc32(bare)) + bare


def decode_control(head: bytes, read: Callable[[int, int], bytes]) -> Wanted | None:
    """What the file says, by `read(size, offset)`; None for anything but a valid file."""
    if len(head) != CONTROL_HEAD.size:
        return None
    magic, version, size, generation = CONTROL_HEAD.unpack(head)
    sound = (magic, version, size) == (CONTROL_MAGIC, VERSION, SLOT_SIZE)
    if not sound or generation > MAX_GENERATION:
        return None
    raw = read(SLOT_SIZE, slot_offset(generation))
    if len(raw) < SLOT_HEAD.size:
        return None
    crc, count, inner, active, budget, *limits = SLOT_HEAD.unpack_from(raw)
    end = SLOT_HEAD.size + count * RANGE.size
    if inner != generation or count > MAX_RANGES or len(raw) < end or zlib.crc32(raw[4:end]) != crc:
        return None
    ranges = [(int(high), int(k)) for high, k in RANGE.iter_unpack(raw[SLOT_HEAD.size : end])]
    return Wanted(generation, ranges, active, budget, limits) if _sound(ranges) else None


class Control:
    """The control file as the engine reads it."""

    def __init__(self, path: str) -> None:
        self.rejected = 0
        self._path = path
        self._fd, self._inode, self._looked = -1, 0, -LOOK_NS
        self._head = b""  # the one that was last looked at, good or bad

    def poll(self, now: int) -> Wanted | None:
        """New values, or None when nothing was said or it makes no sense."""
        if now - self._looked > LOOK_NS:
            self._looked = now
            self._reopen()
        if self._fd < 0:
            return None
        head = os.pread(self._fd, CONTROL_HEAD.size, 0)
        if head == self._head:
            return None
        self._head = head
        wanted = decode_control(head, lambda size, at: os.pread(self._fd, size, at))
        self.rejected += wanted is None
        return wanted

    def _reopen(self) -> None:
        """Follow the name to another file; a file that has gone leaves its values in force."""
        try:
            inode = os.stat(self._path).st_ino if self._path else 0  # noqa: PTH116  once a second
            if inode in {0, self._inode}:
                return
            fd = os.open(self._path, os.O_RDONLY)
        except OSError:
            return
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._inode, self._head = fd, inode, b""


def _sound(ranges: Sequence[tuple[int, int]]) -> bool:
    highs = [0, *(high for high, _ in ranges)]
    ascending = all(low < high for low, high in itertools.pairwise(highs))
    return ascending and len(ranges) <= MAX_RANGES and all(0 <= k <= MAX_DRAFT for _, k in ranges)
