"""What was decided: profiles, promotions, quarantines and pins."""

from sqlalchemy import func
from sqlmodel import Session, col, select

from profiles.database import Database
from profiles.errors import ConflictError, NotFoundError
from profiles.knobs import Knobs
from profiles.profile import Evidence, Profile
from profiles.records import Pin, Promotion, Quarantine
from profiles.tables import (
    PinRow,
    PlatformRow,
    ProfileRow,
    PromotionRow,
    QuarantineRow,
)


class Decisions:
    """Every commit here is on the device before the method returns."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def put_profile(self, profile: Profile) -> str:
        """Keep a profile and return its id; one that is there already stays as it was."""
        with self.database.durable() as session:
            if session.get(ProfileRow, profile.id) is None:
                session.add(
                    ProfileRow(
                        id=profile.id,
                        platform=profile.platform,
                        workload=profile.workload,
                        knobs=profile.knobs.digest(),
                        created_at=profile.created_at,
                        document=profile.model_dump_json(),
                    )
                )
        return profile.id

    def profile(self, id_or_prefix: str) -> Profile:
        """The one profile whose id begins so.

        Raises:
            NotFoundError: there is none.
            ConflictError: there are several.
        """
        with self.database.read() as session:
            return _profile(resolve(session, id_or_prefix))

    def profiles(self, platform: str | None = None) -> list[Profile]:
        """The profiles of a platform, or of all, oldest first."""
        query = select(ProfileRow).order_by(col(ProfileRow.created_at), col(ProfileRow.id))
        if platform is not None:
            query = query.where(ProfileRow.platform == platform)
        with self.database.read() as session:
            return [_profile(row) for row in session.exec(query)]

    def promote(
        self,
        *,
        platform: str,
        workload: str,
        profile: str,
        evidence: Evidence,
        sentence: str,
        at: float,
        kept_default: bool = False,
    ) -> Promotion:
        """Record which profile a class gets; with `kept_default` it is that of the default.

        Raises:
            NotFoundError: the profile or the platform is unknown.
            ConflictError: the profile is of another platform.
        """
        with self.database.durable() as session:
            _known_platform(session, platform)
            found = _of_platform(session, profile, platform, f"promote it for {workload}")
            row = PromotionRow(
                platform=platform,
                workload=workload,
                profile=found.id,
                kept_default=kept_default,
                decided_at=at,
                evidence=evidence.model_dump_json(),
                sentence=sentence,
            )
            session.add(row)
            return _promotion(row)

    def promotions(self, platform: str) -> dict[str, Promotion]:
        """The latest decision about each class of a platform."""
        latest = (
            select(func.max(PromotionRow.id))
            .where(PromotionRow.platform == platform)
            .group_by(col(PromotionRow.workload))
        )
        query = select(PromotionRow).where(col(PromotionRow.id).in_(latest))
        with self.database.read() as session:
            rows = session.exec(query.order_by(col(PromotionRow.workload)))
            return {row.workload: _promotion(row) for row in rows}

    def quarantine(
        self,
        knobs: Knobs,
        *,
        platform: str,
        reason: str,
        at: float,
        until: float | None,
        profile: str | None = None,
    ) -> Quarantine:
        """Bar knobs from a platform until a time, or until released, and count how often.

        Raises:
            NotFoundError: the platform or the profile is unknown.
        """
        with self.database.durable() as session:
            _known_platform(session, platform)
            found = None if profile is None else resolve(session, profile)
            row = session.get(QuarantineRow, (platform, knobs.digest()))
            if row is None:
                row = QuarantineRow(
                    platform=platform,
                    knobs=knobs.digest(),
                    reason=reason,
                    count=0,
                    quarantined_at=at,
                )
                session.add(row)
            row.reason, row.quarantined_at, row.until = reason, at, until
            row.count += 1
            row.profile = row.profile if found is None else found.id
            return _quarantine(row)

    def quarantined(self, platform: str, now: float) -> list[Quarantine]:
        """The knobs that are barred from a platform at this time."""
        query = select(QuarantineRow).where(
            QuarantineRow.platform == platform,
            (col(QuarantineRow.until).is_(None)) | (col(QuarantineRow.until) > now),
        )
        with self.database.read() as session:
            rows = session.exec(query.order_by(col(QuarantineRow.knobs)))
            return [_quarantine(row) for row in rows]

    def quarantine_count(self, platform: str, knobs: Knobs) -> int:
        """How often these knobs were barred from a platform and not released, 0 for never."""
        with self.database.read() as session:
            row = session.get(QuarantineRow, (platform, knobs.digest()))
            return 0 if row is None else row.count

    def release(self, platform: str, knobs: Knobs) -> bool:
        """Forget that knobs were barred; False when they were not."""
        with self.database.durable() as session:
            row = session.get(QuarantineRow, (platform, knobs.digest()))
            if row is not None:
                session.delete(row)
            return row is not None

    def set_pin(self, application: str, profile: str, *, platform: str, at: float) -> Pin:
        """Give an application a profile (id or prefix) of the platform that runs here.

        Raises:
            NotFoundError: there is no such profile.
            ConflictError: it is of another platform, or the prefix means several.
        """
        with self.database.durable() as session:
            found = _of_platform(session, profile, platform, f"pin {application!r} to it")
            row = session.get(PinRow, application)
            if row is None:
                row = PinRow(application=application, profile=found.id, pinned_at=at)
                session.add(row)
            row.profile, row.pinned_at = found.id, at
            return Pin(application=application, profile=found.id, platform=platform, at=at)

    def unset_pin(self, application: str) -> None:
        """Take an application's pin away.

        Raises:
            NotFoundError: it has none.
        """
        with self.database.durable() as session:
            row = session.get(PinRow, application)
            if row is None:
                known = ", ".join(session.exec(select(PinRow.application))) or "none"
                raise NotFoundError(f"Application {application!r} has no pin (pinned: {known}).")
            session.delete(row)

    def pins(self) -> list[Pin]:
        """All pins by application; after a change of hardware some may be of another platform."""
        query = (
            select(PinRow, ProfileRow.platform)
            .join(ProfileRow, col(ProfileRow.id) == PinRow.profile)
            .order_by(col(PinRow.application))
        )
        with self.database.read() as session:
            return [
                Pin(
                    application=row.application,
                    profile=row.profile,
                    platform=platform,
                    at=row.pinned_at,
                )
                for row, platform in session.exec(query)
            ]


def resolve(session: Session, id_or_prefix: str) -> ProfileRow:
    """The row of the one profile whose id begins so; see `Decisions.profile`."""
    prefix = id_or_prefix.strip().removeprefix("#").lower()  # people see ids as #a1f3
    query = select(ProfileRow).where(col(ProfileRow.id).startswith(prefix, autoescape=True))
    rows = session.exec(query.order_by(col(ProfileRow.id)).limit(6)).all() if prefix else ()
    exact = [row for row in rows if row.id == prefix]
    if len(exact or rows) == 1:
        return (exact or rows)[0]
    if not rows:
        raise NotFoundError(
            f"There is no profile {id_or_prefix!r}.", hint="`tuner profiles list` shows them."
        )
    listed = ", ".join(f"{row.id} ({_profile(row).knobs.label()})" for row in rows[:5])
    more = ", ..." if len(rows) > 5 else ""
    raise ConflictError(
        f"Profile {id_or_prefix!r} is ambiguous: {listed}{more}.", hint="Write more of its id."
    )


def _of_platform(session: Session, profile: str, platform: str, action: str) -> ProfileRow:
    row = resolve(session, profile)
    if row.platform != platform:
        raise ConflictError(
            f"Profile {row.id} was made for platform {row.platform}, and this one is {platform}: "
            f"cannot {action}.",
            hint="`tuner profiles list` shows the profiles of this platform.",
        )
    return row


def _known_platform(session: Session, platform: str) -> None:
    if session.get(PlatformRow, platform) is None:
        raise NotFoundError(f"There is no platform {platform}.")


def _profile(row: ProfileRow) -> Profile:
    return Profile.model_validate_json(row.document)


def _promotion(row: PromotionRow) -> Promotion:
    return Promotion(
        platform=row.platform,
        workload=row.workload,
        profile=row.profile,
        kept_default=row.kept_default,
        at=row.decided_at,
        evidence=Evidence.model_validate_json(row.evidence),
        sentence=row.sentence,
    )


def _quarantine(row: QuarantineRow) -> Quarantine:
    return Quarantine(
        platform=row.platform,
        knobs=row.knobs,
        profile=row.profile,
        reason=row.reason,
        count=row.count,
        at=row.quarantined_at,
        until=row.until,
    )
