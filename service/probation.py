"""P: whether a profile that has just been put in force keeps its promise on real traffic."""

from collections.abc import Sequence
from dataclasses import dataclass

from profiles.classes import RequestClass, WorkloadClass
from profiles.profile import Origin, Profile
from service.traffic import Record

MIN_REQUESTS = 20  # on either side before anything is judged
MAX_ERROR_RATE = 0.01
TTFT_FACTOR = 1.5  # of the p95 before the switch
RATE_FACTOR = 0.8  # of tokens per second and request before the switch, same class
HELD_S = 0.1  # held for longer than this, a request says nothing about the engine
ENGINE_FAULTS = frozenset({"engine_error", "truncated", "timeout"})


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Real traffic before and after a switch."""

    before: Sequence[Record]
    after: Sequence[Record]
    promised: RequestClass | None  # the class that it was promoted for; None: nothing was promised


def regression(trial: Trial) -> str | None:
    """The sentence that condemns the new profile; None while there is none.

    Speed is judged for the class that it was promoted for, compared with itself: a change of the
    mix is not a regression. Requests that were held are left out, because the hold is ours.
    """
    faults = [r for r in trial.after if r.outcome in ENGINE_FAULTS]
    if len(trial.after) >= MIN_REQUESTS and len(faults) > MAX_ERROR_RATE * len(trial.after):
        return f"{len(faults)} of {len(trial.after)} requests failed at the engine"
    request = trial.promised
    before = [r for r in trial.before if _comparable(r, request)]
    after = [r for r in trial.after if _comparable(r, request)]
    if min(len(before), len(after)) < MIN_REQUESTS:
        return None
    was, now = _rate(before), _rate(after)
    if was is not None and now is not None and now < RATE_FACTOR * was:
        return f"{request} streams at {now:.0f} tok/s per request, {was:.0f} before"
    ttft_was, ttft_now = _p95_ttft(before), _p95_ttft(after)
    if was is None or now is None or ttft_was is None or ttft_now is None:
        return None
    # a queue of a busier hour is no regression of the profile: tokens must suffer too
    if ttft_now > TTFT_FACTOR * ttft_was and now < was:
        return f"{request} waits {ttft_now:.2f} s for its first token, {ttft_was:.2f} before"
    return None


def promised(profile: Profile) -> RequestClass | None:
    """The class whose speed a profile answers for.

    The operator's own configuration, an import, or a profile of another class may be slower than
    the one before it: somebody wanted it nevertheless.
    """
    if profile.origin is not Origin.SEARCH:
        return None
    try:
        return WorkloadClass.parse(profile.workload).request
    except ValueError:
        return None


def _comparable(record: Record, request: RequestClass | None) -> bool:
    return record.request == request and record.outcome == "ok" and record.held_s < HELD_S


def _rate(records: Sequence[Record]) -> float | None:
    rates = sorted(r.tokens / r.duration_s for r in records if r.duration_s > 0)
    return rates[len(rates) // 2] if rates else None


def _p95_ttft(records: Sequence[Record]) -> float | None:
    values = sorted(r.ttft_s for r in records if r.ttft_s is not None)
    return values[min(len(values) - 1, int(0.95 * len(values)))] if values else None
