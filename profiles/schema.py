"""The schema of the store: which revision a file has, and how it gets to the newest."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from profiles.errors import StoreCorruptError, StoreNewerError

MIGRATIONS = Path(__file__).parent / "migrations"
# not alembic's default name: Optuna's databases have that one, and must not pass for a store
VERSION_TABLE = "store_revision"


def _config(scripts: Path) -> Config:
    config = Config()  # no ini file: everything is given here
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    return config


def head(scripts: Path = MIGRATIONS) -> str:
    """The newest revision that this tunerd knows."""
    newest = ScriptDirectory.from_config(_config(scripts)).get_current_head()
    if newest is None:
        raise ValueError(f"there is no migration in {scripts}")
    return newest


def revision(connection: Connection) -> str | None:
    """The revision of a database; None for an empty one.

    Raises:
        StoreCorruptError: it holds tables, but not those of a store.
    """
    current = MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE}
    ).get_current_revision()
    if current is None and inspect(connection).get_table_names():
        raise StoreCorruptError(
            "It is an SQLite database of another program, not a store of tunerd.",
            hint="Give another `state_dir`, or move that file away.",
        )
    return current


def behind(connection: Connection, scripts: Path = MIGRATIONS) -> bool:
    """Whether a database needs a migration.

    Raises:
        StoreNewerError: its revision is unknown here.
        StoreCorruptError: it is not a store.
    """
    current = revision(connection)
    script = ScriptDirectory.from_config(_config(scripts))
    known = {entry.revision for entry in script.walk_revisions()}
    if current is not None and current not in known:
        raise StoreNewerError(
            f"Its schema is {current}; the newest that this tunerd knows is {head(scripts)}."
        )
    return current != head(scripts)


def upgrade(connection: Connection, scripts: Path = MIGRATIONS) -> None:
    """Run every missing migration inside the caller's transaction: all of them, or none."""
    config = _config(scripts)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
