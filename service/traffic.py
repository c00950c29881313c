"""P: request records and the window of traffic that has a class."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from profiles.classes import BYTES_PER_TOKEN, RequestClass, WorkloadClass, load_bin


@dataclass(frozen=True, kw_only=True)
class Record:
    """One finished request, as the gateway reports it; never its text."""

    at: float  # end, seconds since the epoch
    application: str
    request: RequestClass
    outcome: str
    prompt_tokens: int | None
    completion_tokens: int | None
    output_bytes: int
    ttft_s: float | None
    duration_s: float
    held_s: float
    profile: str
    plain: bool  # had min_p or logit_bias

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Self | None:
        """A record from the gateway's JSON; None for requests that have no class."""
        try:
            return cls(
                at=float(raw["at"]),
                application=str(raw["application"]),
                request=RequestClass.parse(str(raw["request_class"])),
                outcome=str(raw["outcome"]),
                prompt_tokens=raw["prompt_tokens"],
                completion_tokens=raw["completion_tokens"],
                output_bytes=int(raw["output_bytes"]),
                ttft_s=raw["ttft_s"],
                duration_s=float(raw["duration_s"]),
                held_s=float(raw["held_s"]),
                profile=str(raw["profile"] or ""),
                plain=bool(raw["plain"]),
            )
        except (KeyError, ValueError, TypeError):
            return None

    @property
    def tokens(self) -> float:
        """Output tokens: as the engine counted, else estimated from bytes."""
        if self.completion_tokens is not None:
            return float(self.completion_tokens)
        return self.output_bytes / BYTES_PER_TOKEN

    @property
    def span(self) -> tuple[float, float]:
        """When it was at the engine, without the time it was held."""
        return self.at - max(self.duration_s - self.held_s, 0.0), self.at


@dataclass(frozen=True, kw_only=True)
class ClassTraffic:
    """One workload class within a window."""

    workload: WorkloadClass
    requests: int
    tokens: float
    share: float  # of the window's output tokens
    tok_s: float  # over the seconds in which the class was busy
    concurrency: float  # mean requests in flight, all classes, while this one ran
    prompt_tokens: int  # median
    output_tokens: int  # median
    applications: Mapping[str, float] = field(default_factory=dict)  # tokens


@dataclass(frozen=True, kw_only=True)
class Window:
    """Traffic of the last minutes."""

    span_s: float
    requests: int
    tok_s: float | None  # over busy seconds; None without traffic
    busy: float  # share of the span with a request at the engine
    classes: tuple[ClassTraffic, ...]  # largest share first
    applications: Mapping[str, float]  # tokens

    @property
    def dominant(self) -> ClassTraffic | None:
        """The class with the largest share of tokens."""
        return self.classes[0] if self.classes else None


def summarise(
    records: Iterable[Record],
    *,
    now: float,
    span_s: float,
    loads: Mapping[RequestClass, str] | None = None,
) -> Window:
    """The window that ends now; `loads` are the bins in force before, for their hysteresis."""
    recent = [r for r in records if now - r.at <= span_s and r.outcome == "ok"]
    spans = [r.span for r in recent]
    busy_s = sum(end - start for start, end in union(spans))
    total = sum(r.tokens for r in recent)
    by_class: dict[RequestClass, list[Record]] = defaultdict(list)
    applications: dict[str, float] = defaultdict(float)
    for record in recent:
        by_class[record.request].append(record)
        applications[record.application] += record.tokens
    in_flight = _Concurrency(spans)
    classes = [
        _class_traffic(request, members, total, in_flight, (loads or {}).get(request))
        for request, members in by_class.items()
    ]
    return Window(
        span_s=span_s,
        requests=len(recent),
        tok_s=total / busy_s if busy_s > 0 else None,
        busy=min(busy_s / span_s, 1.0) if span_s > 0 else 0.0,
        classes=tuple(sorted(classes, key=lambda c: (-c.share, str(c.workload)))),
        applications=dict(applications),
    )


def _class_traffic(
    request: RequestClass,
    members: Sequence[Record],
    total: float,
    in_flight: "_Concurrency",
    previous_load: str | None,
) -> ClassTraffic:
    spans = [r.span for r in members]
    busy_s = sum(end - start for start, end in union(spans))
    tokens = sum(r.tokens for r in members)
    concurrency = in_flight.mean_over(spans)
    applications: dict[str, float] = defaultdict(float)
    for record in members:
        applications[record.application] += record.tokens
    prompts = sorted(r.prompt_tokens or 0 for r in members)
    outputs = sorted(round(r.tokens) for r in members)
    return ClassTraffic(
        workload=WorkloadClass(request=request, load=load_bin(concurrency, previous_load)),
        requests=len(members),
        tokens=tokens,
        share=tokens / total if total > 0 else 0.0,
        tok_s=tokens / busy_s if busy_s > 0 else 0.0,
        concurrency=concurrency,
        prompt_tokens=prompts[len(prompts) // 2],
        output_tokens=outputs[len(outputs) // 2],
        applications=dict(applications),
    )


def union(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The spans merged into disjoint ones, in order."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        elif end > start:
            merged.append((start, end))
    return merged


class _Concurrency:
    """Requests in flight as a step function, integrated once."""

    def __init__(self, spans: Sequence[tuple[float, float]]) -> None:
        edges = sorted([(s, 1) for s, e in spans if e > s] + [(e, -1) for s, e in spans if e > s])
        self._times: list[float] = []
        self._areas: list[float] = []  # integral up to the time
        self._levels: list[int] = []  # level from the time on
        level, area = 0, 0.0
        for time_, change in edges:
            if self._times:
                area += level * (time_ - self._times[-1])
            level += change
            self._times.append(time_)
            self._areas.append(area)
            self._levels.append(level)

    def _area(self, at: float) -> float:
        index = bisect_right(self._times, at) - 1  # the last edge at or before `at`
        if index < 0:
            return 0.0
        return self._areas[index] + self._levels[index] * (at - self._times[index])

    def mean_over(self, spans: Iterable[tuple[float, float]]) -> float:
        """Mean level seen by these spans, each weighted by its length; at least 1 for any span."""
        seconds = area = 0.0
        for start, end in spans:
            seconds += end - start
            area += self._area(end) - self._area(start)
        return area / seconds if seconds > 0 else 1.0
