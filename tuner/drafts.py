"""P: how many drafted tokens were accepted, and what that says about other draft lengths.

From drafts of length K, two estimates of the tokens per request and step at a shorter length k:
truncation, 1 + min(accepted, k), which forgets the rest of a long run and is therefore too low; and
run-splitting, which says that a run of a + 1 tokens would have taken ceil((a + 1) / (k + 1)) steps.
The larger of the two was within 4.1 % for a trained drafter and 8.7 % for ngram on replayed public
traces (SpecDecode-Bench, Llama-3.1-8B); a shorter draft says nothing about a longer one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

PREDICTION_ERROR = 0.04  # standard deviation of ln tokens per step, trained drafters
NGRAM_PREDICTION_ERROR = 0.09
# tokens of neighbouring steps belong to the same text: so many steps are worth one independent one
STEPS_PER_SAMPLE = 6.0


@dataclass(frozen=True, kw_only=True)
class Drafts:
    """Request-steps under one draft length: a sample, so only ratios mean something."""

    request_steps: int
    drafts: int  # request-steps that had a draft; ngram often finds none
    drafted: int  # tokens
    accepted: tuple[int, ...]  # request-steps by number of accepted tokens, 0 and more

    @property
    def tokens_per_step(self) -> float | None:
        """Tokens per request and step; None without a step."""
        if self.request_steps == 0:
            return None
        return 1 + sum(a * count for a, count in enumerate(self.accepted)) / self.request_steps

    def __sub__(self, other: "Drafts") -> "Drafts":
        return Drafts(
            request_steps=self.request_steps - other.request_steps,
            drafts=self.drafts - other.drafts,
            drafted=self.drafted - other.drafted,
            accepted=tuple(a - b for a, b in zip(self.accepted, other.accepted, strict=False)),
        )

    def __add__(self, other: "Drafts") -> "Drafts":
        width = max(len(self.accepted), len(other.accepted))
        mine, theirs = (one.accepted + (0,) * (width - len(one.accepted)) for one in (self, other))
        return Drafts(
            request_steps=self.request_steps + other.request_steps,
            drafts=self.drafts + other.drafts,
            drafted=self.drafted + other.drafted,
            accepted=tuple(a + b for a, b in zip(mine, theirs, strict=True)),
        )


NO_DRAFTS = Drafts(request_steps=0, drafts=0, drafted=0, accepted=())

ByLength = Mapping[int, Drafts]  # by draft length


@dataclass(frozen=True, kw_only=True)
class ClassCount:
    """What one request class got."""

    by_length: ByLength
    tokens: int
    requests: int  # that have ended


def since(before: Mapping[int, ClassCount], after: Mapping[int, ClassCount]) -> dict[int, ByLength]:
    """By class what was added between two readings of the same counters."""
    found: dict[int, ByLength] = {}
    for code, count in after.items():
        old = before[code].by_length if code in before else {}
        added = {
            k: drafts - old[k] if k in old else drafts for k, drafts in count.by_length.items()
        }
        kept = {k: drafts for k, drafts in added.items() if drafts.request_steps > 0}
        if kept:
            found[code] = kept
    return found


def pooled(parts: Iterable[ByLength]) -> dict[int, Drafts]:
    """The sum of several, draft length by draft length."""
    found: dict[int, Drafts] = {}
    for part in parts:
        for k, drafts in part.items():
            found[k] = found.get(k, NO_DRAFTS) + drafts
    return found


def predicted(drafts: Drafts, k: int) -> float | None:
    """Tokens per request and step at a shorter draft length; None without a step."""
    if drafts.request_steps == 0:
        return None
    runs = list(enumerate(drafts.accepted))
    cut = sum(count * (1 + min(a, k)) for a, count in runs) / drafts.request_steps
    steps = sum(count * -(-(a + 1) // (k + 1)) for a, count in runs)
    split = sum(count * (a + 1) for a, count in runs) / steps
    return max(cut, split)


def spread(drafts: Drafts, k: int | None = None) -> float:
    """Variance of the tokens of one request-step, those beyond k not counted."""
    n = drafts.request_steps
    if n == 0:
        return 0.0
    values = [
        (1 + (a if k is None else min(a, k)), count) for a, count in enumerate(drafts.accepted)
    ]
    mean = sum(value * count for value, count in values) / n
    return sum(count * (value - mean) ** 2 for value, count in values) / n
