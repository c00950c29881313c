"""P: what one stretch of traffic gave: its steps and its drafts."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tuner.cells import Cells, merge
from tuner.drafts import ByLength, pooled


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Pure decode steps by batch size and draft length, and the drafts of all classes together."""

    cells: Cells = field(default_factory=dict)
    drafts: ByLength = field(default_factory=dict)

    @property
    def request_steps(self) -> int:
        """Steps of single requests, of which the drafts are a sample."""
        return sum(batch * cell.steps for (batch, _), cell in self.cells.items())


NO_TRAFFIC = Stretch()


def joined(parts: Iterable[Stretch]) -> Stretch:
    """Several stretches as one."""
    kept = list(parts)
    return Stretch(
        cells=merge(*(part.cells for part in kept)), drafts=pooled(part.drafts for part in kept)
    )
