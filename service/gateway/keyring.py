"""Who may come in: the keys in force, read again when their file changes."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from profiles.errors import ConfigError
from service.gateway import headers
from service.gateway.errors import ManyWrongKeysError, UnauthorizedError
from service.gateway.guesses import MOST, WINDOW_S, Guesses
from tuner import keys
from tuner.config import GatewayConfig

log = logging.getLogger(__name__)

LOOK_S = 1.0  # between two looks at the file
# Anthropic's clients send their key in a header of its own
_X_API_KEY = frozenset({"messages", "messages/count_tokens", "models"})

Stamp = tuple[int, int, int] | None  # modification time (ns), inode, size; None: no file


class Keyring:
    """The keys of a file; one key is one application."""

    def __init__(
        self, path: Path, *, private: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Read the file.

        Raises:
            ConfigError: it cannot be used or holds no key.
        """
        self._path = path
        self._private = private
        self._clock = clock
        self._guesses = Guesses()
        self._stamp = self._look()
        self._looked_at = clock()
        self._keys = keys.read(path, private=private)
        if not self._keys:
            raise keys.KeysFileError(f"The keys file {path} holds no key.")

    @classmethod
    def of(cls, config: GatewayConfig, environ: Mapping[str, str]) -> "Keyring | None":
        """The keys that a configuration and systemd ask for; None when neither names any.

        Raises:
            ConfigError: they are asked for and cannot be used.
        """
        given = keys.credential(environ)
        if given is not None:  # systemd guards it, with modes of its own
            return cls(given, private=False)
        return None if config.keys_file is None else cls(config.keys_file)

    def application(self, endpoint: str | None, pairs: list[tuple[str, str]], address: str) -> str:
        """The application whose key a request carries, which came from an address.

        Raises:
            UnauthorizedError: it carries none, or one that is not ours.
            ManyWrongKeysError: the same, after too many of them from this address.
        """
        self._refresh()
        secret = _presented(endpoint, pairs)
        found = keys.application(self._keys, secret) if secret else None
        if found is None:
            raise self._refusal(address)
        return found

    def _refusal(self, address: str) -> UnauthorizedError | ManyWrongKeysError:
        excess = self._guesses.wrong(address, self._clock())
        if excess is None:
            return UnauthorizedError()
        if excess.first:
            log.warning(
                "More than %s requests without a valid key from %s within %g s: they get 429.",
                MOST,
                excess.source or "the unix socket",
                WINDOW_S,
            )
        return ManyWrongKeysError(retry_after_s=excess.wait_s)

    def _look(self) -> Stamp:
        try:
            seen = self._path.stat()
        except OSError:
            return None
        return seen.st_mtime_ns, seen.st_ino, seen.st_size

    def _refresh(self) -> None:
        """Take over a changed file; a broken one changes nothing, a removed one ends all keys."""
        now = self._clock()
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        if stamp is None:
            self._keys = ()
            log.error("The keys file %s is gone: no key is valid any more.", self._path)
            return
        try:
            self._keys = keys.read(self._path, private=self._private)
        except keys.KeysFileError as error:
            log.error("%s The keys read before stay in force.", error.sentence())  # noqa: TRY400 - no traceback
            return
        log.info("keys read again: %s applications", len(self._keys))


def check_exposure(address: str, *, loopback: bool, keyring: Keyring | None) -> None:
    """Refuse to serve other machines without keys.

    Raises:
        ConfigError: the address is not loopback and there are no keys.
    """
    if loopback or keyring is not None:
        return
    raise ConfigError(
        f"Cannot serve {address}: other machines can reach it, and there are no keys.",
        hint="Set gateway.keys_file and run `tuner keys add NAME`, or listen on 127.0.0.1.",
    )


def _presented(endpoint: str | None, pairs: list[tuple[str, str]]) -> str:
    """The key of a request; empty when there is none or more than one."""
    given = [value for name, value in pairs if name.lower() == headers.AUTHORIZATION]
    if given:
        scheme, _, secret = given[0].partition(" ")
        return secret.strip() if scheme.lower() == "bearer" and len(given) == 1 else ""
    given = [value for name, value in pairs if name.lower() == headers.X_API_KEY]
    return given[0].strip() if endpoint in _X_API_KEY and len(given) == 1 else ""
