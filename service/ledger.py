"""P: the ledger of restarts: what switching cost, what it gave, and what staying avoided."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from profiles.profile import Profile
from profiles.records import Account, StayKind
from service.probation import promised
from service.traffic import Record


@dataclass(frozen=True, kw_only=True)
class Served:
    """Tokens of one profile, and how many of them the default would not have made by then."""

    tokens: float = 0.0
    gained: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A better profile that is not in force, because a restart has not been earned yet."""

    profile: Profile
    why: str


@dataclass(frozen=True, kw_only=True)
class Totals:
    """The ledger in figures; tokens are output tokens."""

    switches: int = 0  # by restart
    live_switches: int = 0  # these cost nothing
    avoided: int = 0
    restart_s: float = 0.0
    lost_tokens: float = 0.0
    served_tokens: float = 0.0
    gained_tokens: float = 0.0


def served(records: Iterable[Record], profile: Profile) -> Served:
    """What these records say of a profile.

    Only the class that it was promoted for gains, by the lower end of its interval: no credit for
    hope. With gain g the default would have made 1 / (1 + g) of the tokens in the same time.
    """
    mine = [r for r in records if r.profile == profile.id and r.outcome == "ok"]
    low = profile.evidence.gain_low
    request = promised(profile)
    share = 0.0 if low is None or low <= -1 else low / (1 + low)
    return Served(
        tokens=sum(r.tokens for r in mine),
        gained=share * sum(r.tokens for r in mine if r.request == request),
    )


def demand(records: Iterable[Record], span_s: float) -> float:
    """Output tokens per second that were asked for over a span, idle seconds included."""
    if span_s <= 0:
        return 0.0
    return sum(r.tokens for r in records if r.outcome == "ok") / span_s


def kind(before: Profile | None, after: Profile, *, live: bool, tuned: bool) -> StayKind:
    """How a profile came into force; `tuned` when a search has just left its engine behind."""
    if before is None or before.knobs == after.knobs:
        return StayKind.AGAIN
    if live:
        return StayKind.LIVE
    return StayKind.TUNED if tuned else StayKind.RESTART


def lost(how: StayKind, restart_s: float, demand_tok_s: float) -> tuple[float | None, float]:
    """The seconds and tokens that a change cost; only a restart for its own sake costs."""
    if how is not StayKind.RESTART:
        return None, 0.0
    seconds = max(restart_s, 0.0)
    return seconds, seconds * max(demand_tok_s, 0.0)


def episode(
    before: Wish | None, wanted: Profile | None, why: str, in_force: Profile, *, switch: bool
) -> tuple[Wish | None, Wish | None]:
    """The wish that is open now, and the one that ended without a switch.

    A switch was avoided once per episode: when what was wanted is not wanted any more. With
    `switch` the decision is to switch, so whatever was wished for was not avoided.
    """
    if switch:
        return None, None
    if wanted is None or wanted.knobs == in_force.knobs:
        return None, before
    now = Wish(profile=wanted, why=why)
    if before is None or before.profile.id == wanted.id:
        return now, None
    return now, before


def totals(accounts: Sequence[Account]) -> Totals:
    """All accounts together."""
    names = [each.name for each in fields(Totals)]
    return Totals(**{name: sum(getattr(one, name) for one in accounts) for name in names})
