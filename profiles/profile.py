"""A profile: knob values for one platform and workload class, with the evidence for them."""

import hashlib
import json
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from profiles.knobs import Knobs


class Origin(StrEnum):
    """Where a profile comes from."""

    DEFAULT = "default"  # the operator's own configuration
    SEARCH = "search"  # won a promotion here
    IMPORT = "import"  # brought by `tuner profiles import`


class Evidence(BaseModel):
    """Why a profile may be used: the promotion estimate on fresh data, never the search's best."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tok_s: float | None = None  # geometric mean over the promotion's starts
    default_tok_s: float | None = None
    gain: float | None = None  # relative, e.g. 0.42
    gain_low: float | None = None  # interval of the gain
    gain_high: float | None = None
    confidence: float = 0.95
    pairs: int = 0  # start pairs behind the interval
    # "planned": their number was fixed beforehand; "sequential": judged after every pair
    test: Literal["planned", "sequential"] = "planned"
    trials: int = 0  # engine starts of the search before it
    acceptance_length: float | None = None
    joule_per_token: float | None = None
    default_joule_per_token: float | None = None
    latency_p95_s: float | None = None  # median over all blocks of the promotion
    default_latency_p95_s: float | None = None
    # what was asked for; a gain is always in favour of the profile, also where less is better
    objective: str = "tok_s"
    limits: dict[str, float] = Field(default_factory=dict)
    sentence: str = ""  # for people


class Profile(BaseModel):
    """An immutable set of knob values for one platform and workload class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    knobs: Knobs
    platform: str  # digest of the fingerprint it was measured on
    workload: str  # str(WorkloadClass), or "any" for the operator's default
    origin: Origin
    evidence: Evidence = Field(default_factory=Evidence)
    created_at: float = 0.0  # seconds since the epoch

    @property
    def id(self) -> str:
        """Content hash of knobs, platform and class: the same finding has the same name."""
        content = json.dumps(
            [self.knobs.canonical(), self.platform, self.workload], separators=(",", ":")
        )
        return hashlib.sha256(content.encode()).hexdigest()[:12]


def default_profile(platform: str, knobs: Knobs) -> Profile:
    """The operator's own configuration as a profile for any class."""
    return Profile(
        knobs=knobs,
        platform=platform,
        workload="any",
        origin=Origin.DEFAULT,
        evidence=Evidence(sentence="your own configuration"),
    )


def left_profile(platform: str, knobs: Knobs, why: str) -> Profile:
    """What a session has left running, as a profile for any class."""
    return Profile(
        knobs=knobs,
        platform=platform,
        workload="any",
        origin=Origin.SEARCH,
        evidence=Evidence(sentence=why),
    )
