"""Defects of other tuners that ours must not have: searching, promoting, reporting.

docs/peer-defects.md lists all of them, P1 to P29, with the tests that hold them off.
"""

import pytest
from searching import row, small_space
from session_bench import CLASS, HERE, OOM, SPACE, Runner, answer, k, session

from profiles.knobs import SPECULATIVE_FLAG, Knobs
from profiles.measurement import FailureKind, Measurement
from profiles.profile import Evidence, Origin, Profile
from service.archive import Archive
from tuner.config import Config, EngineConfig
from tuner.design import design
from tuner.leader import estimates, leader
from tuner.objective import Goals
from tuner.observation import Observation
from tuner.promotion import Pair, decide
from tuner.search import Budget, Candidate, Stop, _rows, next_candidate
from tuner.space import build_space

CRASH = answer(failure=FailureKind.CRASH)
PEAK = {0: 100.0, 1: 130.0, 3: 200.0, 5: 160.0, 8: 110.0}


@pytest.fixture
async def archive(tmp_path):
    opened = await Archive.open(tmp_path / "tuner.sqlite3")
    await opened.call(opened.store.ensure_platform, HERE, at=1.0)
    yield opened
    await opened.close()


def measured(length, token, **given):
    """A row of the store."""
    return Measurement(
        platform="p", workload=CLASS, knobs=k(length).canonical(), started_at=0.0,
        engine_token=token, **given,
    )  # fmt: skip


async def test_p01_a_crash_is_never_the_best_latency(archive):
    """vllm-tuner scored a crash 0.0 and minimised: its three crashes were its three best trials."""
    goals = Goals(objective="p95_latency")
    archive.goals = goals

    def engine(length, _):
        return OOM if length == 8 else answer(latency_p95_s=2.0 - 0.2 * length)

    verdicts = await session(Runner(archive, engine), objective="p95_latency").run()
    rows = await archive.measurements(HERE.digest, CLASS)
    history = [Observation.of(m, trial=n, goals=goals) for n, m in enumerate(rows)]

    assert k(5) == leader(history)
    assert verdicts[CLASS].sentence.startswith("ngram k=5: -50.0 % p95 latency")
    told = _rows(history, alive=True)
    crashed = [each.value for each in told if each.knobs == k(8)]
    assert crashed
    assert set(crashed) == {min(each.value for each in told)}


@pytest.mark.parametrize(
    ("objective", "better", "worse"),
    [
        ("tok_s", answer(tok_s=200), answer(tok_s=100)),
        ("p95_latency", answer(latency_p95_s=0.5), answer(latency_p95_s=1.0)),
        (
            "tok_per_joule",
            answer(environment={"energy_j": 50.0}),
            answer(environment={"energy_j": 100.0}),
        ),
    ],
)
async def test_p02_the_better_point_wins_under_every_objective(archive, objective, better, worse):
    """vllm-optimizer minimised a negated latency: it chose the highest p99 that it could find."""
    archive.goals = Goals(objective=objective)
    runner = Runner(archive, lambda length, _: better if length == 5 else worse)
    await session(runner, objective=objective).run()

    promoted = (await archive.promoted(HERE.digest))[CLASS]
    assert k(5) == promoted.knobs
    assert 1.0 == pytest.approx(promoted.evidence.gain)


async def test_p03_what_breaks_a_limit_does_not_win_and_is_not_started_again(archive):
    """vllm-tuner ran three points beyond a declared constraint, and one of them won."""
    limits = {"temperature_c": 80.0}
    archive.goals = Goals(limits=limits)
    runner = Runner(
        archive,
        lambda length, _: answer(
            tok_s=PEAK[length], environment={"temperature_c": 90.0 if length == 3 else 70.0}
        ),
    )
    await session(runner, limits=limits).run()

    assert k(5) == (await archive.promoted(HERE.digest))[CLASS].knobs
    assert (1, 0) == (runner.tried().count(3), runner.tried("promotion").count(3))


