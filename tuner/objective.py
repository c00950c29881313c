"""P: what a search maximises, and the limits that a configuration has to keep meanwhile.

Every objective becomes a score, a natural logarithm of which more is better, so that nothing
behind this module knows a direction: noise is additive and gains are differences. Every limit
becomes a signed margin that is kept at or below 0.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

from profiles.knobs import Knobs
from profiles.measurement import Measurement
from profiles.profile import Evidence
from tuner.compare import Interval
from tuner.config import TuningConfig

Objective = Literal["tok_s", "tok_per_joule", "p95_latency"]


def over_blocks(measurements: Sequence[Measurement], name: str) -> float | None:
    """Median of a figure over all blocks, which one slow block cannot move; None when unknown."""
    values = [getattr(block, name) for each in measurements for block in each.blocks]
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def error_rate(measurement: Measurement) -> float | None:
    """The share of requests that failed; None without a request."""
    errors = sum(block.errors for block in measurement.blocks)
    asked = errors + sum(block.requests for block in measurement.blocks)
    return errors / asked if asked else None


def _tokens_per_joule(measurement: Measurement) -> float | None:
    joules = measurement.joule_per_token
    return 1 / joules if joules else None


@dataclass(frozen=True, kw_only=True)
class _Aim:
    """One objective: its figure, which way is better, and its words."""

    figure: Callable[[Measurement], float | None]
    direction: int  # +1: more is better
    noun: str  # behind a change in percent
    unit: str
    missing: str  # why a measurement without failure has no figure


AIMS: Mapping[str, _Aim] = {
    "tok_s": _Aim(
        figure=lambda m: m.tok_s,
        direction=1,
        noun="tok/s",
        unit="tok/s",
        missing="no tokens",
    ),
    "tok_per_joule": _Aim(
        figure=_tokens_per_joule,
        direction=1,
        noun="tokens per joule",
        unit="tok/J",
        missing="no energy reading",
    ),
    "p95_latency": _Aim(
        figure=lambda m: over_blocks([m], "latency_p95_s"),
        direction=-1,
        noun="p95 latency",
        unit="s p95 latency",
        missing="no request ended",
    ),
}


@dataclass(frozen=True, kw_only=True)
class _Limit:
    """One limit: what is compared with it, and how far above it that is."""

    value: Callable[[Measurement], float | None]
    margin: Callable[[float, float], float]  # value, limit
    unit: str
    void: bool = False  # known of a measurement that must not be used, too


def _relative(value: float, limit: float) -> float:
    return value / limit - 1


def _difference(value: float, limit: float) -> float:
    return value - limit


LIMITS: Mapping[str, _Limit] = {
    "ttft_p95_s": _Limit(
        value=lambda m: over_blocks([m], "ttft_p95_s"), margin=_relative, unit=" s"
    ),
    # vLLM's own inter-token latency is per step, and a step gives several tokens when it speculates
    "itl_p99_s": _Limit(
        value=lambda m: over_blocks([m], "tpot_p99_s"), margin=_relative, unit=" s"
    ),
    "temperature_c": _Limit(
        value=lambda m: m.environment.temperature_c, margin=_difference, unit=" °C"
    ),
    "power_w": _Limit(value=lambda m: m.environment.power_w, margin=_relative, unit=" W"),
    "error_rate": _Limit(value=error_rate, margin=_difference, unit="", void=True),
}


@dataclass(frozen=True, kw_only=True)
class Goals:
    """An objective and the limits that are set."""

    objective: Objective = "tok_s"
    limits: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, tuning: TuningConfig) -> Self:
        """What the operator asks for."""
        return cls(objective=tuning.objective, limits=tuning.limits.model_dump(exclude_none=True))

    @property
    def noun(self) -> str:
        """What a change in percent is of."""
        return AIMS[self.objective].noun

    @property
    def missing(self) -> str:
        """Why a measurement that did not fail may have no score."""
        return AIMS[self.objective].missing

    def score(self, measurement: Measurement) -> float | None:
        """The logarithm to be maximised; None when the measurement does not give it."""
        aim = AIMS[self.objective]
        # whatever is maximised, an engine that gave no token has nothing to show
        if not measurement.tok_s:
            return None
        found = aim.figure(measurement)
        return aim.direction * math.log(found) if found is not None and found > 0 else None

    @property
    def unit(self) -> str:
        """The unit of the figure that is scored."""
        return AIMS[self.objective].unit

    def figure(self, score: float) -> float:
        """The figure behind a score, in its unit."""
        return math.exp(AIMS[self.objective].direction * score)

    def shown(self, score: float) -> str:
        """A score in its own unit, for people."""
        return f"{_short(self.figure(score))} {self.unit}"

    def change(self, gain: Interval) -> str:
        """A gain as the change of the figure: `+12.0 % tok/s [+9.1, +15.0]`, less latency as -."""
        aim = AIMS[self.objective]
        ends = sorted(aim.direction * end for end in (gain.low, gain.high))
        mean, low, high = (100 * math.expm1(each) for each in (aim.direction * gain.mean, *ends))
        return f"{mean:+.1f} % {aim.noun} [{low:+.1f}, {high:+.1f}]"

    def margins(self, measurement: Measurement) -> dict[str, float]:
        """By limit how far above it a measurement is, kept when <= 0; unknown ones are left out."""
        found: dict[str, float] = {}
        for name, limit in self.limits.items():
            rule = LIMITS[name]
            value = rule.value(measurement) if measurement.usable or rule.void else None
            if value is not None:
                found[name] = rule.margin(value, limit)
        return found

    def broken(self, measurements: Sequence[Measurement]) -> str | None:
        """The first limit that any of these measurements breaks, as words; None when all keep."""
        for each in measurements:
            for name, margin in self.margins(each).items():
                if margin > 0:
                    rule = LIMITS[name]
                    value = rule.value(each) or 0.0
                    return (
                        f"{_short(value)}{rule.unit} breaks limits.{name} = "
                        f"{self.limits[name]:g}{rule.unit}"
                    )
        return None

    def decided(self, evidence: Evidence) -> bool:
        """Whether a verdict was reached under these goals; under others it decides nothing."""
        same = evidence.objective == self.objective
        return same and evidence.limits == dict(self.limits)

    @property
    def seen_in_rates(self) -> bool:
        """Whether a draft length that is faster on live traffic cannot be worse for these goals.

        At equal load more tokens per second are less time per token; heat and energy are not seen.
        """
        heat = {"temperature_c", "power_w"} & set(self.limits)
        return self.objective != "tok_per_joule" and not heat

    def refusal(self, *, power_w: float | None) -> str | None:
        """Why a session cannot pursue the objective on this machine; None when it can."""
        if self.objective == "tok_per_joule" and power_w is None:
            return "tuning.objective is tok_per_joule, but this machine has no energy counter"
        return None

    def unchecked(self, *, power_w: float | None, temperature_c: float | None) -> list[str]:
        """The limits that no sensor of this machine can check, each as a sentence."""
        sensors = {"power_w": (power_w, "power"), "temperature_c": (temperature_c, "temperature")}
        return [
            f"tuning.limits.{name} is never checked: this machine has no {word} sensor"
            for name, (value, word) in sensors.items()
            if name in self.limits and value is None
        ]


DEFAULT = Goals()


def unfit(knobs: Knobs, measurements: Sequence[Measurement], goals: Goals) -> str | None:
    """Why knobs must not be handed on, from all that was measured of them; None when sound.

    A failed start condemns every live setting of the engine that failed; a limit is judged on
    average over the measurements of exactly these knobs, as a search does.
    """
    margins: dict[str, list[float]] = {}
    for each in measurements:
        seen = Knobs.model_validate_json(each.knobs)
        if _engine(seen) != _engine(knobs):
            continue
        if each.failure is not None and each.failure.kind.blames_knobs:
            return f"it failed here: {each.failure.sentence}"
        if seen == knobs:
            for name, margin in goals.margins(each).items():
                margins.setdefault(name, []).append(margin)
    over = [name for name, seen in margins.items() if statistics.fmean(seen) > 0]
    return f"it breaks tuning.limits.{over[0]} as measured here" if over else None


def _engine(knobs: Knobs) -> Knobs:
    return knobs.cold() if knobs.live else knobs


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
