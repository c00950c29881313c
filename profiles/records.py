"""What the store remembers beside measurements and profiles: trials, decisions, pins, events."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from profiles.knobs import Knobs
from profiles.measurement import Failure
from profiles.profile import Evidence


class TrialStatus(StrEnum):
    """Where an engine start of a search stands; only OPEN changes, and only once."""

    OPEN = "open"  # -> done, failed or interrupted
    DONE = "done"  # its measurements are stored
    FAILED = "failed"  # the engine gave nothing; the failure says whether the knobs are to blame
    INTERRUPTED = "interrupted"  # the daemon stopped or died: says nothing about the knobs


class Record(BaseModel):
    """A row as the rest of the program sees it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Trial(Record):
    """One engine start of a search."""

    id: int
    study: str  # the search it belongs to
    platform: str  # digest
    workloads: tuple[str, ...]  # classes it measures
    knobs: Knobs
    why: str  # sentence: default, designed start, warm start, suggested
    status: TrialStatus
    opened_at: float  # seconds since the epoch
    closed_at: float | None = None
    failure: Failure | None = None


class Promotion(Record):
    """A decision about a class: the profile that won it, or that the default stays."""

    platform: str  # digest
    workload: str
    profile: str  # id; that of the default when it was kept
    kept_default: bool
    at: float
    evidence: Evidence
    sentence: str  # why, for people


class Quarantine(Record):
    """Knobs that did harm here and may not be used for a while."""

    platform: str  # digest
    knobs: str  # digest
    profile: str | None = None  # id, when a profile had them in force
    reason: str  # sentence
    count: int = Field(ge=1)  # how often; the caller doubles the time with it
    at: float  # of the last time
    until: float | None = None  # seconds since the epoch; None: until it is released


class Pin(Record):
    """The profile that an application asked for."""

    application: str
    profile: str  # id
    platform: str  # digest, of the profile
    at: float


class StayKind(StrEnum):
    """How a profile came into force."""

    UNKNOWN = ""  # by a tunerd that kept no account
    RESTART = "restart"  # another profile before it, and an engine start for the change
    LIVE = "live"  # another profile before it, changed inside the running engine
    TUNED = "tuned"  # after a search, which ends with an engine start anyway
    AGAIN = "again"  # the same knobs as before: a boot, or an engine that had died


class Applied(Record):
    """The profile that was put in force and why, with the account of its stay."""

    profile: str  # id
    why: str  # sentence
    at: float
    kind: StayKind = StayKind.UNKNOWN
    restart_s: float | None = Field(default=None, ge=0)  # None where nothing was restarted for it
    lost_tokens: float = Field(default=0.0, ge=0)  # that the restart kept from being made
    served_tokens: float = Field(default=0.0, ge=0)
    gained_tokens: float = 0.0  # more than the default would have made in the same time
    avoided: int = Field(default=0, ge=0)  # switches that were considered and not worth a restart


class Account(Record):
    """The sums over all stays of one profile."""

    profile: str  # id
    switches: int = 0  # restarts into it, for its sake
    live_switches: int = 0
    restart_s: float = 0.0
    lost_tokens: float = 0.0
    served_tokens: float = 0.0
    gained_tokens: float = 0.0
    avoided: int = 0  # while it was in force


class Event(Record):
    """Something that people may want to read about."""

    at: float
    kind: str  # one word: switch, trial, quarantine, store, ...
    sentence: str
