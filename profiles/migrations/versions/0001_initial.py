"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "platform",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("first_seen_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_platform"),
    )
    op.create_table(
        "profile",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("platform", sa.String(), nullable=False),
        sa.Column("workload", sa.String(), nullable=False),
        sa.Column("knobs", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("document", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_profile"),
    )
    op.create_index("ix_profile_platform", "profile", ["platform"])
    op.create_table(
        "trial",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study", sa.String(), nullable=False),
        sa.Column("platform", sa.String(), nullable=False),
        sa.Column("workloads", sa.String(), nullable=False),
        sa.Column("knobs", sa.String(), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("opened_at", sa.Float(), nullable=False),
        sa.Column("closed_at", sa.Float(), nullable=True),
        sa.Column("failure", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["platform"], ["platform.digest"], name="fk_trial_platform"),
        sa.PrimaryKeyConstraint("id", name="pk_trial"),
    )
    op.create_index("ix_trial_study", "trial", ["study"])
    op.create_index("ix_trial_status", "trial", ["status"])
    op.create_table(
        "measurement",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("platform", sa.String(), nullable=False),
        sa.Column("workload", sa.String(), nullable=False),
        sa.Column("phase", sa.String(), nullable=False),
        sa.Column("trial", sa.Integer(), nullable=True),
        sa.Column("document", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["platform"], ["platform.digest"], name="fk_measurement_platform"),
        sa.ForeignKeyConstraint(["trial"], ["trial.id"], name="fk_measurement_trial"),
        sa.PrimaryKeyConstraint("id", name="pk_measurement"),
    )
    op.create_index("ix_measurement_trial", "measurement", ["trial"])
    op.create_index(
        "ix_measurement_platform_workload_phase", "measurement", ["platform", "workload", "phase"]
    )
    _decisions()
    # A trigger, because "never changed" has to hold for later code and for people with sqlite3
    for table in ("measurement", "profile"):
        op.execute(
            f"CREATE TRIGGER {table}_is_immutable BEFORE UPDATE ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} rows are never changed'); END"
        )


def _decisions() -> None:
    op.create_table(
        "promotion",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("platform", sa.String(), nullable=False),
        sa.Column("workload", sa.String(), nullable=False),
        sa.Column("profile", sa.String(), nullable=False),
        sa.Column("kept_default", sa.Boolean(), nullable=False),
        sa.Column("decided_at", sa.Float(), nullable=False),
        sa.Column("evidence", sa.String(), nullable=False),
        sa.Column("sentence", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["platform"], ["platform.digest"], name="fk_promotion_platform"),
        sa.ForeignKeyConstraint(["profile"], ["profile.id"], name="fk_promotion_profile"),
        sa.PrimaryKeyConstraint("id", name="pk_promotion"),
    )
    op.create_index("ix_promotion_platform_workload", "promotion", ["platform", "workload"])
    op.create_table(
        "quarantine",
        sa.Column("platform", sa.String(), nullable=False),
        sa.Column("knobs", sa.String(), nullable=False),
        sa.Column("profile", sa.String(), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("quarantined_at", sa.Float(), nullable=False),
        sa.Column("until", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["platform"], ["platform.digest"], name="fk_quarantine_platform"),
        sa.ForeignKeyConstraint(["profile"], ["profile.id"], name="fk_quarantine_profile"),
        sa.PrimaryKeyConstraint("platform", "knobs", name="pk_quarantine"),
    )
    op.create_table(
        "pin",
        sa.Column("application", sa.String(), nullable=False),
        sa.Column("profile", sa.String(), nullable=False),
        sa.Column("pinned_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["profile"], ["profile.id"], name="fk_pin_profile"),
        sa.PrimaryKeyConstraint("application", name="pk_pin"),
    )
    op.create_table(
        "in_force",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("profile", sa.String(), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.Column("applied_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["profile"], ["profile.id"], name="fk_in_force_profile"),
        sa.PrimaryKeyConstraint("id", name="pk_in_force"),
    )
    op.create_table(
        "event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("happened_at", sa.Float(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("sentence", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_event"),
    )
