"""What was in force, and the account of every stay: what its restart cost and what it gave."""

import sqlalchemy as sa
from sqlalchemy import func
from sqlmodel import col, select

from profiles.database import Database
from profiles.decisions import resolve
from profiles.errors import NotFoundError
from profiles.records import Account, Applied, StayKind
from profiles.tables import InForceRow, ProfileRow

SUMS = ("lost_tokens", "served_tokens", "gained_tokens", "avoided")


class Stays:
    """Rows that are added; only the account of the latest one grows."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def set_in_force(
        self,
        profile: str,
        *,
        why: str,
        at: float,
        kind: StayKind = StayKind.UNKNOWN,
        restart_s: float | None = None,
        lost_tokens: float = 0.0,
    ) -> Applied:
        """Record that a profile serves from now on; on the device before this returns.

        Raises:
            NotFoundError: there is no such profile.
        """
        with self.database.durable() as session:
            row = InForceRow(
                profile=resolve(session, profile).id,
                why=why,
                applied_at=at,
                kind=kind,
                restart_s=restart_s,
                lost_tokens=lost_tokens,
            )
            session.add(row)
            return _applied(row)

    def add_to_account(
        self, *, served_tokens: float = 0.0, gained_tokens: float = 0.0, avoided: int = 0
    ) -> None:
        """Add to the account of what is in force.

        Raises:
            NotFoundError: nothing ever was.
        """
        with self.database.ordinary() as session:
            row = session.exec(select(InForceRow).order_by(col(InForceRow.id).desc())).first()
            if row is None:
                raise NotFoundError("Nothing is in force.")
            row.served_tokens += served_tokens
            row.gained_tokens += gained_tokens
            row.avoided += avoided

    def in_force(self) -> Applied | None:
        """What was put in force last; None when nothing ever was."""
        return next(iter(self.in_force_history(1)), None)

    def in_force_history(self, limit: int = 100) -> list[Applied]:
        """What was put in force, newest first."""
        query = select(InForceRow).order_by(col(InForceRow.id).desc()).limit(limit)
        with self.database.read() as session:
            return [_applied(row) for row in session.exec(query)]

    def accounts(self, platform: str) -> list[Account]:
        """The sums over all stays of each profile of a platform, by profile."""
        row = InForceRow
        switches, live = (
            func.sum(col(row.kind) == kind) for kind in (StayKind.RESTART, StayKind.LIVE)
        )
        query = (
            sa.select(
                col(row.profile).label("profile"),
                switches.label("switches"),
                live.label("live_switches"),
                func.coalesce(func.sum(row.restart_s), 0.0).label("restart_s"),
                *(func.sum(getattr(row, name)).label(name) for name in SUMS),
            )
            .join(ProfileRow, col(ProfileRow.id) == row.profile)
            .where(col(ProfileRow.platform) == platform)
            .group_by(col(row.profile))
            .order_by(col(row.profile))
        )
        with self.database.read() as session:
            found = session.connection().execute(query).mappings()
            return [Account.model_validate(dict(each)) for each in found]


def _applied(row: InForceRow) -> Applied:
    return Applied(
        profile=row.profile,
        why=row.why,
        at=row.applied_at,
        kind=StayKind(row.kind),
        restart_s=row.restart_s,
        lost_tokens=row.lost_tokens,
        served_tokens=row.served_tokens,
        gained_tokens=row.gained_tokens,
        avoided=row.avoided,
    )
