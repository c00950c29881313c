"""Sessions that pursue each objective and keep each limit, over a real store."""

import pytest
from session_bench import CLASS, HERE, OOM, Runner, answer, k, session

from profiles.knobs import Knobs
from profiles.profile import Evidence, Origin, Profile
from service.archive import Archive
from tuner.leader import leader
from tuner.objective import Goals
from tuner.observation import Observation
from tuner.promotion import Pair, decide

# by draft length: tok/s, joules of the measurement and p95 latency have different winners
TOK_S = {0: 100.0, 1: 130.0, 3: 200.0, 5: 160.0, 8: 110.0}
TOK_PER_JOULE = {0: 2.0, 1: 4.0, 3: 1.0, 5: 1.5, 8: 1.2}
LATENCY_S = {0: 2.0, 1: 1.6, 3: 1.8, 5: 0.9, 8: 2.5}
WINNERS = {"tok_s": 3, "tok_per_joule": 1, "p95_latency": 5}
SAID = {
    "tok_s": "ngram k=3: +100.0 % tok/s [+100.0, +100.0] over 3 start pairs",
    "tok_per_joule": "ngram k=1: +100.0 % tokens per joule [+100.0, +100.0] over 3 start pairs",
    "p95_latency": "ngram k=5: -55.0 % p95 latency [-55.0, -55.0] over 3 start pairs",
}
# shrunk a little towards the mean of what was tried
SHOWN = {
    "tok_s": "199.5 tok/s",
    "tok_per_joule": "3.995 tok/J",
    "p95_latency": "0.9018 s p95 latency",
}


def engine(length, _):
    """Every figure at once."""
    tokens = 10 * TOK_S[length]
    return answer(
        tok_s=TOK_S[length],
        latency_p95_s=LATENCY_S[length],
        environment={"energy_j": tokens / TOK_PER_JOULE[length]},
    )


@pytest.fixture
def opened(tmp_path):
    """Open the one store under some goals."""
    archives = []

    async def open_archive(goals=Goals()):  # noqa: B008 - frozen
        archive = await Archive.open(tmp_path / "tuner.sqlite3", goals)
        await archive.call(archive.store.ensure_platform, HERE, at=1.0)
        archives.append(archive)
        return archive

    return open_archive


@pytest.mark.parametrize("objective", WINNERS)
async def test_the_better_point_wins_search_and_promotion(opened, objective):
    """The sign of every objective, from the first start to the sentence."""
    archive = await opened(Goals(objective=objective))
    made = session(Runner(archive, engine), objective=objective)
    verdicts = await made.run()

    promoted = (await archive.promoted(HERE.digest))[CLASS]
    assert WINNERS[objective] == promoted.knobs.draft_length
    assert SAID[objective] == verdicts[CLASS].sentence
    assert promoted.evidence.gain > 0
    assert objective == promoted.evidence.objective
    assert f"ngram k={WINNERS[objective]}" == made.progress.best[CLASS]["label"]
    assert SHOWN[objective] == made.progress.best[CLASS]["figure"]
    await archive.close()


@pytest.mark.parametrize("objective", WINNERS)
async def test_the_worse_point_is_never_promoted(opened, objective):
    """With the arms exchanged the same figures are a loss: the sign once more."""
    archive = await opened(Goals(objective=objective))
    best = k(WINNERS[objective])
    runner = Runner(archive, engine)
    verdicts = await session(runner, objective=objective, default=best).run()

    assert not verdicts[CLASS].promote
    assert verdicts[CLASS].sentence.startswith("your configuration is already the best of")
    await archive.close()


