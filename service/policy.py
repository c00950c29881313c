"""P: which profile should be in force, and whether a restart pays for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from profiles.profile import Profile
from service.traffic import ClassTraffic, Window
from tuner.config import PolicyConfig

PIN_SHARE = 0.2  # of the window's tokens: below it a pin does not turn the engine for everybody
HOUR_S = 3600.0
MANUAL_WHY = "the operator chose it (`tuner use`)"
# what a profile is taken to lose on a class that it was not tuned for, at least
FOREIGN_LOSS = 0.1


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the decision may look at."""

    now: float  # seconds since the epoch
    window: Window
    in_force: Profile
    default: Profile
    promoted: Mapping[str, Profile]  # by str(WorkloadClass); quarantined ones left out
    pins: Mapping[str, Profile]  # by application; what it holds instead, if it holds one
    held: Mapping[str, Profile] = field(default_factory=dict)  # the newest last
    manual: Profile | None  # `tuner use`
    plain_waiting: int  # requests that vLLM refuses while our profile speculates
    last_plain_at: float | None
    restart_s: float  # what a switch costs
    live: bool = False  # whether the running engine's live knobs can be changed
    live_caps: bool = True  # its admitted batch too; vLLM has that since 0.31


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Gain that was forgone for each profile, in seconds of the present demand."""

    forgone_s: Mapping[str, float] = field(default_factory=dict)
    switched_at: tuple[float, ...] = ()  # within the last hour


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The profile that should be in force now, and the sentence that says why."""

    profile: Profile
    why: str
    switch: bool
    live: bool = False  # the switch needs no restart
    fixed: bool = False  # somebody chose it: nothing is to be learned over it
    wanted: Profile | None = None  # what would be in force if a restart were free


def decide(facts: Facts, ledger: Ledger, config: PolicyConfig) -> tuple[Decision, Ledger]:
    """Decide once per interval.

    Correctness first (requests that vLLM would refuse), then the operator, then pins and holds,
    then the best profile of the dominant class once the gain it forgoes has paid for the restart
    (ski rental, facts in docs/how-it-works.md).
    """
    target, why, urgent = wanted(facts, config)
    fixed = facts.manual is not None or _asked(facts) is not None
    recent = tuple(at for at in ledger.switched_at if facts.now - at < HOUR_S)
    if target.knobs == facts.in_force.knobs:
        # the same engine under another name is no switch at all
        return (
            Decision(profile=facts.in_force, why=why, switch=False, fixed=fixed),
            Ledger(switched_at=recent),
        )
    if facts.live and _reached_live(facts, target):
        return (  # free: no hold, no restart, so nothing has to be earned first
            Decision(profile=target, why=why, switch=True, live=True, fixed=fixed),
            replace(ledger, switched_at=recent),
        )
    if urgent:
        return Decision(profile=target, why=why, switch=True), Ledger(switched_at=recent)
    forgone = {} if facts.window.dominant is None else dict(ledger.forgone_s)
    gain = _gain(facts, target) * facts.window.busy * config.interval_s
    forgone = {target.id: forgone.get(target.id, 0.0) + gain}
    kept = Ledger(forgone_s=forgone, switched_at=recent)
    # an idle engine is turned for a holder at once: nobody else pays for the restart
    price = 0.0 if _held(facts) is not None else config.patience * facts.restart_s
    stay = _stay(facts, config, recent)
    if stay is None and forgone[target.id] < price:
        stay = f"{forgone[target.id]:.0f} of {price:.0f} s of gain that a restart has to earn"
    if stay is not None:
        why = f"{why}; waiting: {stay}"
        return Decision(profile=facts.in_force, why=why, switch=False, wanted=target), kept
    return Decision(profile=target, why=why, switch=True), kept


def _reached_live(facts: Facts, target: Profile) -> bool:
    now, then = facts.in_force.knobs, target.knobs
    capped_alike = now.max_active_seqs == then.max_active_seqs
    return now.cold() == then.cold() and (facts.live_caps or capped_alike)


def switched(ledger: Ledger, now: float) -> Ledger:
    """The ledger after a switch."""
    recent = tuple(at for at in ledger.switched_at if now - at < HOUR_S)
    return replace(ledger, forgone_s={}, switched_at=(*recent, now))


