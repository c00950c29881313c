"""A damaged store is moved aside, and the newest whole copy of it takes its place."""

import contextlib
import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from profiles.backup import backups, stamp, sync
from profiles.database import Database
from profiles.errors import StoreCorruptError, StoreError, StoreNewerError

# what SQLite keeps beside a file: in a restored one it would replay the damaged one's log
_COMPANIONS = ("-wal", "-shm", "-journal")
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


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
        StoreError: a file cannot be read, moved or written; running it again goes on.
    """
    aside = _free_name(store, at)
    draft = store.with_name(f"{store.name}.restoring")
    try:
        copies = backups(store, now=at)
        restored = next((copy for copy in copies if _is_whole(copy, draft)), None)
        for suffix in _COMPANIONS:
            with contextlib.suppress(FileNotFoundError):
                Path(f"{store}{suffix}").replace(f"{aside}{suffix}")
        if restored is None:
            store.replace(aside)
        else:  # a crash in between must not leave a folder without a store: it would begin empty
            _keep(store, aside)
            draft.replace(store)
        sync(store.parent)
    except OSError as error:
        raise StoreError(
            f"Cannot replace the damaged store {store} by a copy: {error.strerror or error}.",
            hint="Mend the reason and start again; docs/howto.md says how to do it by hand.",
        ) from error
    finally:
        _remove(draft)
    return Recovery(aside=aside, restored=restored)


def _free_name(store: Path, at: float) -> Path:
    """The name of the moment, or of the next one at which nothing was moved aside."""
    while os.path.lexists(aside := store.with_name(f"{store.name}.damaged-{stamp(at)}")):
        at += 1
    return aside


def _is_whole(copy: Path, draft: Path) -> bool:
    """Whether a copy is a store that we can open, tried on a draft that may take the place."""
    _remove(draft)
    try:
        with copy.open("rb") as source, _new(draft) as target:
            shutil.copyfileobj(source, target)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise
        return False  # a folder, somebody else's, or a bad sector: an older one may do
    try:
        Database.examine(draft)
    except (StoreCorruptError, StoreNewerError):
        return False
    sync(draft)
    return True


def _new(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _keep(store: Path, aside: Path) -> None:
    """Give a file a second name, or copy it where there are no hard links."""
    try:
        os.link(store, aside)
    except OSError:
        with store.open("rb") as source, _new(aside) as target:
            shutil.copyfileobj(source, target)


def _remove(draft: Path) -> None:
    for suffix in ("", *_COMPANIONS):
        with contextlib.suppress(OSError):
            Path(f"{draft}{suffix}").unlink(missing_ok=True)
