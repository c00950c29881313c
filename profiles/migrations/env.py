"""Alembic's entry point: runs on the connection that profiles/schema.py hands over."""

from alembic import context

from profiles.schema import VERSION_TABLE
from profiles.tables import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,  # SQLite cannot alter most of a table in place
)
context.run_migrations()
