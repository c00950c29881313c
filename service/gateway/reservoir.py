"""P: a bounded, expiring sample of requests per class, in memory only."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

BODY_BYTES: Final = 1024 * 1024  # larger requests are not sampled
TOTAL_BYTES: Final = 32 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, repr=False)
class Sample:
    """One request as it came; its repr shows no text."""

    at: float
    endpoint: str
    body: bytes

    def __repr__(self) -> str:
        return f"Sample(endpoint={self.endpoint!r}, body=<{len(self.body)} bytes>)"


@dataclass(kw_only=True)
class _Class:
    seen: float = 0.0  # requests that the samples stand for
    samples: list[Sample] = field(default_factory=list)


class Reservoir:
    """Algorithm R per class: every request of the last `age_s` is equally likely to be kept."""

    def __init__(
        self,
        *,
        per_class: int,
        age_s: float,
        rng: random.Random,
        body_bytes: int = BODY_BYTES,
        total_bytes: int = TOTAL_BYTES,
    ) -> None:
        self._per_class = per_class
        self._age_s = age_s
        self._rng = rng
        self._body_bytes = body_bytes
        self._total_bytes = total_bytes
        self._classes: dict[str, _Class] = {}
        self._size = 0
        self._oldest_at = math.inf  # no sample is older

    def __repr__(self) -> str:
        return f"Reservoir({self._size} bytes in {len(self._classes)} classes)"

    def offer(self, request_class: str, sample: Sample) -> None:
        """Keep this request or not."""
        self._expire(sample.at)
        if len(sample.body) > min(self._body_bytes, self._total_bytes):
            return
        kept = self._classes.setdefault(request_class, _Class())
        kept.seen += 1
        if len(kept.samples) < self._per_class:
            kept.samples.append(sample)
        else:
            place = int(self._rng.random() * kept.seen)
            if place >= self._per_class:
                return
            self._size -= len(kept.samples[place].body)
            kept.samples[place] = sample
        self._size += len(sample.body)
        self._oldest_at = min(self._oldest_at, sample.at)
        while self._size > self._total_bytes:
            self._drop_oldest()

    def samples(self, request_class: str, now: float) -> list[Sample]:
        """What is kept of a class."""
        self._expire(now)
        kept = self._classes.get(request_class)
        return [] if kept is None else list(kept.samples)

    def classes(self, now: float) -> dict[str, int]:
        """How many samples each class has."""
        self._expire(now)
        return {name: len(kept.samples) for name, kept in sorted(self._classes.items())}

    def _expire(self, now: float) -> None:
        if now - self._oldest_at <= self._age_s:
            return  # every request passes here: 768 samples would cost each one 0.03 ms
        for name in list(self._classes):
            kept = self._classes[name]
            for sample in [s for s in kept.samples if now - s.at > self._age_s]:
                self._remove(name, sample)
        self._oldest_at = min((sample.at for _, sample in self._all()), default=math.inf)

    def _remove(self, name: str, sample: Sample) -> None:
        kept = self._classes[name]
        # a sample stands for seen/len requests, which are as old as it is
        kept.seen -= kept.seen / len(kept.samples)
        kept.samples = [other for other in kept.samples if other is not sample]
        self._size -= len(sample.body)
        if not kept.samples:
            del self._classes[name]

    def _drop_oldest(self) -> None:
        name, sample = min(self._all(), key=lambda item: item[1].at)
        self._remove(name, sample)

    def _all(self) -> Iterator[tuple[str, Sample]]:
        for name, kept in self._classes.items():
            for sample in kept.samples:
                yield name, sample
