"""What an installation changes: computed first, shown as a diff, then done."""

import contextlib
import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from profiles.errors import ConflictError, DeniedError, StoreError
from tuner.starting import is_ours


@dataclass(frozen=True, kw_only=True)
class Change:
    """One file that is not as it should be."""

    path: Path
    before: str | None  # None: it is not there
    after: str | None  # None: it goes

    @property
    def what(self) -> str:
        """In a word."""
        if self.after is None:
            return "remove"
        return "create" if self.before is None else "change"

    def diff(self) -> str:
        """As `diff -u` shows it."""
        before = "/dev/null" if self.before is None else str(self.path)
        after = "/dev/null" if self.after is None else str(self.path)
        old, new = (self.before or "").splitlines(True), (self.after or "").splitlines(True)
        return "".join(difflib.unified_diff(old, new, before, after))

    def make(self) -> None:
        """Write or remove the file, never half of it.

        Raises:
            DeniedError: this user may not.
            StoreError: it cannot be done.
        """
        try:
            if self.after is None:
                self.path.unlink(missing_ok=True)
                return
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            fresh = self.path.with_name(f".{self.path.name}.new")
            fresh.write_text(self.after, encoding="utf-8")
            fresh.chmod(0o644)
            fresh.replace(self.path)
        except PermissionError as error:
            raise DeniedError(
                f"Cannot write {self.path}: {error.strerror}.",
                hint="Run it with sudo, or write into a folder with --prefix.",
            ) from error
        except OSError as error:
            raise StoreError(f"Cannot write {self.path}: {error.strerror}.", hint="") from error


def changes(root: Path, wanted: Mapping[str, str | None]) -> list[Change]:
    """What differs below a root.

    Raises:
        ConflictError: a file in our place was not written by us.
    """
    found = []
    for name, after in wanted.items():
        path = root / name
        before = _text(path)
        if before is not None and not is_ours(before):
            if after is None:
                continue  # somebody else's
            raise ConflictError(
                f"{path} was not written by `tuner install`.",
                hint="Move it aside; drop-ins (`systemctl edit`) are never touched.",
            )
        if before != after:
            found.append(Change(path=path, before=before, after=after))
    return found


def _text(path: Path) -> str | None:
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes().decode(errors="replace")
    return None


def fold(path: Path) -> None:
    """Remove a folder that has become empty."""
    with contextlib.suppress(OSError):
        os.rmdir(path)  # noqa: PTH106
