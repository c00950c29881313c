"""P: what a search remembers of one engine start, for one workload class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Self

from profiles.knobs import Knobs
from profiles.measurement import FailureKind, Measurement
from tuner.drafts import Drafts
from tuner.objective import DEFAULT, Goals


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One row of a search: a score, or the kind of its failure, or neither when it was invalid."""

    trial: int  # number of the trial, for sentences
    start: str  # identity of the engine start: one start may serve several classes
    knobs: Knobs
    score: float | None = None  # natural logarithm of the objective, higher is better
    failure: FailureKind | None = None
    limits: Mapping[str, float] = field(default_factory=dict)  # signed margins, kept when <= 0
    drafts: Drafts | None = None  # at one constant draft length

    @property
    def measured(self) -> bool:
        """Whether there is a score, feasible or not."""
        return self.failure is None and self.score is not None

    @property
    def blamed(self) -> bool:
        """Whether it failed by the fault of its knobs."""
        return self.failure is not None and self.failure.blames_knobs

    @property
    def breaks(self) -> bool:
        """Whether a limit is broken, also where requests failed and there is no score."""
        return any(margin > 0 for margin in self.limits.values())

    @property
    def feasible(self) -> bool:
        """Whether there is a score and no limit is broken."""
        return self.measured and not self.breaks

    @property
    def conclusive(self) -> bool:
        """Whether it says anything about its knobs."""
        return self.measured or self.blamed or self.breaks

    @classmethod
    def of(cls, measurement: Measurement, *, trial: int, goals: Goals = DEFAULT) -> Self:
        """The row of a stored measurement."""
        knobs = Knobs.model_validate_json(measurement.knobs)
        return cls(
            trial=trial,
            start=measurement.engine_token,
            # a search is over engine starts; what was learned inside one belongs to it
            knobs=knobs.cold() if knobs.live else knobs,
            score=goals.score(measurement),
            failure=None if measurement.failure is None else measurement.failure.kind,
            limits=goals.margins(measurement),
            drafts=None if knobs.live or knobs.draft_schedule else _drafts(measurement),
        )


def _drafts(measurement: Measurement) -> Drafts | None:
    """Request-steps by accepted tokens, from the counters per draft position."""
    found = measurement.acceptance
    if found is None or found.drafts == 0 or not found.accepted_per_position:
        return None
    reached = (found.drafts, *found.accepted_per_position, 0)  # drafts that got so far
    runs = [max(0, here - beyond) for here, beyond in pairwise(reached)]
    # steps that found nothing to draft are in no counter; a request's first token is no step
    answered = sum(block.requests for block in measurement.blocks)
    steps = measurement.output_tokens - found.accepted_tokens - answered
    runs[0] += max(0, steps - found.drafts)
    return Drafts(
        request_steps=sum(runs),
        drafts=found.drafts,
        drafted=found.draft_tokens,
        accepted=tuple(runs),
    )


def failed_starts(history: Sequence[Observation]) -> int:
    """Engine starts that failed by the fault of their knobs, each counted once."""
    return len({row.start for row in history if row.blamed})