def test_p03_what_is_known_to_fail_is_not_started():
    """The same declared bound: what is beyond a drafter or behind a failure is never suggested."""
    space = small_space(draft_lengths=(3, 40), max_num_seqs=(16, 64, 256))
    assert {0, 3} == {point.draft_tokens for point in space.points()}

    failed = Knobs(max_num_seqs=64)
    history = [row(1, Knobs(max_num_seqs=16), rate=100.0),
               row(2, failed, failure=FailureKind.OOM_LOAD)]  # fmt: skip
    starts = design(space, Knobs(), [], size=3)
    budget = Budget(trials=40, failures=20)
    while isinstance(
        found := next_candidate(history, space, starts, seed=1, budget=budget, gaussian=False),
        Candidate,
    ):
        assert found.knobs != failed
        assert (found.knobs.max_num_seqs, found.knobs.draft_tokens) != (256, 0)
        history.append(row(len(history) + 1, found.knobs, rate=100.0 + len(history)))


class KilledError(Exception):
    """The daemon ends here."""


async def test_p05_a_resumed_session_goes_on_with_the_same_question_and_count(archive, tmp_path):
    """vllm-tuner resumed with a model called "unknown": asked for two trials, it ran eight."""
    other = await Archive.open(tmp_path / "uninterrupted.sqlite3")
    await other.call(other.store.ensure_platform, HERE, at=1.0)
    whole = Runner(other, lambda length, _: answer(tok_s=PEAK[length]))
    await session(whole).run()
    await other.close()

    def dying(length, number):
        if number == 3:
            raise KilledError
        return answer(tok_s=PEAK[length])

    first = Runner(archive, dying, starts="first")
    with pytest.raises(KilledError):
        await session(first).run()
    second = Runner(archive, lambda length, _: answer(tok_s=PEAK[length]), starts="second")
    await session(second).run()

    cut, resumed = first.plans[2], second.plans[0]
    assert (cut.knobs, cut.study, cut.platform) == (resumed.knobs, resumed.study, resumed.platform)
    assert len(whole.tried()) == len(first.tried()[:2]) + len(second.tried())
    assert k(3) == (await archive.promoted(HERE.digest))[CLASS].knobs


@pytest.mark.parametrize("origin", list(Origin))
async def test_p06_what_crashed_is_not_exported_and_not_applied(archive, origin):
    """vllm-tuner exported `max_num_seqs: 32`, which cannot start, as its best trial."""
    runner = Runner(archive, lambda length, _: OOM if length == 3 else answer(tok_s=PEAK[length]))
    await session(runner).run()
    crashed = Profile(
        knobs=k(3), platform=HERE.digest, workload=CLASS, origin=origin, evidence=Evidence()
    )

    assert "it failed here: It ended with oom_load." == await archive.unfit(crashed)
    assert k(3) not in {p.knobs for p in (await archive.promoted(HERE.digest)).values()}
    if origin is Origin.SEARCH:
        assert await archive.refusal(crashed) is not None


def test_p08_no_configuration_is_tried_twice_as_new():
    """auto-tune-vllm compared an empty dict with its history, so every duplicate was run again."""
    space = small_space(draft_lengths=(1, 2, 3, 4), max_num_seqs=(16, 64))
    starts = design(space, Knobs(), [], size=4)
    history = []
    while isinstance(
        found := next_candidate(
            history, space, starts, seed=0, budget=Budget(trials=99, failures=9), gaussian=False
        ),
        Candidate,
    ):
        assert found.knobs not in {seen.knobs for seen in history}
        history.append(row(len(history) + 1, found.knobs, rate=100.0 * 1.2 ** len(history)))

    assert isinstance(found, Stop)
    assert len(space.points()) == len(history)
    again = [*history, row(99, history[0].knobs, rate=101.0)]
    assert 2 == next(e.starts for e in estimates(again) if e.knobs == history[0].knobs)


async def test_p11_a_session_in_which_everything_fails_ends_in_a_sentence(archive):
    """auto-tune-vllm ended an all-failed study with the traceback `Record does not exist`."""
    runner = Runner(archive, lambda *_: CRASH)
    made = session(runner)
    verdict = (await made.run())[CLASS]

    count = len(runner.tried())
    assert (
        f"kept the default: none of {count} trials gave a usable measurement " in verdict.sentence
    )
    assert f"({count} x crash)" in verdict.sentence
    assert "`tuner trials` has the reasons" in verdict.sentence
    assert not verdict.promote
    assert "every class has its verdict" == made.progress.sentence


