"""What one tool found: the form that every part of the comparison writes and the report reads."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One configuration as the tool itself saw it."""

    label: str
    tok_s: float | None  # by the tool's own client; None when it measured nothing
    failed: bool = False


@dataclass(frozen=True, kw_only=True)
class Found:
    """The outcome of one tool."""

    tool: str
    versions: dict[str, str]
    measured: str  # what its client sent, in words
    wall_s: float
    starts: int  # of engines
    trials: list[Trial]
    winner: dict[str, Any] | None  # knobs; None when the tool named none
    winner_label: str | None
    claimed_tok_s: float | None  # of its winner by its own client
    left_behind: int  # processes that it did not end
    note: str = ""
    verdict: str | None = None
    refused: dict[str, Any] | None = None  # knobs that it measured as best and did not put in force
    refused_label: str | None = None
    refused_tok_s: float | None = None
    phases: dict[str, float] = field(default_factory=dict)  # seconds
    began_at: str = ""

    @property
    def crashes(self) -> int:
        """Trials that gave no measurement because the engine did not start or died."""
        return sum(trial.failed for trial in self.trials)

    @classmethod
    def of(cls, data: dict[str, Any]) -> Self:
        """The outcome that was stored."""
        trials = [Trial(**trial) for trial in data["trials"]]
        return cls(**{**data, "trials": trials})

    def data(self) -> dict[str, Any]:
        """The outcome to store."""
        return asdict(self)


def best(trials: Sequence[Trial]) -> Trial | None:
    """The trial with the most tokens per second; None when nothing was measured."""
    known = [trial for trial in trials if trial.tok_s is not None and not trial.failed]
    return max(known, key=lambda trial: trial.tok_s or 0.0, default=None)


def now() -> str:
    """The time for the record, UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())


def write(path: Path, data: dict[str, Any]) -> None:
    """Replace a part's file at once, so that an interrupted part leaves none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(data, indent=1), encoding="utf-8")
    temporary.replace(path)