def wanted(facts: Facts, config: PolicyConfig) -> tuple[Profile, str, bool]:
    """The profile that would serve best if a restart were free, why, and whether it is urgent."""
    profile, why, urgent = _preferred(facts, config)
    speculates = facts.in_force.knobs.speculating
    if facts.default.knobs.speculating or not _plain(facts, config):
        return profile, why, urgent
    if profile.knobs.speculating:
        if not speculates:
            return facts.in_force, "an application sends min_p or logit_bias", False
        profile = facts.default
    elif not speculates:
        return profile, why, urgent
    why = "an application sends min_p or logit_bias, which vLLM refuses while it speculates"
    return profile, why, facts.plain_waiting > 0


def _plain(facts: Facts, config: PolicyConfig) -> bool:
    """Whether requests come that vLLM refuses while it speculates."""
    last = facts.last_plain_at
    return facts.plain_waiting > 0 or (last is not None and facts.now - last < config.plain_s)


def _preferred(facts: Facts, config: PolicyConfig) -> tuple[Profile, str, bool]:
    if facts.manual is not None:
        return facts.manual, MANUAL_WHY, True
    asked = _asked(facts)
    if asked is not None:
        return *asked, False
    dominant = facts.window.dominant
    if dominant is None or facts.window.requests < config.min_requests:
        return facts.in_force, "too little traffic to have a class", False
    profile = facts.promoted.get(str(dominant.workload), facts.default)
    share = round(100 * dominant.share)
    minutes = facts.window.span_s / 60
    why = f"{dominant.workload} is {share} % of tokens in the last {minutes:g} min"
    return profile, why, False


def _asked(facts: Facts) -> tuple[Profile, str] | None:
    return _held(facts) or _pinned(facts)


def _held(facts: Facts) -> tuple[Profile, str] | None:
    """What is held while nobody has traffic; with traffic a hold counts as a pin does."""
    if not facts.held or sum(facts.window.applications.values()) > 0:
        return None
    application, profile = list(facts.held.items())[-1]
    return profile, f"{application} holds it, and nobody has traffic"


def _pinned(facts: Facts) -> tuple[Profile, str] | None:
    total = sum(facts.window.applications.values())
    shares = [
        (tokens / total, application)
        for application, tokens in facts.window.applications.items()
        if application in facts.pins and total > 0
    ]
    if not shares or max(shares)[0] < PIN_SHARE:
        return None
    share, application = max(shares)
    verb = "holds it" if application in facts.held else "is pinned to it"
    why = f"{application} {verb} and makes {round(100 * share)} % of tokens"
    return facts.pins[application], why


def _stay(facts: Facts, config: PolicyConfig, recent: Sequence[float]) -> str | None:
    if recent and facts.now - recent[-1] < config.dwell_s:
        return f"switched {facts.now - recent[-1]:.0f} s ago, dwell is {config.dwell_s:g} s"
    if len(recent) >= config.switches_per_hour:
        return f"{len(recent)} switches within the hour, the limit"
    return None


def _gain(facts: Facts, wanted: Profile) -> float:
    """Relative gain of the wanted profile over the one in force, for the present traffic.

    The lower end of the promotion interval: no credit for hope. A pin counts as a full second per
    second, because somebody asked for it.
    """
    pinned = any(
        profile.id == wanted.id and facts.window.applications.get(application, 0) > 0
        for application, profile in facts.pins.items()
    )
    if pinned:
        return 1.0
    dominant = facts.window.dominant
    if dominant is None:
        return 0.0
    if wanted.knobs == facts.default.knobs:  # also as the profile of a class that kept it
        # the profile in force was never shown to be better for this class
        return _foreign_loss(facts, dominant)
    low = wanted.evidence.gain_low
    return max(low, 0.0) * dominant.share if low is not None else 0.0


def _foreign_loss(facts: Facts, dominant: ClassTraffic) -> float:
    """What the profile of another class may lose on this one: unknown, so half its own gain."""
    low = facts.in_force.evidence.gain_low or 0.0
    return max(low * 0.5, FOREIGN_LOSS) * dominant.share
