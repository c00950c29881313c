"""P: whether a profile still serves its class as fast as when it was put in force.

Live tokens per second depend on demand, so only sights of the class at nearly the same concurrency
and share are compared, with the first hour of them after the probation. An hour on the same side,
further away than the promotion was sure of, makes the profile stale: it is compared with the
default on fresh starts again, without a new search.
"""

import math
import statistics
from dataclasses import dataclass, replace

from profiles.profile import Evidence, Origin
from service.policy import Facts
from service.traffic import ClassTraffic

SPACING_S = 600.0  # between two sights
SIGHTS = 6  # an hour of them
ALIKE = 1.25  # factor between the concurrencies of two sights that are compared
SHARE = 0.2  # difference of the class's shares of all tokens
TOLERANCE = 0.10  # at least; no machine serves every hour alike


@dataclass(frozen=True, kw_only=True)
class Sight:
    """The class of a profile at one moment."""

    at: float  # seconds since the epoch
    tok_s: float
    concurrency: float
    share: float


@dataclass(frozen=True, kw_only=True)
class Age:
    """What was seen of the profile in force."""

    profile: str = ""  # id
    first: tuple[Sight, ...] = ()  # one sight alone may be a lucky one
    later: tuple[Sight, ...] = ()


def older(age: Age, facts: Facts, *, min_requests: int) -> Age:
    """With what is seen now, if it says anything and the last sight is long enough ago."""
    profile = facts.in_force
    if age.profile != profile.id:
        age = Age(profile=profile.id)
    last = (*age.first, *age.later)[-1] if age.first else None
    found = _traffic(facts)
    if (
        profile.origin is not Origin.SEARCH
        or found is None
        or found.requests < min_requests
        or (last is not None and facts.now - last.at < SPACING_S)
    ):
        return age
    sight = Sight(at=facts.now, tok_s=found.tok_s, concurrency=found.concurrency, share=found.share)
    if age.first and not _alike(age.first[0], sight):
        return age
    if len(age.first) < SIGHTS:
        return replace(age, first=(*age.first, sight))
    return replace(age, later=(*age.later, sight)[-SIGHTS:])


def stale(age: Age, evidence: Evidence) -> str | None:
    """Why the promotion should be repeated; None while the profile keeps its speed."""
    if len(age.later) < SIGHTS:
        return None
    before = statistics.median(each.tok_s for each in age.first)
    away = [math.log(each.tok_s / before) for each in age.later]
    limit = max(math.log1p(TOLERANCE), _half_width(evidence))
    if all(gap < -limit for gap in away) or all(gap > limit for gap in away):
        now = before * math.exp(statistics.fmean(away))
        return (
            f"{now:.0f} tok/s for an hour, {before:.0f} at the same load after it was put in force"
        )
    return None


def _traffic(facts: Facts) -> ClassTraffic | None:
    return next(
        (
            each
            for each in facts.window.classes
            if str(each.workload) == facts.in_force.workload and each.tok_s > 0
        ),
        None,
    )


def _alike(one: Sight, other: Sight) -> bool:
    ratio = max(one.concurrency, other.concurrency) / max(
        min(one.concurrency, other.concurrency), 1e-9
    )
    return ratio <= ALIKE and abs(one.share - other.share) <= SHARE


def _half_width(evidence: Evidence) -> float:
    """Half of the promotion's interval, in logarithms."""
    low, high = evidence.gain_low, evidence.gain_high
    if low is None or high is None or low <= -1:
        return 0.0
    return (math.log1p(high) - math.log1p(low)) / 2
