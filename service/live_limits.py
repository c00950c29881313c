"""Shorter drafts for some classes of a mixture: proposed by their acceptance, proven by a race."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from profiles.classes import code_name
from profiles.schedule import Schedule, length_at
from service.engine_site import tuner_layout as layout
from service.live_files import LiveKnobs, Telemetry
from service.live_link import LiveLink
from service.visits import Visits
from tuner.allowance import Allowance
from tuner.cells import Cells, by_batch, total
from tuner.drafts import ByLength
from tuner.learner import Visit
from tuner.limits import NONE, Limits, grown, proposed
from tuner.race import Round, Rules, standing

SLICE_S = 1.0  # longer than a visit's: both arms verify nearly the same
ROUNDS = 40  # then the limits are not worth it
WITHOUT, WITH = 0, 1  # the arms


@dataclass(kw_only=True)
class LimitQuestion:
    """Whether the classes of one mixture should have limits of their own."""

    by_class: Mapping[int, ByLength] = field(default_factory=dict)
    proposal: Limits = NONE
    k: int = 0  # of the batch, for which it is proposed
    rounds: list[Round] = field(default_factory=list)
    over: bool = False
    in_force: Limits = NONE
    sentence: str = ""

    def hear(self, by_class: Mapping[int, ByLength]) -> None:
        """More drafts of the present text, before any of them was trimmed."""
        if not self.rounds and not self.over:
            self.by_class = grown(self.by_class, by_class)

    def asked(self, now: Telemetry, schedule: Schedule, cells: Cells) -> bool:
        """Whether a round is worth its time, at the batch size that is running."""
        if self.over or now.can(layout.ASYNC):  # an AsyncScheduler has placeholders, no drafts
            return False
        if not self.rounds:
            batch = max(cells, key=lambda key: cells[key].steps)[0]
            self.k = length_at(schedule, batch)
            self.proposal = proposed(self.by_class, now.cells, self.k, batch)
        return bool(self.proposal.longest)

    async def round(self, link: LiveLink, base: LiveKnobs, allowance: Allowance) -> Allowance:
        """One slice without and one with the limits; the account with what they cost.

        Raises:
            UnavailableError: the engine takes no steps, or somebody else has set its knobs.
        """
        visits = Visits(link)
        wishes = {WITHOUT: base, WITH: replace(base, limits=self.proposal.longest)}
        found: dict[int, Visit] = {}
        last: int | None = None
        try:
            for arm in (WITHOUT, WITH) if len(self.rounds) % 2 else (WITH, WITHOUT):
                visit = await visits.hold(wishes[arm], self.k, SLICE_S)
                if visit is not None and last is not None:
                    found[last] = visit
                last = arm
            visit = await visits.end(base)
            if visit is not None and last is not None:
                found[last] = visit
        finally:
            await visits.leave(base)
        if len(found) < 2:
            return allowance
        self.rounds.append({arm: by_batch(visit.cells, visit.arm) for arm, visit in found.items()})
        self._judge()
        with_limits, without = (total(found[arm].cells) for arm in (WITH, WITHOUT))
        both = with_limits + without
        return allowance.earn(both.seconds, both.tokens).spend(
            with_limits.seconds,
            probe_tok_s=with_limits.goodput_tok_s,
            schedule_tok_s=without.goodput_tok_s,
        )

    def _judge(self) -> None:
        found = standing(self.rounds, (WITHOUT, WITH), Rules(max_rounds=ROUNDS), noun="arm")
        self.over = found.over
        if not found.over:
            return
        shown = ", ".join(
            f"{code_name(code)} {limit}" for code, limit in self.proposal.longest.items()
        )
        behind = found.gains.get(WITHOUT)
        if found.leader == WITH and behind is not None and behind.high < 0:
            self.in_force = self.proposal
            gain = 100 * -behind.mean
            self.sentence = f"limits per class ({shown}): {gain:+.0f} % in {found.rounds} rounds"
        else:
            self.sentence = f"limits per class ({shown}) are not better in {found.rounds} rounds"
