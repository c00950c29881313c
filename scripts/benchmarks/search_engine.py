"""A published sweep behind the interface of an engine: a start per measurement, with its noise."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from search_landscapes import Landscape

from tuner.drafts import Drafts, predicted

RESTART_S, MEASURE_S = 90.0, 40.0  # of a cold trial of 130 s
START_NOISE = 0.025  # standard deviation of ln tok/s between starts of the same configuration
BLOCK_NOISE, BLOCKS = 0.015, 3
SLOW_SHARE, SLOWNESS = 0.03, 0.10  # of trials, and by how much
TOKENS_NOISE = 0.02  # standard deviation of ln tokens per step between samples of 100 requests


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How measurements scatter."""

    start: float = START_NOISE
    block: float = BLOCK_NOISE
    slow: float = SLOW_SHARE
    tokens: float = TOKENS_NOISE


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one engine start gave."""

    length: int
    log_tok_s: float | None  # None: the start failed
    tokens: Mapping[int, float] = field(default_factory=dict)  # ln tokens per step by draft length


@dataclass(kw_only=True)
class Engine:
    """Starts of one landscape; the n-th start of a length is the same for every method."""

    landscape: Landscape
    seed: int
    noise: Noise = field(default_factory=Noise)
    readings: list[Reading] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """What the starts so far have cost."""
        return len(self.readings) * (RESTART_S + MEASURE_S)

    def measure(self, length: int) -> Reading:
        """One more start."""
        number = sum(1 for each in self.readings if each.length == length)
        rng = random.Random(f"{self.seed}|{self.landscape.name}|{length}|{number}")
        reading = Reading(length=length, log_tok_s=None)
        if length in self.landscape.rates:
            value = math.log(self.landscape.rates[length]) + rng.gauss(0, self.noise.start)
            if rng.random() < self.noise.slow:
                value += math.log1p(-SLOWNESS)
            value += rng.gauss(0, self.noise.block / math.sqrt(BLOCKS))
            tokens = self._tokens(length, rng.gauss(0, self.noise.tokens))
            reading = Reading(length=length, log_tok_s=value, tokens=tokens)
        self.readings.append(reading)
        return reading

    def _tokens(self, length: int, shift: float) -> dict[int, float]:
        """The acceptance counters of this start: its own length, and what they predict."""
        accepted = self.landscape.histograms.get(length)
        found = {}
        if accepted is not None:
            total = sum(accepted)
            drafts = Drafts(
                request_steps=total, drafts=total, drafted=total * length, accepted=accepted
            )
            for k in self.landscape.lengths:
                tokens = predicted(drafts, k) if 0 < k <= length else None
                if tokens:
                    found[k] = math.log(tokens) + shift
        elif length in self.landscape.tokens:
            found[length] = math.log(self.landscape.tokens[length]) + shift
        return found
