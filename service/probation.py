"""P: whether a profile that has just been put in force keeps its promise on real traffic."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.traffic import Record

MIN_REQUESTS = 20  # on either side before anything is judged
MAX_ERROR_RATE = 0.01
TTFT_FACTOR = 1.5  # of the p95 before the switch
RATE_FACTOR = 0.8  # of tokens per second and request before the switch, same class
ENGINE_FAULTS = frozenset({"engine_error", "truncated", "timeout"})


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Real traffic before and after a switch."""

    before: Sequence[Record]
    after: Sequence[Record]


def regression(trial: Trial) -> str | None:
    """The sentence that condemns the new profile; None while there is none.

    Each request class is compared with itself: a change of the mix is not a regression. Requests
    that were held are left out of TTFT, because the hold is ours.
    """
    faults = [r for r in trial.after if r.outcome in ENGINE_FAULTS]
    if len(trial.after) >= MIN_REQUESTS and len(faults) > MAX_ERROR_RATE * len(trial.after):
        return f"{len(faults)} of {len(trial.after)} requests failed at the engine"
    for request in sorted({r.request for r in trial.after}):
        before = [r for r in trial.before if r.request == request and r.outcome == "ok"]
        after = [r for r in trial.after if r.request == request and r.outcome == "ok"]
        before = [r for r in before if r.held_s < 0.1]
        after = [r for r in after if r.held_s < 0.1]
        if min(len(before), len(after)) < MIN_REQUESTS:
            continue
        was, now = _rate(before), _rate(after)
        if was is not None and now is not None and now < RATE_FACTOR * was:
            return f"{request} streams at {now:.0f} tok/s per request, {was:.0f} before"
        ttft_was, ttft_now = _p95_ttft(before), _p95_ttft(after)
        if was is None or now is None or ttft_was is None or ttft_now is None:
            continue
        # a queue of a busier hour is no regression of the profile: tokens must suffer too
        if ttft_now > TTFT_FACTOR * ttft_was and now < was:
            return f"{request} waits {ttft_now:.2f} s for its first token, {ttft_was:.2f} before"
    return None


def _rate(records: Sequence[Record]) -> float | None:
    rates = sorted(r.tokens / r.duration_s for r in records if r.duration_s > 0)
    return rates[len(rates) // 2] if rates else None


def _p95_ttft(records: Sequence[Record]) -> float | None:
    values = sorted(r.ttft_s for r in records if r.ttft_s is not None)
    return values[min(len(values) - 1, int(0.95 * len(values)))] if values else None