@pytest.mark.parametrize("objective", WINNERS)
def test_a_promotion_calls_the_worse_arm_a_loss(objective):
    """A leader that was lucky in the search is found out by its sign."""
    from profiles.measurement import Measurement

    def row(length, n):
        return Measurement(
            platform="p", workload=CLASS, knobs=k(length).canonical(), started_at=0.0,
            engine_token=f"{length}-{n}", **engine(length, n),
        )  # fmt: skip

    best = WINNERS[objective]
    goals = Goals(objective=objective)
    pairs = [Pair(default=row(best, n), candidate=row(8, n)) for n in range(3)]
    verdict = decide(pairs, min_gain=0.0, planned_pairs=3, goals=goals, latency_factor=99)

    assert not verdict.promote
    assert verdict.sentence.endswith("is a loss")


@pytest.mark.parametrize(
    ("limits", "broken"),
    [
        ({"ttft_p95_s": 0.5}, {"ttft_p95_s": 0.6}),
        ({"itl_p99_s": 0.02}, {"tpot_p99_s": 0.03}),
        ({"temperature_c": 80.0}, {"environment": {"temperature_c": 81.0}}),
        ({"power_w": 400.0}, {"environment": {"power_w": 420.0}}),
        ({"error_rate": 0.05}, {"errors": 5, "invalid": "5 of 55 requests failed."}),
    ],
)
async def test_what_breaks_a_limit_never_wins(opened, limits, broken):
    """The fastest point breaks one limit each: the next best one is promoted."""
    archive = await opened(Goals(limits=limits))
    kept = {"environment": {"temperature_c": 70.0, "power_w": 300.0}}

    def hot(length, _):
        return answer(tok_s=TOK_S[length], **(broken if length == 3 else kept))

    runner = Runner(archive, hot)
    verdicts = await session(runner, limits=limits).run()

    assert 3 in runner.tried()
    assert 3 not in runner.tried("promotion")
    assert verdicts[CLASS].promote
    assert 5 == (await archive.promoted(HERE.digest))[CLASS].knobs.draft_length
    assert 1 == runner.tried().count(3)  # it has said what it had to say
    await archive.close()


async def test_a_limit_that_breaks_only_in_the_promotion_refuses(opened):
    """It looked cool during the search; one hot start of the promotion is enough."""
    archive = await opened(Goals(limits={"temperature_c": 80.0}))

    def warming(length, number):
        heat = 90.0 if length == 3 and number > 9 else 60.0
        return answer(tok_s=TOK_S[length], environment={"temperature_c": heat})

    verdicts = await session(Runner(archive, warming), limits={"temperature_c": 80.0}).run()

    assert not verdicts[CLASS].promote
    assert (
        "with the candidate 90 °C breaks limits.temperature_c = 80 °C" in verdicts[CLASS].sentence
    )
    assert Knobs() == (await archive.promoted(HERE.digest))[CLASS].knobs
    await archive.close()


async def test_nothing_within_the_limits_is_said(opened):
    """Not "already the best": the operator's own configuration breaks the limit as well."""
    archive = await opened(Goals(limits={"ttft_p95_s": 0.1}))
    runner = Runner(archive, lambda length, _: answer(tok_s=TOK_S[length], ttft_p95_s=0.3))
    verdicts = await session(runner, limits={"ttft_p95_s": 0.1}).run()

    assert "kept the default: none of 5 trials worked and kept tuning.limits.ttft_p95_s" == (
        verdicts[CLASS].sentence
    )
    assert [] == runner.tried("promotion")
    await archive.close()


async def test_a_default_that_breaks_a_limit_is_named_when_it_is_kept(opened):
    """The operator learns why the limit is not kept although a session has ended."""
    limits = {"ttft_p95_s": 0.5}
    archive = await opened(Goals(limits=limits))

    def late(length, _):
        return answer(tok_s=TOK_S[length], ttft_p95_s=0.7 if length == 3 else 0.4)

    made = session(Runner(archive, late), limits=limits, default=k(3))
    verdict = (await made.run())[CLASS]

    assert not verdict.promote
    assert verdict.sentence.endswith(
        "is a loss; your configuration itself: 0.7 s breaks limits.ttft_p95_s = 0.5 s"
    )
    await archive.close()


