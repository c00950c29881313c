"""Whatever happens in a search, what it recommends has worked and keeps the limits."""

import asyncio
import statistics
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from session_bench import CLASS, HERE, Runner, answer, k, session

from profiles.measurement import FailureKind, Measurement
from service.archive import Archive
from tuner.leader import leader
from tuner.objective import AIMS, Goals
from tuner.observation import Observation
from tuner.promotion import Pair, decide

LIMITS = {
    "ttft_p95_s": 0.5,
    "itl_p99_s": 0.02,
    "temperature_c": 80.0,
    "power_w": 400.0,
    "error_rate": 0.02,
}
LENGTHS = (0, 1, 3, 5, 8)
FAILURES = [kind for kind in FailureKind if kind.blames_knobs]


def figures(low, high):
    """A figure around its limit, or none."""
    return st.one_of(st.none(), st.floats(low, high))


@st.composite
def answers(draw):
    """Whatever one engine start may give."""
    if draw(st.integers(0, 5)) == 0:
        return answer(failure=draw(st.sampled_from(FAILURES)))
    errors = draw(st.sampled_from([0, 0, 0, 1, 20]))
    return answer(
        tok_s=draw(st.floats(1, 1000)),
        errors=errors,
        invalid=f"{errors} requests failed."
        if errors
        else draw(st.sampled_from([None, None, "hot"])),
        ttft_p95_s=draw(figures(0.1, 0.8)),
        tpot_p99_s=draw(figures(0.005, 0.03)),
        latency_p95_s=draw(figures(0.5, 5.0)),
        environment={
            "temperature_c": draw(figures(60, 90)),
            "power_w": draw(figures(200, 500)),
            "energy_j": draw(figures(10, 1000)),
        },
    )


GOALS = st.builds(
    lambda objective, names: Goals(
        objective=objective, limits={name: LIMITS[name] for name in sorted(names)}
    ),
    st.sampled_from(sorted(AIMS)),
    st.sets(st.sampled_from(sorted(LIMITS))),
)


def measurement(length, number, given, phase="search"):
    """A row of the store."""
    return Measurement(
        platform="p", workload=CLASS, knobs=k(length).canonical(), started_at=0.0,
        engine_token=str(number), phase=phase, **given,
    )  # fmt: skip


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(GOALS, st.lists(st.tuples(st.sampled_from(LENGTHS), answers()), max_size=12))
def test_the_recommendation_worked_and_keeps_every_limit_or_is_none(goals, made):
    """Over random histories, objectives and limits; and of those that qualify none is better."""
    rows = [measurement(length, n, given) for n, (length, given) in enumerate(made)]
    found = leader([Observation.of(m, trial=n, goals=goals) for n, m in enumerate(rows)])

    def sound(knobs):
        mine = [m for m in rows if m.knobs == knobs.canonical()]
        seen = [goals.margins(m) for m in mine]
        means = [statistics.fmean(s[name] for s in seen if name in s) for name in goals.limits
                 if any(name in s for s in seen)]  # fmt: skip
        return (
            all(m.failure is None for m in mine)
            and any(goals.score(m) is not None for m in mine)
            and all(mean <= 0 for mean in means)
        )

    qualified = [k(length) for length in LENGTHS if sound(k(length))]
    assert (found in qualified) if qualified else (found is None)


@settings(max_examples=200)
@given(GOALS, st.lists(st.tuples(answers(), answers()), min_size=2, max_size=4))
def test_a_candidate_that_breaks_a_limit_in_any_start_is_never_promoted(goals, made):
    """Nor one with a failed, a void or a missing start."""
    pairs = [
        Pair(
            default=measurement(0, f"d{n}", one, "promotion"),
            candidate=measurement(3, f"c{n}", other, "promotion"),
        )
        for n, (one, other) in enumerate(made)
    ]
    verdict = decide(pairs, min_gain=0.0, planned_pairs=len(pairs), goals=goals, latency_factor=1e9)

    candidates = [pair.candidate for pair in pairs]
    if verdict.promote:
        assert all(each.usable for each in candidates)
        assert all(margin <= 0 for each in candidates for margin in goals.margins(each).values())
        assert sum(goals.score(p.candidate) - goals.score(p.default) for p in pairs) > 0


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(GOALS, st.fixed_dictionaries({length: answers() for length in LENGTHS}))
def test_what_a_session_puts_in_the_store_is_the_default_or_keeps_the_limits(goals, table):
    """The whole way over a real store: never a failed or limit-breaking profile, nor its export."""

    async def run():
        with tempfile.TemporaryDirectory() as folder:
            archive = await Archive.open(Path(folder) / "tuner.sqlite3", goals)
            await archive.call(archive.store.ensure_platform, HERE, at=1.0)
            runner = Runner(archive, lambda length, _: table[length])
            made = session(
                runner, objective=goals.objective, limits=dict(goals.limits), pairs=2, trials=4
            )
            await made.run()
            found = (await archive.promoted(HERE.digest))[CLASS]
            unfit = await archive.unfit(found)
            await archive.close()
            return found, unfit

    found, unfit = asyncio.run(run())
    given = measurement(found.knobs.draft_tokens, 0, table[found.knobs.draft_tokens])

    if found.knobs != k(0):
        assert given.usable
        assert goals.broken([given]) is None
        assert unfit is None
