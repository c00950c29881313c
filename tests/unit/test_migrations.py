import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from profiles import schema
from profiles.backup import backup, backups
from profiles.database import Database
from profiles.errors import (
    StoreCorruptError,
    StoreError,
    StoreNewerError,
    StoreReadOnlyError,
)
from profiles.knobs import Knobs
from profiles.profile import default_profile
from profiles.records import Account, Applied
from profiles.store import Store
from profiles.tables import Table

ROOT = Path(__file__).parents[2]
NEXT = '''"""One more column."""

import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{head}"


def upgrade():
    op.add_column("event", sa.Column("mood", sa.String(), nullable=True))
    {more}
'''


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tuner.sqlite3"


@pytest.fixture
def stored(path):
    """A closed store with one event."""
    with Store.open(path, now=1.0) as store:
        store.add_event("x", "Before.", at=1.0)
    return path


def next_scripts(folder, more="pass"):
    """The shipped migrations and one more."""
    shutil.copytree(schema.MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "9999_next.py").write_text(NEXT.format(head=schema.head(), more=more))
    return folder


def rows(path, query):
    """What an independent connection reads."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def run_python(script, *args):
    """A process with this checkout's packages."""
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, args)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def first_scripts(folder):
    """The first migration alone."""
    ignore = shutil.ignore_patterns("__pycache__", "0002_*")
    shutil.copytree(schema.MIGRATIONS, folder, ignore=ignore)
    return folder


# -- a healthy file --------------------------------------------------------------------------


def test_the_migrations_make_exactly_the_tables(path):
    """Scripts and models agree, so that no column exists only in one of them."""
    with contextlib.closing(Database.open(path)) as database, database.read() as session:
        context = MigrationContext.configure(
            session.connection(),
            opts={"version_table": schema.VERSION_TABLE, "compare_type": True},
        )

        assert [] == compare_metadata(context, Table.metadata)


def test_a_new_store_is_private_and_logs_ahead(path):
    """Only its owner reads it, its log files included, and WAL is what SQLite answered."""
    with Store.open(path, now=1.0) as store:
        store.add_event("x", "y", at=1.0)
        modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}

        assert "wal" == store.journal_mode == rows(path, "PRAGMA journal_mode")[0][0]
        assert {path.name, f"{path.name}-wal", f"{path.name}-shm"} == set(modes)
        assert {0o600} == set(modes.values())


def test_an_opened_store_becomes_private(stored):
    """A file that was copied with wide permissions does not keep them."""
    stored.chmod(0o644)
    Store.open(stored, now=1.0).close()

    assert 0o600 == stored.stat().st_mode & 0o777


def test_a_closed_store_is_one_file(stored):
    """Nothing but the file has to be copied when the daemon is stopped."""
    assert [stored.name] == [each.name for each in stored.parent.iterdir()]


def test_a_file_system_without_shared_memory_gets_the_old_journal(path):
    """Where WAL is refused, SQLite's answer is believed and the store works without."""
    with contextlib.closing(Database.open(path, vfs="unix-dotfile")) as database:
        store = Store(database)
        store.add_event("x", "Slow but sure.", at=1.0)

        assert "delete" == store.journal_mode
        assert "Slow but sure." == store.events()[0].sentence


def test_opening_is_repeatable_and_makes_no_backup(stored):
    """A store of the newest schema is opened as it is."""
    Store.open(stored, now=2.0).close()

    assert [] == backups(stored)
    assert [("Before.",)] == rows(stored, "SELECT sentence FROM event")


# -- migrations ------------------------------------------------------------------------------


def test_a_migration_makes_a_backup_first(stored, tmp_path):
    """The old file is whole beside the new one, and an event says so."""
    scripts = next_scripts(tmp_path / "scripts")
    with Store.open(stored, now=7.0, scripts=scripts) as store:
        sentences = [event.sentence for event in store.events()]

    [kept] = backups(stored)
    assert f"tuner.sqlite3.backup-{schema.head()}-1" == kept.name
    assert 0o600 == kept.stat().st_mode & 0o777
    assert [("Before.",)] == rows(kept, "SELECT sentence FROM event")
    assert [("ok",)] == rows(kept, "PRAGMA integrity_check")
    assert [(schema.head(),)] == rows(kept, f"SELECT * FROM {schema.VERSION_TABLE}")
    assert [("9999",)] == rows(stored, f"SELECT * FROM {schema.VERSION_TABLE}")
    assert kept.name in sentences[0]
    assert "Before." == sentences[1]


def test_backups_do_not_replace_each_other(stored, tmp_path):
    """A second migration from the same schema gets the next number."""
    scripts = next_scripts(tmp_path / "scripts")
    old = stored.read_bytes()
    for _ in range(2):
        stored.write_bytes(old)
        Store.open(stored, now=7.0, scripts=scripts).close()

    assert ["2", "1"] == [each.name.rsplit("-", 1)[1] for each in backups(stored)]


