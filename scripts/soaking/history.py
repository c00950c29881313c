"""What a soak remembers: requests, faults, sightings of processes, samples."""

from dataclasses import dataclass, field
from typing import Any

# how a request ended; the last five are never right
WHOLE, LEFT = "whole", "left"
UNCONNECTED, HUNG, WRONG, DOUBLED, MALFORMED = (
    "unconnected", "hung", "wrong", "doubled", "malformed",
)  # fmt: skip


@dataclass(kw_only=True)
class Attempt:
    """One HTTP request; times in seconds since the start of the soak."""

    number: int
    application: str
    began: float
    ended: float | None = None
    outcome: str | None = None
    status: int | None = None
    note: str = ""

    def shown(self) -> str:
        """For evidence."""
        end = "never" if self.ended is None else f"{self.ended:.1f} s"
        return (
            f"request {self.number} of {self.application}, {self.began:.1f} s to {end}: "
            f"{self.outcome} {self.status or ''} {self.note}".rstrip()
        )


@dataclass(kw_only=True)
class Struck:
    """One fault that took place."""

    number: int
    fault: str
    began: float
    lull: bool = False  # without traffic: nobody can be out
    ended: float | None = None  # it was undone
    healed: float | None = None  # everything served again
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One reading of a process."""

    at: float
    role: str
    pid: int
    rss_mib: float
    descriptors: int
    threads: int


@dataclass(kw_only=True)
class History:
    """Everything that the checker looks at."""

    real: bool = False
    bound_s: float = 180.0  # of one request
    length_s: float = 0.0
    attempts: list[Attempt] = field(default_factory=list)
    struck: list[Struck] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # fault: why it cannot be had here
    samples: list[Sample] = field(default_factory=list)
    two_engines: list[str] = field(default_factory=list)
    quiet: list[str] = field(default_factory=list)  # what was still there when all was quiet
    quiet_checks: int = 0
    unequal: list[str] = field(default_factory=list)  # store, daemon, gateway and engine differ
    equal_checks: int = 0
    ended: list[str] = field(default_factory=list)  # the service ended by itself
    left_over: list[str] = field(default_factory=list)
    marked: list[str] = field(default_factory=list)  # files with text of a prompt
    files_searched: int = 0
    tracebacks: dict[str, int] = field(default_factory=dict)  # last line: how often
    progress: set[int] = field(default_factory=set)  # tenths of a second with a byte of an answer
    pauses: list[tuple[float, float]] = field(default_factory=list)  # no traffic was sent
    facts: dict[str, Any] = field(default_factory=dict)
