"""P: names of the files and sockets below the state and runtime directories."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tuner.config import Config


@dataclass(frozen=True, kw_only=True)
class EnginePlaces:
    """The folders of engines."""

    run: Path  # socket, control file, telemetry
    logs: Path  # one log file per engine start
    cache: Path  # compile caches, one folder per model, drafter and draft length


@dataclass(frozen=True, kw_only=True)
class UnitPlaces(EnginePlaces):
    """The folders of engines in units of their own; systemd makes them, for two users."""

    orders: Path  # written by tunerd, read by the launcher in the unit

    @classmethod
    def below(cls, root: Path = Path("/")) -> Self:
        """Where the units expect them; tests have another root."""
        return cls(
            run=root / "run/tuner-engine",
            logs=root / "var/log/tuner-engine",
            cache=root / "var/cache/tuner-engine",
            orders=root / "run/tuner/orders",
        )

    def order(self, slot: str) -> Path:
        """The order for the engine in a slot."""
        return self.orders / f"{slot}.json"


@dataclass(frozen=True)
class Paths:
    """Where everything is; both processes and the command line agree on it."""

    state: Path
    run: Path

    @classmethod
    def of(cls, config: Config) -> Self:
        """The paths of a configuration."""
        return cls(state=config.state, run=config.run)

    @property
    def store(self) -> Path:
        """The SQLite database."""
        return self.state / "tuner.sqlite3"

    @property
    def lock(self) -> Path:
        """Held by the one daemon of this state directory."""
        return self.state / "tunerd.lock"

    @property
    def engine_record(self) -> Path:
        """Identity of the running engine, written before it is spawned."""
        return self.state / "engine.json"

    @property
    def reserve(self) -> Path:
        """Room that is set aside for the start of an engine on a full disk."""
        return self.state / "reserve"

    @property
    def logs(self) -> Path:
        """One log file per engine start."""
        return self.state / "log"

    @property
    def cache(self) -> Path:
        """Compile caches, one folder per model, drafter and draft length."""
        return self.state / "cache"

    @property
    def engine(self) -> EnginePlaces:
        """The folders of engines that are children of tunerd."""
        return EnginePlaces(run=self.run, logs=self.logs, cache=self.cache)

    @property
    def flags(self) -> Path:
        """What each installed vLLM accepts."""
        return self.cache / "flags.json"

    @property
    def status_socket(self) -> Path:
        """Control API, GET only, mode 0666."""
        return self.run / "status.sock"

    @property
    def control_socket(self) -> Path:
        """Control API, changes, mode 0660."""
        return self.run / "control.sock"

    @property
    def gateway_socket(self) -> Path:
        """The gateway's own admin interface, mode 0600, used by tunerd only."""
        return self.run / "gateway.sock"

    def engine_socket(self, token: str) -> Path:
        """The unix socket of one engine start."""
        return self.run / f"engine-{token}.sock"