async def test_other_goals_void_verdicts_and_keep_rows(opened):
    """The class is tuned anew; what was measured is scored by the new objective."""
    first = await opened()
    await session(Runner(first, engine)).run()
    rows = len(await first.measurements(HERE.digest, CLASS))
    assert {CLASS} == set(await first.promoted(HERE.digest))
    await first.close()

    second = await opened(Goals(objective="p95_latency"))
    assert {} == await second.promoted(HERE.digest)
    assert rows == len(await second.measurements(HERE.digest, CLASS))

    runner = Runner(second, engine, starts="second")
    await session(runner, objective="p95_latency").run()
    # every point of the space has its row: only the promotion needs new starts
    assert [] == runner.tried()
    assert [0, 0, 0, 5, 5, 5] == sorted(runner.tried("promotion"))
    assert 5 == (await second.promoted(HERE.digest))[CLASS].knobs.draft_length
    await second.close()


async def test_rows_without_the_figure_say_nothing(opened):
    """A store of an older tunerd has no latencies: those points are measured again."""
    archive = await opened(Goals(objective="p95_latency"))
    old = Runner(archive, lambda length, _: answer(tok_s=TOK_S[length]))
    await session(old, pairs=2).run()
    runner = Runner(archive, engine, starts="second")
    await session(runner, objective="p95_latency").run()

    assert 5 == (await archive.promoted(HERE.digest))[CLASS].knobs.draft_length
    assert {0, 5} < set(runner.tried())
    await archive.close()


def profile(knobs, origin=Origin.SEARCH, **fields):
    """A stored profile of the class."""
    return Profile(
        knobs=knobs, platform=HERE.digest, workload=CLASS, origin=origin, evidence=Evidence(),
        **fields,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("origin", "may_use", "may_export"),
    [(Origin.SEARCH, False, False), (Origin.IMPORT, True, False), (Origin.DEFAULT, True, False)],
)
@pytest.mark.parametrize("limits", [{}, {"ttft_p95_s": 0.5}])
async def test_a_failed_or_limit_breaking_profile_is_not_handed_on(
    opened, origin, may_use, may_export, limits
):
    """Exported never; chosen by hand only when it is the operator's own doing."""
    archive = await opened(Goals(limits=limits))
    bad = answer(ttft_p95_s=0.6) if limits else OOM
    runner = Runner(archive, lambda length, _: bad if length == 3 else answer(ttft_p95_s=0.1))
    await session(runner, limits=limits).run()
    found = profile(k(3), origin)

    assert may_use == (await archive.refusal(found) is None)
    assert may_export == (await archive.unfit(found) is None)
    assert await archive.unfit(profile(k(1), origin)) is None
    await archive.close()


@pytest.mark.parametrize("origin", [Origin.SEARCH, Origin.IMPORT])
async def test_a_profile_in_quarantine_is_refused_by_hand_too(opened, origin):
    """It did harm on real traffic; an import gets no second chance either."""
    archive = await opened()
    await archive.call(
        archive.store.quarantine, k(3), platform=HERE.digest, reason="died", at=1.0, until=None
    )

    assert "it did harm here and is in quarantine" == await archive.refusal(profile(k(3), origin))
    assert "it did harm here and is in quarantine" == await archive.unfit(profile(k(3), origin))
    await archive.close()


def test_the_leader_of_each_objective_is_another():
    """The same rows recommend three configurations, each the best by its own figure."""
    from profiles.measurement import Measurement

    rows = [
        Measurement(
            platform="p", workload=CLASS, knobs=k(length).canonical(), started_at=0.0,
            engine_token=str(length), **engine(length, 0),
        )
        for length in TOK_S
    ]  # fmt: skip
    found = {
        objective: leader(
            [
                Observation.of(m, trial=n, goals=Goals(objective=objective))
                for n, m in enumerate(rows)
            ]
        )
        for objective in WINNERS
    }

    assert {objective: k(length) for objective, length in WINNERS.items()} == found