def test_a_migration_that_fails_changes_nothing(stored, tmp_path):
    """All steps of a migration are one transaction."""
    scripts = next_scripts(
        tmp_path / "scripts", more='op.execute("INSERT INTO nowhere VALUES (1)")'
    )
    with pytest.raises(StoreError, match="nowhere"):
        Store.open(stored, now=7.0, scripts=scripts)

    assert [(schema.head(),)] == rows(stored, f"SELECT * FROM {schema.VERSION_TABLE}")
    columns = {row[1] for row in rows(stored, "PRAGMA table_info(event)")}
    assert "mood" not in columns


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_migration_that_is_ended_midway_changes_nothing(stored, tmp_path, number):
    """F49: stopped between two statements; the next start finds the old store and migrates."""
    mark = tmp_path / "midway"
    wait = f"import pathlib, time; pathlib.Path({str(mark)!r}).touch(); time.sleep(600)"
    slow = next_scripts(tmp_path / "slow", more=wait)
    script = (
        "import sys; from pathlib import Path; from profiles.store import Store;"
        "Store.open(Path(sys.argv[1]), now=7.0, scripts=Path(sys.argv[2]))"
    )
    with subprocess.Popen([sys.executable, "-c", script, stored, slow], cwd=ROOT) as process:
        while not mark.exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
    left = {row[1] for row in rows(stored, "PRAGMA table_info(event)")}
    shutil.rmtree(slow)
    Store.open(stored, now=8.0, scripts=next_scripts(slow)).close()

    assert -number == process.returncode
    assert "mood" not in left
    assert "mood" in {row[1] for row in rows(stored, "PRAGMA table_info(event)")}
    assert ("Before.",) == rows(stored, "SELECT sentence FROM event ORDER BY id")[0]


def test_a_newer_store_is_refused_and_left_alone(stored, tmp_path):
    """An older tunerd does not guess what a newer one meant."""
    Store.open(stored, now=7.0, scripts=next_scripts(tmp_path / "scripts")).close()
    before = stored.read_bytes()

    with pytest.raises(StoreNewerError) as caught:
        Store.open(stored, now=8.0)

    assert str(stored) in caught.value.message
    assert "9999" in caught.value.message
    assert schema.head() in caught.value.message
    assert "Upgrade tunerd" in caught.value.hint
    assert before == stored.read_bytes()


def test_a_backup_of_a_live_store_has_what_was_committed(path, tmp_path):
    """The online backup reads through the log, which a copy of the file would miss."""
    with Store.open(path, now=1.0) as store:
        store.add_event("x", "In the log.", at=1.0)
        backup(path, tmp_path / "copy")

    assert [("In the log.",)] == rows(tmp_path / "copy", "SELECT sentence FROM event")


def test_a_backup_that_cannot_be_made_is_a_sentence(stored, tmp_path):
    """No half of a backup is left, and the target is named."""
    target = tmp_path / "nowhere" / "copy"

    with pytest.raises(StoreError, match="Cannot back up"):
        backup(stored, target)
    assert not target.parent.exists()


# -- a damaged file --------------------------------------------------------------------------


