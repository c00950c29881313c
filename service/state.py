"""What the daemon works with, and the state that only its loop changes."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from profiles.platform import Platform
from profiles.profile import Profile, default_profile
from service.archive import Archive
from service.deaths import Deaths
from service.gateway_client import GatewayClient
from service.holds import Holds
from service.lab import Lab
from service.live_loop import LiveLoop
from service.modes import Mode
from service.observer import Observer
from service.policy import Decision, Ledger
from service.reload import Reloaded
from service.slot import Slot
from service.start_fault import StartFault
from service.table_sweep import SweepRequest
from tuner.config import Config


@dataclass(kw_only=True)
class Parts:
    """What the daemon works with."""

    config: Config
    platform: Platform
    archive: Archive
    gateway: GatewayClient
    slot: Slot
    observer: Observer
    lab: Lab
    live: LiveLoop | None = None
    holds: Holds = field(default_factory=Holds)
    leave_engine: bool = False  # under systemd an engine outlives its daemon
    # raises when something on disk waits for a restart: an engine's launcher, which reads the
    # configuration too, then refuses our orders
    check_config: Callable[[], None] = lambda: None


@dataclass(kw_only=True)
class State:
    """The daemon's own state; only its loop changes it."""

    default: Profile  # the operator's own configuration
    target: Profile
    target_why: str
    in_force: Profile
    why: str
    last_good: Profile
    since: float
    mode: Mode = Mode.BOOT
    sentence: str = "starting"
    manual: Profile | None = None
    ledger: Ledger = field(default_factory=Ledger)
    decision: Decision | None = None
    deaths: Deaths = field(default_factory=Deaths)
    start_fault: StartFault | None = None  # of the last start, None when it succeeded
    trouble: str = "no engine starts"  # why nothing serves, while nothing does
    switched_at: float = 0.0  # start of the probation
    tuning: tuple[str, ...] = ()
    sweep: SweepRequest | None = None  # a table instead of a search
    tuned_by_hand: bool = False
    tuned_at: float = 0.0
    stale: set[str] = field(default_factory=set)  # classes whose promotion should be repeated
    reloaded: Reloaded | None = None  # None: the file was read at the start only
    again: bool = False  # the session repeats promotions, without a search


def first_state(parts: Parts) -> State:
    """The state at start: the operator's own configuration, nothing in force yet."""
    default = default_profile(parts.platform.digest, parts.config.engine.default)
    return State(
        default=default,
        target=default,
        target_why="your own configuration",
        in_force=default,
        why="your own configuration",
        last_good=default,
        since=time.time(),
    )
