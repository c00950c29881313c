"""What was tried and what it gave: platforms, trials, measurements and events."""

import json
from collections.abc import Sequence

import sqlalchemy as sa
from sqlmodel import col, select

from profiles.database import Database
from profiles.errors import ConflictError, NotFoundError
from profiles.knobs import Knobs
from profiles.measurement import Failure, FailureKind, Measurement
from profiles.platform import Platform
from profiles.records import Event, Trial, TrialStatus
from profiles.tables import EventRow, MeasurementRow, PlatformRow, TrialRow

EVENTS_KEPT = 10_000  # a year of a machine that switches every hour, and 1 MB
EVENTS_SPARE = 500  # so many more before the oldest are forgotten


class History:
    """Rows that are added and, but for the end of a trial, never changed; old events go."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def ensure_platform(self, platform: Platform, *, at: float) -> str:
        """Remember a platform, once, and return its digest."""
        with self.database.ordinary() as session:
            if session.get(PlatformRow, platform.digest) is None:
                session.add(
                    PlatformRow(
                        digest=platform.digest, fingerprint=platform.canonical(), first_seen_at=at
                    )
                )
        return platform.digest

    def platforms(self) -> list[Platform]:
        """Every platform that was ever seen, oldest first."""
        with self.database.read() as session:
            rows = session.exec(select(PlatformRow).order_by(col(PlatformRow.first_seen_at)))
            return [Platform.model_validate_json(row.fingerprint) for row in rows]

    def open_trial(
        self,
        *,
        study: str,
        platform: str,
        workloads: Sequence[str],
        knobs: Knobs,
        why: str,
        at: float,
    ) -> int:
        """Record an engine start before it happens and return its number.

        Raises:
            NotFoundError: the platform is unknown.
        """
        row = TrialRow(
            study=study,
            platform=platform,
            workloads=json.dumps(list(workloads)),
            knobs=knobs.canonical(),
            why=why,
            status=TrialStatus.OPEN,
            opened_at=at,
        )
        with self.database.ordinary() as session:
            if session.get(PlatformRow, platform) is None:
                raise NotFoundError(f"There is no platform {platform}.")
            session.add(row)
            session.flush()
            return _number(row.id)

    def close_trial(
        self, trial: int, *, status: TrialStatus, at: float, failure: Failure | None = None
    ) -> None:
        """Record how an open trial ended.

        Raises:
            NotFoundError: there is no such trial.
            ConflictError: it has ended already.
        """
        with self.database.ordinary() as session:
            row = session.get(TrialRow, trial)
            if row is None:
                raise NotFoundError(f"There is no trial {trial}.")
            if row.status != TrialStatus.OPEN or status == TrialStatus.OPEN:
                raise ConflictError(f"Cannot set trial {trial} to {status}: it is {row.status}.")
            row.status = status
            row.closed_at = at
            row.failure = None if failure is None else failure.model_dump_json()

    def sweep_open_trials(self, reason: str, *, at: float) -> int:
        """Mark the trials of a dead daemon as interrupted and return how many there were."""
        failure = Failure(kind=FailureKind.INTERRUPTED, sentence=reason).model_dump_json()
        with self.database.ordinary() as session:
            rows = session.exec(select(TrialRow).where(TrialRow.status == TrialStatus.OPEN)).all()
            for row in rows:
                row.status = TrialStatus.INTERRUPTED
                row.closed_at = at
                row.failure = failure
            return len(rows)

    def trials(
        self, limit: int = 100, *, study: str | None = None, platform: str | None = None
    ) -> list[Trial]:
        """The latest trials, newest first."""
        query = select(TrialRow).order_by(col(TrialRow.id).desc()).limit(limit)
        if study is not None:
            query = query.where(TrialRow.study == study)
        if platform is not None:
            query = query.where(TrialRow.platform == platform)
        with self.database.read() as session:
            return [_trial(row) for row in session.exec(query)]

    def add_measurement(self, measurement: Measurement, *, trial: int | None = None) -> int:
        """Append a measurement, a failure included, and return its number.

        Raises:
            NotFoundError: its platform or its trial is unknown.
        """
        row = MeasurementRow(
            platform=measurement.platform,
            workload=measurement.workload,
            phase=measurement.phase,
            trial=trial,
            document=measurement.model_dump_json(),
        )
        with self.database.ordinary() as session:
            if session.get(PlatformRow, measurement.platform) is None:
                raise NotFoundError(f"There is no platform {measurement.platform}.")
            if trial is not None and session.get(TrialRow, trial) is None:
                raise NotFoundError(f"There is no trial {trial}.")
            session.add(row)
            session.flush()
            return _number(row.id)

    def measurements(
        self,
        platform: str,
        workload: str | None = None,
        *,
        phase: str | None = None,
        trial: int | None = None,
    ) -> list[Measurement]:
        """Measurements of a platform, oldest first, narrowed by what is given."""
        query = select(MeasurementRow).where(MeasurementRow.platform == platform)
        if workload is not None:
            query = query.where(MeasurementRow.workload == workload)
        if phase is not None:
            query = query.where(MeasurementRow.phase == phase)
        if trial is not None:
            query = query.where(MeasurementRow.trial == trial)
        with self.database.read() as session:
            rows = session.exec(query.order_by(col(MeasurementRow.id)))
            return [Measurement.model_validate_json(row.document) for row in rows]

    def numbered_measurements(self, platform: str) -> list[tuple[int | None, Measurement]]:
        """All measurements of a platform with the number of their trial, oldest first.

        Those of the live loop have no trial.
        """
        query = select(MeasurementRow).where(MeasurementRow.platform == platform)
        with self.database.read() as session:
            rows = session.exec(query.order_by(col(MeasurementRow.id)))
            return [(row.trial, Measurement.model_validate_json(row.document)) for row in rows]

    def add_event(self, kind: str, sentence: str, *, at: float) -> None:
        """Remember a sentence for `tuner history`; of very many the oldest are forgotten."""
        row = EventRow(happened_at=at, kind=kind, sentence=sentence)
        with self.database.ordinary() as session:
            session.add(row)
            session.flush()
            number = _number(row.id)
            if number % EVENTS_SPARE == 0:
                oldest = number - EVENTS_KEPT
                session.execute(sa.delete(EventRow).where(col(EventRow.id) <= oldest))

    def events(self, limit: int = 100) -> list[Event]:
        """The latest events, newest first."""
        query = select(EventRow).order_by(col(EventRow.id).desc()).limit(limit)
        with self.database.read() as session:
            return [
                Event(at=row.happened_at, kind=row.kind, sentence=row.sentence)
                for row in session.exec(query)
            ]


def _number(number: int | None) -> int:
    if number is None:  # pragma: no cover - a flushed row has its number
        raise ValueError("the row was not written")
    return number


def _trial(row: TrialRow) -> Trial:
    return Trial(
        id=_number(row.id),
        study=row.study,
        platform=row.platform,
        workloads=tuple(json.loads(row.workloads)),
        knobs=Knobs.model_validate_json(row.knobs),
        why=row.why,
        status=TrialStatus(row.status),
        opened_at=row.opened_at,
        closed_at=row.closed_at,
        failure=None if row.failure is None else Failure.model_validate_json(row.failure),
    )
