"""P: the draft length for every batch size, k(b), as vLLM writes it."""

from collections.abc import Iterable, Sequence

Range = tuple[int, int, int]  # lowest and highest batch size, draft length
Schedule = tuple[Range, ...]

DECLARED_BELOW = 128  # the smallest default of max_num_seqs on any device: vLLM's on a CPU
ENDLESS = 1 << 20  # a batch size that no engine reaches
MOST_RANGES, LARGEST = 64, (1 << 31) - 1  # what a control file has room for


def checked(ranges: Iterable[Sequence[int]]) -> Schedule:
    """The schedule of these ranges, neighbours of equal draft length merged.

    Raises:
        ValueError: it does not begin at 1, has a gap or an overlap, or a negative draft length;
            or it does not fit into a control file.
    """
    merged = _merged(ranges)
    if len(merged) > MOST_RANGES:
        raise ValueError(f"draft_schedule: {len(merged)} ranges are more than {MOST_RANGES}")
    return merged


def _merged(ranges: Iterable[Sequence[int]]) -> Schedule:
    merged: list[Range] = []
    for low, high, k in ranges:
        expected = merged[-1][1] + 1 if merged else 1
        if low != expected or not low <= high <= LARGEST or k < 0:
            raise ValueError(
                f"draft_schedule: [{low}, {high}, {k}] does not go on at batch size {expected} "
                "with a draft length of 0 or more"
            )
        if merged and merged[-1][2] == k:
            merged[-1] = (merged[-1][0], high, k)
        else:
            merged.append((low, high, k))
    if not merged:
        raise ValueError("draft_schedule: there is no range in it")
    return tuple(merged)


def constant(k: int) -> Schedule:
    """One draft length for every batch size."""
    return ((1, ENDLESS, k),)


def length_at(schedule: Schedule, batch: int) -> int:
    """The draft length at a batch size; the last one goes on beyond the end."""
    return next((k for _, high, k in schedule if batch <= high), schedule[-1][2])


def longest(schedule: Schedule) -> int:
    """The longest draft in it."""
    return max(k for _, _, k in schedule)


def ceilings(schedule: Schedule) -> list[tuple[int, int]]:
    """Highest batch size and draft length of each range, as the control file wants them."""
    return [(high, k) for _, high, k in schedule]


def label(schedule: Schedule) -> str:
    """For people: `1: 13, 2-4: 9, 5+: 3`."""
    if len(schedule) == 1:
        return str(schedule[0][2])
    parts = []
    for low, high, k in schedule[:-1]:
        parts.append(f"{low}: {k}" if low == high else f"{low}-{high}: {k}")
    parts.append(f"{schedule[-1][0]}+: {schedule[-1][2]}")
    return ", ".join(parts)


def declaring(schedule: Schedule, lengths: Sequence[int], max_num_seqs: int | None) -> Schedule:
    """The schedule with every draft length named once, for vLLM to prepare them at its start.

    vLLM's V2 runner captures CUDA graphs only for draft lengths in the start-up table
    (v1/worker/gpu/cudagraph_utils.py). The others are named at the largest batch sizes, one each,
    so that an engine whose live knobs are absent still does nearly what the schedule says.
    """
    top = max_num_seqs or DECLARED_BELOW
    wanted = set(lengths) | {length_at(schedule, batch) for batch in range(1, top + 1)}
    extra: list[int] = []
    while True:  # what is named at the top may push a length of the schedule out from there
        first = top - len(extra) + 1
        inside = {length_at(schedule, batch) for batch in range(1, first)}
        before, extra = len(extra), sorted(wanted - inside)[: top - 1]
        if before == len(extra):
            break
    below = [(low, min(high, first - 1), k) for low, high, k in schedule if low < first]
    if below[-1][1] < first - 1:
        below[-1] = (below[-1][0], first - 1, below[-1][2])
    named = [(first + number, first + number, k) for number, k in enumerate(extra)]
    whole = [*below, *named]
    if max_num_seqs is None:
        beyond = [(max(low, top + 1), high, k) for low, high, k in schedule if high > top]
        low, _, k = beyond.pop() if beyond else (top + 1, 0, schedule[-1][2])
        whole += [*beyond, (low, max(ENDLESS, low), k)]
    return _merged(whole)
