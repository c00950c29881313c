"""P: statistics of per-request timings."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When one answered request was sent, gave its first token and its last."""

    sent_s: float
    first_token_s: float | None  # None: it gave no token
    last_token_s: float | None
    output_tokens: int  # from `usage`

    @property
    def ttft_s(self) -> float | None:
        """Time to the first token."""
        return None if self.first_token_s is None else self.first_token_s - self.sent_s

    @property
    def latency_s(self) -> float | None:
        """Time to the last token."""
        return None if self.last_token_s is None else self.last_token_s - self.sent_s

    @property
    def tpot_s(self) -> float | None:
        """Mean time per token after the first, as a user feels it; None below two tokens."""
        if self.first_token_s is None or self.last_token_s is None or self.output_tokens < 2:
            return None
        return (self.last_token_s - self.first_token_s) / (self.output_tokens - 1)


def percentile(values: Sequence[float], share: float) -> float | None:
    """The `share` quantile (0-1), linear between neighbours; None without values.

    Raises:
        ValueError: the share is not between 0 and 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a quantile is between 0 and 1, not {share}")
    if not values:
        return None
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def mean(values: Sequence[float]) -> float | None:
    """The arithmetic mean; None without values."""
    return statistics.fmean(values) if values else None


@dataclass(frozen=True, kw_only=True)
class Latencies:
    """Summary of the requests that ended in one block, seconds."""

    ttft_p50_s: float | None
    ttft_p95_s: float | None
    tpot_mean_s: float | None
    tpot_p99_s: float | None
    latency_p95_s: float | None


def summarise(timings: Sequence[Timing]) -> Latencies:
    """The figures of a block from its requests."""
    ttft = [timing.ttft_s for timing in timings if timing.ttft_s is not None]
    tpot = [timing.tpot_s for timing in timings if timing.tpot_s is not None]
    whole = [timing.latency_s for timing in timings if timing.latency_s is not None]
    return Latencies(
        ttft_p50_s=percentile(ttft, 0.5),
        ttft_p95_s=percentile(ttft, 0.95),
        tpot_mean_s=mean(tpot),
        tpot_p99_s=percentile(tpot, 0.99),
        latency_p95_s=percentile(whole, 0.95),
    )
