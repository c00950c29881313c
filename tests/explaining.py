"""Rows of a store, and the decision about them, for tests of explanations."""

import math
import random

from profiles.knobs import Knobs
from profiles.measurement import Block, Failure, FailureKind, Measurement
from profiles.profile import Origin, Profile
from profiles.records import Promotion
from tuner.objective import DEFAULT
from tuner.promotion import Pair, already_best, decide

CODE, CHAT = "greedy.balanced.low", "sampled.balanced.low"
DECIDED_AT = 100.0
OFF = Knobs()


def k(length, **more):
    """Knobs with this draft length."""
    return Knobs(drafter="dflash", draft_length=length, **more)


class Rows:
    """Measurements in the order in which a session writes them; rates in tok/s, exactly."""

    def __init__(self):
        self.rows = []

    def add(self, knobs, rate=None, *, failure=None, workload=CODE, trial=True, **fields):
        """One engine start; with a failure it gave nothing."""
        number = len(self.rows) + 1
        kind = None if failure is None else Failure(kind=failure, sentence="It ran out of memory.")
        base = {"ttft_p95_s": 0.2, "tpot_mean_s": 0.02, "latency_p95_s": 1.0}
        base |= {name: fields.pop(name) for name in (*base, "errors") if name in fields}
        blocks = () if rate is None else (
            Block(seconds=1e4, output_tokens=round(1e4 * rate), requests=9, **base),
        ) * 2  # fmt: skip
        row = Measurement(
            platform="p",
            workload=workload,
            knobs=knobs.canonical(),
            engine_token=f"start-{number}",
            blocks=blocks,
            failure=kind,
            **{"started_at": float(number), **fields},
        )
        self.rows.append((number if trial else None, row))
        return row

    def pairs(self, rates, candidate, *, default=OFF, **fields):
        """A promotion: (default, candidate) rates of each round, None for a start that failed."""
        made = []
        for number, (base, rate) in enumerate(rates, start=1):
            common = {"phase": "promotion", "pair": number}
            one = self.add(default, base, **common)
            broken = {} if rate is not None else {"failure": FailureKind.OOM_SERVE}
            other = self.add(candidate, rate, **common, **broken, **fields)
            made.append(Pair(default=one, candidate=other))
        return made


def decision(made, candidate, *, default=OFF, planned=3, trials=4, at=DECIDED_AT, goals=DEFAULT):
    """The promotion of these pairs and its profile, as a session stores them."""
    verdict = (
        decide(made, min_gain=0.03, planned_pairs=planned, trials=trials, goals=goals)
        if made
        else already_best(trials)
    )
    profile = Profile(
        knobs=candidate if verdict.promote else default,
        platform="p",
        workload=CODE,
        origin=Origin.SEARCH if verdict.promote else Origin.DEFAULT,
        evidence=verdict.evidence,
        created_at=at,
    )
    promotion = Promotion(
        platform="p",
        workload=CODE,
        profile=profile.id,
        kept_default=not verdict.promote,
        at=at,
        evidence=verdict.evidence,
        sentence=verdict.sentence,
    )
    return promotion, profile


def noisy(rate, deviation, rng: random.Random):
    """A rate with log-normal noise."""
    return rate * math.exp(rng.gauss(0, deviation))
