"""P: what the noise of a platform means for a promotion of one class."""

from collections.abc import Sequence
from dataclasses import dataclass

from profiles.measurement import Measurement
from tuner.calibration import Calibration, SameAgain, calibrate, same_again
from tuner.power import chance, provable


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The calibration that a class goes by, and what the planned pairs can prove with it."""

    scope: str  # "class", or "platform" where the class itself was not repeated enough
    sentence: str
    calibration: Calibration
    default_again: SameAgain | None  # the operator's own configuration against itself
    pairs: int  # of a promotion, as configured
    min_gain: float  # asked for, as configured
    provable_gain: float | None  # found by four of five promotions; None: noise not known yet
    false_promotions: float | None  # share of promotions of a candidate that is no better


def noise(
    measurements: Sequence[Measurement], workload: str, default: str, *, pairs: int, min_gain: float
) -> Noise:
    """The noise of one class among the measurements of its platform.

    `default` is the canonical JSON of the operator's own knobs.
    """
    mine = [row for row in measurements if row.workload == workload]
    scope, found = "class", calibrate(mine)
    if found.one_start is None:
        wider = calibrate(measurements)
        if wider.one_start is not None:
            scope, found = "platform", wider
    known = found.one_start
    deviation = None if known is None else known.deviation
    return Noise(
        scope=scope,
        sentence=found.sentence,
        calibration=found,
        default_again=same_again(mine, default),
        pairs=pairs,
        min_gain=min_gain,
        provable_gain=None
        if deviation is None
        else provable(deviation=deviation, pairs=pairs, min_gain=min_gain),
        false_promotions=None
        if deviation is None
        else chance(0.0, deviation=deviation, pairs=pairs, min_gain=min_gain),
    )
