"""P: the order that tunerd writes for an engine in a unit of its own: which knobs, and who it is.

Nothing in it is a command, a path or a variable: those come from the configuration, which tunerd
cannot write. Whoever takes tunerd over can start the engine with other knobs, but nothing else.
"""

import json
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from profiles.errors import ConfigError
from profiles.knobs import Knobs
from service.engine_record import EngineRecord

LOG_TIME = "%Y%m%dT%H%M%S"
SAYS = "tuner-engine: "  # before what the launcher says, in the journal and in the engine's log
LONGEST_ORDER = 65536  # bytes
SLOTS = ("a", "b")
UNITS = tuple(f"tuner-engine@{slot}.service" for slot in SLOTS)


class Order(BaseModel):
    """One engine start."""

    # \Z, not $, which lets a line end through in Python's expressions
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, regex_engine="python-re")

    token: str = Field(pattern=r"^[0-9a-f]{16}\Z")  # of this start; names socket and log
    at: str = Field(pattern=r"^[0-9]{8}T[0-9]{6}\Z")  # local time; names the log
    knobs: Knobs
    profile: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")  # for people
    purpose: Literal["serve", "trial"]  # for people
    live: bool  # with tunerd's scheduler
    # digest of the command and environment that tunerd expects
    launch: str = Field(pattern=r"^[0-9a-f]{12}\Z")

    @classmethod
    def of(cls, record: EngineRecord) -> Self:
        """The order for the engine of a record."""
        return cls.model_validate(
            {
                "token": record.token,
                "at": Path(record.log).name.split("-")[1],
                "knobs": Knobs.model_validate_json(record.knobs),
                "profile": record.profile,
                "purpose": record.purpose,
                "live": record.live,
                "launch": record.launch,
            }
        )

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """The order in a file.

        Raises:
            ConfigError: it is none; says which field is wrong.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            wrong = {".".join(map(str, each["loc"])) or "the whole" for each in error.errors()}
            named = ", ".join(sorted(repr(name)[:64] for name in wrong))
            raise ConfigError(
                f"The order is not one that tunerd writes; wrong is {named}.",
                hint="tunerd and the engine's unit must be of one version: restart tunerd.",
            ) from error

    def text(self) -> str:
        """The order as JSON, without knobs that are not set."""
        return json.dumps({**self.model_dump(exclude={"knobs"}), "knobs": self.knobs.given()})

    @property
    def socket_name(self) -> str:
        """The engine's socket."""
        return f"engine-{self.token}.sock"

    @property
    def log_name(self) -> str:
        """The engine's log."""
        return log_name(self.at, self.token)


def log_name(at: str, token: str) -> str:
    """The name of the log of one engine start."""
    return f"engine-{at}-{token}.log"


def slot_of(unit: str) -> str:
    """The slot in the name of a unit."""
    return unit.partition("@")[2].partition(".")[0]
