"""tunerd's side of the two files between it and the scheduler in an engine."""

import os
import threading
import time
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from profiles import schedule
from profiles.knobs import Knobs
from service.engine_site import tuner_layout as layout
from service.shared_files import open_plain
from tuner.cells import Cell, Cells
from tuner.drafts import ClassCount, Drafts

LONGEST_TELEMETRY = 64 * 1024 * 1024  # bytes; 1024 requests and 15 drafts take half a MiB
READ_TRIES = 20  # of a file that is just being written; one publication takes 10 microseconds


@dataclass(frozen=True, kw_only=True)
class LiveKnobs:
    """What a running engine can be told."""

    lengths: schedule.Schedule  # k(b)
    active: int = 0  # admitted requests; 0: as many as the engine was started for
    budget: int = 0  # tokens of one step; 0: as many as the engine was started for
    limits: Mapping[int, int] = field(default_factory=dict)  # longest draft by class code

    @classmethod
    def of(cls, knobs: Knobs) -> Self:
        """The live part of these knobs."""
        return cls(
            lengths=knobs.lengths,
            active=knobs.max_active_seqs or 0,
            budget=knobs.max_scheduled_tokens or 0,
        )

    @classmethod
    def constant(cls, k: int, *, active: int = 0, budget: int = 0) -> Self:
        """One draft length for every batch size."""
        return cls(lengths=schedule.constant(k), active=active, budget=budget)


class ControlFile:
    """The one writer of an engine's control file; `shared`: the group may read it."""

    def __init__(self, path: Path, generation: int = 0, *, shared: bool = False) -> None:
        self.path = path
        self._mode = 0o640 if shared else 0o600
        self.generation = generation
        self.wish: LiveKnobs | None = None
        self._lock = threading.Lock()  # visits and switches write from threads of their own

    def put(self, wish: LiveKnobs) -> int:
        """Write these knobs; the generation that the engine will confirm.

        The file is written in place, because the engine holds it open, and whole, so that a file
        that somebody has damaged is good again.

        Raises:
            OSError: it cannot be written.
        """
        with self._lock:
            return self._write(wish)

    def put_after(self, generation: int, wish: LiveKnobs) -> int | None:
        """The same if that is still the last generation; None when others have written since.

        Raises:
            OSError: it cannot be written.
        """
        with self._lock:
            return self._write(wish) if self.generation == generation else None

    def _write(self, wish: LiveKnobs) -> int:
        generation = self.generation + 1
        limits = tuple(wish.limits.get(code, -1) for code in range(layout.CLASSES))
        slot = layout.encode_slot(
            layout.Wanted(
                generation, schedule.ceilings(wish.lengths), wish.active, wish.budget, limits
            )
        )
        # no link: whoever can write to a shared folder must not choose which file of ours changes
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, self._mode)
        try:
            if os.fstat(fd).st_size != layout.CONTROL_SIZE:
                os.fchmod(fd, self._mode)  # whatever our umask is
                os.ftruncate(fd, layout.CONTROL_SIZE)
            os.pwrite(fd, slot, layout.slot_offset(generation))
            os.pwrite(fd, layout.encode_head(generation), 0)
        finally:
            os.close(fd)
        self.generation, self.wish = generation, wish
        return generation


@dataclass(frozen=True, kw_only=True)
class Telemetry:
    """One reading of an engine's counters; all but the gauges only grow while it runs."""

    longest: int  # draft length that it was started with
    fields: Mapping[str, int]
    cells: Cells  # pure decode steps by (batch size, draft length)
    classes: Mapping[int, ClassCount]  # by class code
    read_at: float  # monotonic, seconds

    def can(self, capability: int) -> bool:
        """Whether the scheduler found what this knob needs."""
        return bool(self.fields["capabilities"] & capability)

    @property
    def decode(self) -> Cell:
        """All steps that only decoded, those just after a change of knobs included."""
        f = self.fields
        whole = Cell(steps=f["mixed_steps"], tokens=f["mixed_tokens"], seconds=f["mixed_ns"] / 1e9)
        return sum(self.cells.values(), whole)

    @property
    def total(self) -> Cell:
        """All steps, prefills included."""
        f = self.fields
        return self.decode + Cell(
            steps=f["prefill_steps"], tokens=f["prefill_tokens"], seconds=f["prefill_ns"] / 1e9
        )


def read_telemetry(path: Path) -> Telemetry | None:
    """The counters; None when there is no whole file (yet)."""
    try:
        fd = open_plain(path)
    except OSError:
        return None
    try:
        for _ in range(READ_TRIES):
            size = min(os.fstat(fd).st_size, LONGEST_TELEMETRY)
            raw = os.pread(fd, size, 0)
            again = os.pread(fd, layout.TELEMETRY_HEAD.size, 0)
            if len(raw) >= layout.TELEMETRY_HEAD.size and raw[: len(again)] == again:
                found = _parse(raw)
                if found is not None:
                    return found
            time.sleep(0.0002)
    finally:
        os.close(fd)
    return None


def _parse(raw: bytes) -> Telemetry | None:
    magic, version, longest, sequence = layout.TELEMETRY_HEAD.unpack_from(raw)
    if (magic, version) != (layout.TELEMETRY_MAGIC, layout.VERSION) or sequence % 2 or not sequence:
        return None
    n = array("q")
    body = raw[layout.TELEMETRY_HEAD.size :]
    n.frombytes(body[: len(body) // 8 * 8])
    if len(n) < layout.CELLS:
        return None
    fields = {name: n[at] for name, at in layout.FIELD.items()}
    if fields["max_num_seqs"] < 1:
        return None
    shape = layout.shape(longest, fields["max_num_seqs"])
    if len(n) < shape.end:
        return None
    return Telemetry(
        longest=longest,
        fields=fields,
        cells=_cells(n, longest, fields["max_num_seqs"]),
        classes=_classes(n, shape, longest),
        read_at=time.monotonic(),
    )


def _cells(n: "array[int]", longest: int, max_num_seqs: int) -> Cells:
    row = layout.shape(longest, max_num_seqs).cell_row
    found: dict[tuple[int, int], Cell] = {}
    for batch in range(1, max_num_seqs + 1):
        at = layout.CELLS + batch * row
        line = n[at : at + row]
        if not any(line):
            continue
        for k in range(longest + 1):
            steps, tokens, ns = line[k * layout.CELL : (k + 1) * layout.CELL]
            if steps:
                found[batch, k] = Cell(steps=steps, tokens=tokens, seconds=ns / 1e9)
    return found


def _classes(n: "array[int]", shape: layout.Shape, longest: int) -> dict[int, ClassCount]:
    found: dict[int, ClassCount] = {}
    for code in range(layout.CLASSES):
        by_length: dict[int, Drafts] = {}
        for k in range(longest + 1):
            at = shape.classes + (code * (longest + 1) + k) * shape.class_row
            if n[at]:
                by_length[k] = Drafts(
                    request_steps=n[at],
                    drafts=n[at + 1],
                    drafted=n[at + 2],
                    accepted=tuple(n[at + layout.CELL : at + layout.CELL + k + 1]),
                )
        tokens, requests = n[shape.totals + code * 2], n[shape.totals + code * 2 + 1]
        if by_length or requests:
            found[code] = ClassCount(by_length=by_length, tokens=tokens, requests=requests)
    return found
