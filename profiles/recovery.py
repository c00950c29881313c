"""A damaged store is moved aside, and the newest whole copy of it takes its place."""

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from profiles.backup import backups, stamp, sync
from profiles.database import Database
from profiles.errors import StoreError

# what SQLite keeps beside a file: in a restored one it would replay the damaged one's log
_COMPANIONS = ("-wal", "-shm")


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What became of a damaged store."""

    aside: Path  # where it is now
    restored: Path | None  # the copy that took its place; None: there is no store now

    def sentence(self, reason: str) -> str:
        """What happened, and what it costs."""
        moved = f"{reason} It was moved to {self.aside.name}"
        if self.restored is None:
            return f"{moved}; there was no whole copy of it, so a new and empty one was begun."
        return f"{moved}, and {self.restored.name} took its place: what came after that is lost."


def recover(store: Path, *, at: float) -> Recovery:
    """Move a damaged store aside and restore the newest whole copy; nothing is deleted.

    Raises:
        StoreError: a file cannot be moved or written; running it again goes on.
    """
    aside = store.with_name(f"{store.name}.damaged-{stamp(at)}")
    draft = store.with_name(f"{store.name}.restoring")
    try:
        restored = next((copy for copy in backups(store) if _is_whole(copy, draft)), None)
        for suffix in _COMPANIONS:
            with contextlib.suppress(FileNotFoundError):
                Path(f"{store}{suffix}").replace(f"{aside}{suffix}")
        # a crash in between must not leave a folder without a store, which would begin an empty one
        if restored is None or not _linked(store, aside):
            store.replace(aside)
        if restored is not None:
            draft.replace(store)
        sync(store.parent)
    except OSError as error:
        raise StoreError(
            f"Cannot move the damaged store {store} aside: {error.strerror or error}.",
            hint="Move it away yourself, and copy the newest backup beside it to its place.",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    return Recovery(aside=aside, restored=restored)


def _is_whole(copy: Path, draft: Path) -> bool:
    """Whether a copy is a store that we can open, tried on a draft that may take the place."""
    shutil.copyfile(copy, draft)
    draft.chmod(0o600)
    try:
        Database.examine(draft)
    except StoreError:
        return False
    sync(draft)
    return True


def _linked(store: Path, aside: Path) -> bool:
    try:
        os.link(store, aside)
    except OSError:  # no hard links here
        return False
    return True
