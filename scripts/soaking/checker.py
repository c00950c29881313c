"""The invariants: each looks at a history and returns evidence against itself."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby

from soaking import history as h
from soaking.faults import BROKEN, BY_NAME, CUT, REFUSED, ROW_S, allowed, felled
from soaking.flat import Line, line
from soaking.history import Attempt, History, Sample, Struck

MEET_S = 1.0  # a request that begins this shortly after a fault may still have met it
AFTER_S = 2.0  # and one that begins this shortly after the recovery may still feel it
# MiB that a process may surely grow within the time seen. Python returns freed memory in pieces
# of 1 MiB, and the gateway's bounded stores fill up for minutes; a leak of one body in a
# thousand requests is beyond it within the hour
RSS_MIB = 6.0
RSS_SHARE = 0.06  # of the first floor, where that is more
DESCRIPTORS = 4.0  # a lost one per request, or per fault, is beyond it within minutes
THREADS = 8.0  # the executor of asyncio starts up to CPUs + 4 when it first needs them
REAL = 3  # times the bound of a fault, where a real vLLM has to start
WATCHED = ("gateway", "tunerd")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One invariant."""

    name: str
    evidence: tuple[str, ...]
    note: str = ""

    @property
    def held(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.evidence


def ended(outcome: str, history: History) -> list[str]:
    """Requests with this end."""
    return [a.shown() for a in history.attempts if a.outcome == outcome]


def one_end(history: History) -> list[str]:
    """Each request ends, within its bound, and once."""
    late = [
        a.shown()
        for a in history.attempts
        if a.outcome is None or (a.ended is not None and a.ended - a.began > history.bound_s)
    ]
    return [*ended(h.HUNG, history), *ended(h.DOUBLED, history), *late]


def explained(history: History) -> list[str]:
    """A request fails only in a way that a fault in its lifetime allows."""
    failures = {"cut", "broken", "refused"}
    return [
        a.shown()
        for a in history.attempts
        if a.outcome in failures and a.outcome not in _excuses(a, history)
    ]


def _excuses(attempt: Attempt, history: History) -> set[str]:
    end = history.length_s if attempt.ended is None else attempt.ended
    found: set[str] = set()
    for struck in history.struck:
        over = history.length_s if struck.healed is None else struck.healed
        if end < struck.began or attempt.began > over + AFTER_S:
            continue
        undone = struck.began if struck.ended is None else struck.ended
        met = attempt.began <= max(struck.began, undone) + MEET_S
        fault = BY_NAME[struck.fault]
        found |= allowed(fault, met=met, real=history.real)
        if felled(fault, real=history.real) and _again(struck, history):
            found.add(REFUSED)
    if CUT in found and attempt.application == "slow":
        # the gateway does not wait for a slow reader to say its last word
        found.add(BROKEN)
    return found


def _again(struck: Struck, history: History) -> bool:
    """Whether another fault had ended an engine shortly before."""
    return any(
        felled(BY_NAME[other.fault], real=history.real)
        and struck.began - ROW_S < other.began < struck.began
        for other in history.struck
    )


def healed(history: History) -> list[str]:
    """Everything serves again within the fault's bound."""
    found = []
    for struck in history.struck:
        bound_s = BY_NAME[struck.fault].bound_s * (REAL if history.real else 1)
        undone = struck.began if struck.ended is None else struck.ended
        if struck.healed is None or struck.healed - undone > bound_s:
            when = "never" if struck.healed is None else f"after {struck.healed - undone:.1f} s"
            found.append(
                f"{struck.fault} at {struck.began:.1f} s: {when}, not within {bound_s:g} s"
            )
    return found


def lives(samples: Iterable[Sample]) -> list[list[Sample]]:
    """The readings of each process, by role and pid."""

    def key(sample: Sample) -> tuple[str, int]:
        return (sample.role, sample.pid)

    return [list(found) for _, found in groupby(sorted(samples, key=key), key)]


def grown(history: History) -> list[str]:
    """Memory, descriptors and threads of gateway and tunerd stay flat."""
    found = []
    for life in lives(history.samples):
        if life[0].role not in WATCHED:
            continue
        for name, (fitted, allowance) in fits(life).items():
            if fitted.grows(allowance):
                found.append(
                    f"{life[0].role}, pid {life[0].pid}: {name} from {fitted.first:.1f} to "
                    f"{fitted.last:.1f} in {fitted.span_s:.0f} s, surely more than "
                    f"{fitted.surely:.1f}"
                )
    return found


def fits(life: list[Sample]) -> dict[str, tuple[Line, float]]:
    """A line and what is allowed for each reading of one process; none for a short life."""
    times = [sample.at for sample in life]
    readings = {
        "MiB": [sample.rss_mib for sample in life],
        "descriptors": [float(sample.descriptors) for sample in life],
        "threads": [float(sample.threads) for sample in life],
    }
    found = {}
    for name, values in readings.items():
        fitted = line(times, values)
        if fitted is not None:
            memory = max(RSS_MIB, RSS_SHARE * fitted.first)
            found[name] = (fitted, {"MiB": memory, "threads": THREADS}.get(name, DESCRIPTORS))
    return found


INVARIANTS: tuple[tuple[str, Callable[[History], list[str]]], ...] = (
    ("every request has one end, in time", one_end),
    ("no answer is wrong", lambda x: ended(h.WRONG, x)),
    ("errors have OpenAI's shape, 503 has Retry-After", lambda x: ended(h.MALFORMED, x)),
    ("nobody is refused a connection", lambda x: ended(h.UNCONNECTED, x)),
    ("requests fail only where a fault explains it", explained),
    ("at most one engine", lambda x: x.two_engines),
    ("nothing in flight when traffic has stopped", lambda x: x.quiet),
    ("store, tunerd, gateway and engine agree", lambda x: x.unequal),
    ("served again in time after every fault", healed),
    ("the service never ended by itself", lambda x: x.ended),
    ("memory, descriptors and threads are flat", grown),
    ("no process is left over", lambda x: x.left_over),
    ("no prompt is on disk", lambda x: x.marked),
    ("no traceback in the log", lambda x: [f"{n} times {t}" for t, n in x.tracebacks.items()]),
)


def check(history: History) -> list[Verdict]:
    """Every invariant with what speaks against it."""
    notes = {
        "nothing in flight when traffic has stopped": f"looked {history.quiet_checks} times",
        "store, tunerd, gateway and engine agree": f"looked {history.equal_checks} times",
        "no prompt is on disk": f"{history.files_searched} files",
    }
    return [
        Verdict(name=name, evidence=tuple(against(history)), note=notes.get(name, ""))
        for name, against in INVARIANTS
    ]


def outage_s(struck: Struck, history: History) -> float | None:
    """The longest time without a byte for anybody, from a fault until all was well.

    None without traffic, or when traffic ended or began within it.
    """
    if struck.healed is None or struck.lull:
        return None
    first, last = int(struck.began * 10), int((struck.healed + 1.0) * 10)
    if any(a < struck.healed + 1.0 and b > struck.began for a, b in history.pauses):
        return None
    longest = silent = 0
    for tenth in range(first, last + 1):
        silent = 0 if tenth in history.progress else silent + 1
        longest = max(longest, silent)
    return longest / 10
