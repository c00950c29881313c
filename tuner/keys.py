"""Keys of the gateway: one key is one application; only salted hashes are at rest.

A key is 256 random bits that we draw ourselves, so a slow hash would protect nothing: there is
no dictionary of such keys to try. It would only make each request, and each wrong key, expensive.
"""

import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from profiles.errors import ConfigError

CREDENTIAL = "gateway-keys"  # name in the unit's LoadCredential=
KEY_BYTES = 32
SALT_BYTES = 16
PREFIX = "tuner-"  # so that scanners for leaked secrets can find one
LONGEST_KEY = 256  # characters of a presented key that are looked at
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # what an application's name may be
_LINE = re.compile(r"([A-Za-z0-9_.-]{1,64}):sha256:([0-9a-f]{32}):([0-9a-f]{64})")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class KeysFileError(ConfigError):
    """The keys file cannot be used."""

    hint = "Write it with `tuner keys add NAME`."


@dataclass(frozen=True, kw_only=True)
class Key:
    """What is kept of a key."""

    name: str  # of the application
    salt: bytes
    digest: bytes

    @classmethod
    def of(cls, name: str, secret: str, salt: bytes) -> Self:
        """The entry of a key."""
        return cls(name=name, salt=salt, digest=_digest(secret, salt))

    def line(self) -> str:
        """The entry as the file has it."""
        return f"{self.name}:sha256:{self.salt.hex()}:{self.digest.hex()}"


def generate() -> str:
    """A new key."""
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def salt() -> bytes:
    """A new salt."""
    return secrets.token_bytes(SALT_BYTES)


def application(keys: Iterable[Key], secret: str) -> str | None:
    """The application of a presented key; None when there is no such key.

    Every entry is compared, each in constant time, so that the time tells nothing about any.
    """
    if len(secret) > LONGEST_KEY:
        return None
    found = None
    for key in keys:
        if hmac.compare_digest(key.digest, _digest(secret, key.salt)):
            found = key.name
    return found


def parse(text: str, path: Path) -> tuple[Key, ...]:
    """The entries of a keys file; blank lines and comments are skipped.

    Raises:
        KeysFileError: a line is no entry. The line is not quoted: it may be a key.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        match = _LINE.fullmatch(entry)
        if match is None:
            raise KeysFileError(f"{path}, line {number}: this is not NAME:sha256:SALT:HASH.")
        name, salted, digest = match.groups()
        found.append(Key(name=name, salt=bytes.fromhex(salted), digest=bytes.fromhex(digest)))
    return tuple(found)


def read(path: Path, *, private: bool = True) -> tuple[Key, ...]:
    """The entries of a file.

    Raises:
        KeysFileError: it is not there, not readable, open to others (if private), or no keys file.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read().decode()
    except OSError as error:
        raise KeysFileError(
            f"Cannot read the keys file {path}: {error.strerror or error}."
        ) from error
    except UnicodeDecodeError as error:
        raise KeysFileError(f"The keys file {path} is not UTF-8 text.") from error
    if private and mode & _OTHERS:
        raise KeysFileError(
            f"The keys file {path} has mode {mode:04o}: others can use it.",
            hint=f"Run `chmod 600 {path}`.",
        )
    return parse(text, path)


def write(path: Path, keys: Iterable[Key]) -> None:
    """Replace a file by these entries, mode 0600, in one step.

    Raises:
        KeysFileError: it cannot be written.
    """
    new = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.writelines(key.line() + "\n" for key in keys)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        raise KeysFileError(
            f"Cannot write the keys file {path}: {error.strerror or error}.",
            hint="Check the path and its permissions.",
        ) from error


def credential(environ: Mapping[str, str]) -> Path | None:
    """The keys file that systemd's LoadCredential gives, if it gives one."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    path = None if not folder else Path(folder) / CREDENTIAL
    return path if path is not None and path.is_file() else None


def _digest(secret: str, salted: bytes) -> bytes:
    return hashlib.sha256(salted + secret.encode("utf-8", "surrogateescape")).digest()
