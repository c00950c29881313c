"""P: how much of the live traffic the search for better live knobs may cost, and what it did cost.

A token bucket of seconds. Every busy second earns `share` of a second, up to `burst_s`. A probe is
charged what it lost against the schedule in force, not how long it took: at 80 % of the goodput
one second costs 0.2 s, and a probe that is as fast is free. What a probe loses is known only
afterwards, so the last one may leave a debt, of at most its own length.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """The bucket and the account of everything it paid for; seconds are seconds of steps."""

    share: float = 0.05  # of busy seconds that exploring may lose
    burst_s: float = 3.0  # full at the start: a first look does not have to wait
    spent_s: float = 0.0  # what is missing from a full bucket
    busy_s: float = 0.0  # probes included
    tokens: int = 0  # given, probes included
    explored_s: float = 0.0
    forgone_s: float = 0.0
    forgone_tokens: float = 0.0

    @property
    def balance_s(self) -> float:
        """Seconds that may be lost now; negative after a probe that cost more."""
        return self.burst_s - self.spent_s

    @property
    def may_probe(self) -> bool:
        """Whether another slice may be spent on something other than the schedule in force."""
        return self.balance_s > 0

    @property
    def wait_s(self) -> float:
        """Busy seconds until the next probe; infinite when nothing is earned."""
        if self.may_probe:
            return 0.0
        return -self.balance_s / self.share if self.share > 0 else float("inf")

    @property
    def explored_share(self) -> float:
        """Share of the busy seconds that were probes."""
        return self.explored_s / self.busy_s if self.busy_s > 0 else 0.0

    @property
    def forgone_share(self) -> float:
        """Share of the tokens lost that the schedule in force would have given."""
        possible = self.tokens + self.forgone_tokens
        return self.forgone_tokens / possible if possible > 0 else 0.0

    def earn(self, busy_s: float, tokens: int = 0) -> "Allowance":
        """After these seconds of steps and their tokens, probes included."""
        return replace(
            self,
            spent_s=max(0.0, self.spent_s - self.share * busy_s),
            busy_s=self.busy_s + busy_s,
            tokens=self.tokens + tokens,
        )

    def spend(
        self, probe_s: float, *, probe_tok_s: float | None, schedule_tok_s: float | None
    ) -> "Allowance":
        """After a probe of these seconds of steps, which `earn` counts as busy as well.

        Without both goodputs nobody knows the loss, and the probe is charged whole.
        """
        if probe_tok_s is None or schedule_tok_s is None or schedule_tok_s <= 0:
            lost = 1.0
        else:
            lost = max(0.0, 1 - probe_tok_s / schedule_tok_s)
        return replace(
            self,
            spent_s=self.spent_s + lost * probe_s,
            explored_s=self.explored_s + probe_s,
            forgone_s=self.forgone_s + lost * probe_s,
            forgone_tokens=self.forgone_tokens + lost * probe_s * (schedule_tok_s or 0.0),
        )