async def test_p13_a_default_that_is_best_is_kept(archive):
    """vllm-tuner reported a winner that was 3 % worse than its own baseline."""
    runner = Runner(archive, lambda length, _: answer(tok_s=100.0 - length))
    verdict = (await session(runner).run())[CLASS]

    assert not verdict.promote
    assert "your configuration is already the best of 5 tried" == verdict.sentence
    assert Knobs() == (await archive.promoted(HERE.digest))[CLASS].knobs


async def test_p14_store_progress_verdict_and_history_name_one_best(archive):
    """vllm-tuner had three different best trials in database, terminal and report of one run."""
    # within 1 % the smaller draft length wins: a plain maximum would be another "best"
    tied = PEAK | {5: 201.0}
    made = session(Runner(archive, lambda length, _: answer(tok_s=tied[length])))
    verdict = (await made.run())[CLASS]
    events = await archive.call(archive.store.events)

    label = "ngram k=3"
    assert label == made.progress.best[CLASS]["label"]
    assert verdict.sentence.startswith(f"{label}: ")
    promoted = (await archive.promoted(HERE.digest))[CLASS]
    assert label == promoted.knobs.label()
    assert promoted.evidence.sentence == verdict.sentence
    assert f"{CLASS}: {verdict.sentence}" == events[0].sentence


@pytest.mark.parametrize("live", [True, False])
def test_p15_a_model_alone_has_something_to_search(live):
    """vllm-tuner's quick start ran fifty trials of one and the same configuration."""
    config = Config(engine=EngineConfig(model="org/model"))
    space = build_space(
        config.tuning.space,
        config.drafter_map,
        frozenset({SPECULATIVE_FLAG, "--model", "--uds", "--scheduler-cls"}),
        config.engine.default,
        live=live,
    )

    assert len(set(space.points())) == len(space.points()) > 1
    assert any(point.speculating for point in space.points())


async def test_p16_an_engine_that_did_nothing_is_no_success(archive):
    """vllm-tuner's Ray backend reported finished trials without starting anything."""
    runner = Runner(archive, lambda *_: {"blocks": ()})
    made = session(runner)
    verdict = (await made.run())[CLASS]

    assert not verdict.promote
    assert "gave a usable measurement (no tokens)" in verdict.sentence
    assert {} == made.progress.best
    rows = await archive.measurements(HERE.digest, CLASS)
    assert {None} == {each.tok_s for each in rows}


async def test_p18_a_crashed_default_is_said_and_never_compared_with(archive):
    """vllm-tuner reported a crashed baseline as 0.00, and "0.0 % change" against it."""
    runner = Runner(archive, lambda length, _: CRASH if length == 0 else answer(tok_s=PEAK[length]))
    verdict = (await session(runner).run())[CLASS]

    assert not verdict.promote
    assert (
        "kept the default: 0 of 3 start pairs gave a usable measurement "
        "(your configuration: It ended with crash)" == verdict.sentence
    )
    assert (None, None) == (verdict.evidence.gain, verdict.evidence.default_tok_s)


def test_p29_a_load_that_the_engine_did_not_feel_claims_no_gain():
    """SLOTune offered 8 requests/s to a server that took 28: no setting could show a gain."""
    idle = "The load was not steady: 3.1 of 16 requests in flight."
    pairs = [
        Pair(
            default=measured(0, f"d{n}", **answer(tok_s=100, invalid=idle)),
            candidate=measured(3, f"c{n}", **answer(tok_s=200, invalid=idle)),
        )
        for n in range(3)
    ]
    verdict = decide(pairs, min_gain=0.03, planned_pairs=3)

    assert not verdict.promote
    assert verdict.evidence.gain is None
    assert "3.1 of 16 requests in flight" in verdict.sentence


def test_the_bench_has_what_these_tests_need():
    """The space of the sessions: off and four draft lengths."""
    assert {k(length) for length in PEAK} == set(SPACE.points())