def test_damage_is_refused_and_the_file_is_left_alone(stored):
    """Random bytes, an empty file, a cut file and another program's are each a sentence."""
    whole = stored.read_bytes()
    [(page,)] = rows(stored, "SELECT rootpage FROM sqlite_master WHERE name = 'event'")
    event = (page - 1) * 4096
    damaged = {
        "random": os.urandom(8192),
        "empty": b"",
        "text": b"# my notes\n" * 500,
        "cut within a page": whole[: len(whole) // 2 + 100],
        "cut at a page": whole[: 4096 * 3],
        "one page": whole[:4096],
        "a page that opening does not read": whole[:event] + b"\xff" * 4096 + whole[event + 4096 :],
        "overwritten": whole[:4096] + os.urandom(len(whole) - 4096),
    }
    for name, content in damaged.items():
        stored.write_bytes(content)

        with pytest.raises(StoreCorruptError) as caught:
            Store.open(stored, now=1.0)
        assert str(stored) in caught.value.message, name
        assert "backup" in caught.value.hint, name
        assert content == stored.read_bytes(), name


@pytest.mark.parametrize(
    "table", ["CREATE TABLE t (x)", "CREATE TABLE alembic_version (version_num TEXT)"]
)
def test_the_database_of_another_program_is_refused(path, table):
    """Not even Optuna's, which alembic versions too, passes for a store."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(table)

    with pytest.raises(StoreCorruptError, match="of another program"):
        Store.open(path, now=1.0)
    assert 1 == rows(path, "SELECT count(*) FROM sqlite_master")[0][0]


def test_a_folder_in_its_place_is_refused(path):
    """A folder of that name is not a store."""
    path.mkdir()

    with pytest.raises(StoreCorruptError, match="not a file"):
        Store.open(path, now=1.0)


def test_a_creation_that_died_leaves_nothing_in_the_way(path):
    """A store appears whole: an unfinished one has another name, and the next start succeeds."""
    path.with_name(f"{path.name}.new-1").write_bytes(b"half")

    with Store.open(path, now=1.0) as store:
        assert [] == store.events()


# -- a file that cannot be written -----------------------------------------------------------


def test_a_state_directory_that_cannot_be_made_is_a_sentence(tmp_path):
    """A file where the directory should be cannot hold a store."""
    (tmp_path / "state").write_text("a file")

    with pytest.raises(StoreReadOnlyError) as caught:
        Store.open(tmp_path / "state" / "tuner.sqlite3", now=1.0)
    assert "permission" in caught.value.hint


OPEN_AS_NOBODY = """
import os, sys
from pathlib import Path
from profiles.errors import StoreReadOnlyError
from profiles.knobs import Knobs
from profiles.profile import default_profile
from profiles.records import Account, Applied
from profiles.store import Store
if os.geteuid() == 0:  # root ignores permissions: become nobody, after the imports
    try:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    except PermissionError:
        sys.exit(77)
try:
    Store.open(Path(sys.argv[1]), now=1.0)
except StoreReadOnlyError as error:
    print(error.sentence())
"""


@pytest.mark.parametrize("exists", [True, False])
def test_a_store_of_another_user_is_read_only(stored, exists):
    """Neither a file nor a folder that belongs to somebody else can be written."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        target = place / stored.name
        if exists:
            shutil.copy(stored, target)
            target.chmod(0o444)
        place.chmod(0o555)
        ended = run_python(OPEN_AS_NOBODY, target)
        place.chmod(0o755)
    if ended.returncode == 77:
        pytest.skip("this root may not become another user, and root can write everything")

    assert "" == ended.stderr
    assert str(target) in ended.stdout
    assert "write permission" in ended.stdout


def test_a_connection_that_may_not_write_is_a_sentence(path):
    """A store that turns read-only while it is open says so at the next write."""
    with Store.open(path, now=1.0) as store:
        with store.database._ordinary.connect() as connection:
            connection.connection.driver_connection.execute("PRAGMA query_only=ON")

        with pytest.raises(StoreReadOnlyError, match="readonly"):
            store.add_event("x", "y", at=1.0)


def test_a_full_disk_is_a_sentence(path):
    """What was there stays there, and the sentence says that room is missing."""
    with Store.open(path, now=1.0) as store:
        store.add_event("x", "Before.", at=1.0)
        with store.database._ordinary.connect() as connection:
            raw = connection.connection.driver_connection
            pages = raw.execute("PRAGMA page_count").fetchone()[0]
            raw.execute(f"PRAGMA max_page_count={pages}")

        with pytest.raises(StoreError, match="disk is full"):
            store.add_event("x", "y" * 100_000, at=1.0)
        assert "Before." == store.events()[0].sentence


# -- kill -9 ---------------------------------------------------------------------------------

WRITE_FOR_EVER = """
import itertools, sys
from pathlib import Path
from profiles.measurement import Block, Measurement
from profiles.platform import fingerprint
from profiles.knobs import Knobs
from profiles.profile import default_profile
from profiles.records import Account, Applied
from profiles.store import Store

store = Store.open(Path(sys.argv[1]), now=1.0)
here = fingerprint(vllm="1", model="m", model_revision=None, drafters={}, cpu="c")
store.ensure_platform(here, at=1.0)
print(here.digest, flush=True)
for number in itertools.count():
    store.add_measurement(Measurement(
        platform=here.digest, workload="w", knobs="{}", started_at=float(number),
        engine_token="t", blocks=(Block(seconds=1.0, output_tokens=1, requests=1),)))
    print(number, flush=True)
"""


def test_kill_9_in_the_middle_of_inserts_loses_nothing_that_was_committed(path):
    """After SIGKILL every acknowledged row is there, and at most one that was not."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITE_FOR_EVER, str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with writer:
        platform = writer.stdout.readline().strip()
        seen = [int(writer.stdout.readline()) for _ in range(150)]
        os.killpg(writer.pid, signal.SIGKILL)
        seen += [int(line) for line in writer.stdout if line.endswith("\n")]

    with Store.open(path, now=2.0) as store:
        found = [int(each.started_at) for each in store.measurements(platform)]
    assert seen == found[: len(seen)]
    assert len(found) - len(seen) <= 1
    assert [("ok",)] == rows(path, "PRAGMA integrity_check")


def test_what_was_in_force_before_there_were_accounts(path, tmp_path):
    """It stays in force; its account begins at zero, and it is counted as no switch."""
    with contextlib.closing(Database.open(path, scripts=first_scripts(tmp_path / "first"))):
        pass
    found = default_profile("p", Knobs())
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        values = (found.id, "p", "any", found.knobs.digest(), 1.0, found.model_dump_json())
        connection.execute("INSERT INTO profile VALUES (?, ?, ?, ?, ?, ?)", values)
        connection.execute(
            "INSERT INTO in_force (profile, why, applied_at) VALUES (?, 'x', 1.0)", values[:1]
        )

    with Store.open(path, now=2.0) as store:
        assert Applied(profile=found.id, why="x", at=1.0) == store.in_force()
        store.add_to_account(served_tokens=5.0)
        assert [Account(profile=found.id, served_tokens=5.0)] == store.accounts("p")
        assert "Migrated the store from schema 0001" in store.events()[0].sentence
