"""The tables of the store: rows only, turned into domain objects by the repositories."""

from sqlalchemy import Index, MetaData
from sqlmodel import Field, SQLModel


class Table(SQLModel):
    """Own metadata, and names for constraints so that later migrations can find them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class PlatformRow(Table, table=True):
    """A platform fingerprint."""

    __tablename__ = "platform"

    digest: str = Field(primary_key=True)
    fingerprint: str  # JSON of Platform
    first_seen_at: float  # seconds since the epoch, as every column that ends in _at


class TrialRow(Table, table=True):
    """An engine start of a search."""

    __tablename__ = "trial"

    id: int | None = Field(default=None, primary_key=True)
    study: str = Field(index=True)
    platform: str = Field(foreign_key="platform.digest")
    workloads: str  # JSON list
    knobs: str  # canonical JSON
    why: str
    status: str = Field(index=True)  # TrialStatus; "open" changes once, to one of the others
    opened_at: float
    closed_at: float | None = None
    failure: str | None = None  # JSON of Failure


class MeasurementRow(Table, table=True):
    """A measurement; never changed (a trigger refuses)."""

    __tablename__ = "measurement"
    __table_args__ = (Index(None, "platform", "workload", "phase"),)

    id: int | None = Field(default=None, primary_key=True)
    platform: str = Field(foreign_key="platform.digest")
    workload: str
    phase: str
    trial: int | None = Field(default=None, foreign_key="trial.id", index=True)
    document: str  # JSON of Measurement


class ProfileRow(Table, table=True):
    """A profile; never changed (a trigger refuses). An imported one may be of any platform."""

    __tablename__ = "profile"

    id: str = Field(primary_key=True)
    platform: str = Field(index=True)  # digest, not a foreign key: see above
    workload: str
    knobs: str  # digest
    created_at: float
    document: str  # JSON of Profile


class PromotionRow(Table, table=True):
    """A decision about a class; the latest of a platform and class counts."""

    __tablename__ = "promotion"
    __table_args__ = (Index(None, "platform", "workload"),)

    id: int | None = Field(default=None, primary_key=True)
    platform: str = Field(foreign_key="platform.digest")
    workload: str
    profile: str = Field(foreign_key="profile.id")
    kept_default: bool
    decided_at: float
    evidence: str  # JSON of Evidence
    sentence: str


class QuarantineRow(Table, table=True):
    """Knobs that may not be used on a platform for a while."""

    __tablename__ = "quarantine"

    platform: str = Field(primary_key=True, foreign_key="platform.digest")
    knobs: str = Field(primary_key=True)  # digest
    profile: str | None = Field(default=None, foreign_key="profile.id")
    reason: str
    count: int
    quarantined_at: float
    until: float | None = None


class PinRow(Table, table=True):
    """An application's profile."""

    __tablename__ = "pin"

    application: str = Field(primary_key=True)
    profile: str = Field(foreign_key="profile.id")
    pinned_at: float


class InForceRow(Table, table=True):
    """What was put in force, with its account; the latest row is in force and may still grow."""

    __tablename__ = "in_force"

    id: int | None = Field(default=None, primary_key=True)
    profile: str = Field(foreign_key="profile.id")
    why: str
    applied_at: float
    kind: str = ""  # StayKind; empty in rows of before there were accounts
    restart_s: float | None = None
    lost_tokens: float = 0.0
    served_tokens: float = 0.0
    gained_tokens: float = 0.0
    avoided: int = 0


class EventRow(Table, table=True):
    """A sentence for the log that `tuner history` shows."""

    __tablename__ = "event"

    id: int | None = Field(default=None, primary_key=True)
    happened_at: float
    kind: str
    sentence: str
