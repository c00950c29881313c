"""P: why an engine did not start, and whether its knobs are to blame."""

from dataclasses import dataclass
from typing import Self

from profiles.errors import TunerError, UnavailableError
from service.engine import EngineStartError

START_ERRORS = (EngineStartError, TunerError)


@dataclass(frozen=True, kw_only=True)
class StartFault:
    """A start that failed."""

    why: str  # one sentence
    told: str  # with what the engine says itself, and where its log is
    blames_knobs: bool

    @classmethod
    def of(cls, error: EngineStartError | TunerError) -> Self:
        """What an error of a start means; a full disk or a lost bus says nothing of the knobs."""
        if isinstance(error, EngineStartError):
            failure = error.failure
            return cls(
                why=failure.sentence, told=error.told, blames_knobs=failure.kind.blames_knobs
            )
        sentence = error.sentence()
        blames = not isinstance(error, UnavailableError)
        return cls(why=sentence, told=sentence, blames_knobs=blames)
