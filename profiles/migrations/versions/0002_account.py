"""What was in force gets an account: what its restart cost, and what it gave."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    _add("kind", sa.String(), "")
    op.add_column("in_force", sa.Column("restart_s", sa.Float(), nullable=True))
    for name in ("lost_tokens", "served_tokens", "gained_tokens"):
        _add(name, sa.Float(), "0")
    _add("avoided", sa.Integer(), "0")


def _add(name: str, kind: sa.types.TypeEngine[Any], default: str) -> None:
    column = sa.Column(name, kind, server_default=default, nullable=False)
    op.add_column("in_force", column)
