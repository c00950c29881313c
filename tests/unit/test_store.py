import sqlite3
import threading
from contextlib import closing

import pytest
from sqlalchemy import text
from sqlalchemy.event import listen

from profiles import history
from profiles.errors import ConflictError, NotFoundError, StoreError
from profiles.knobs import Knobs
from profiles.measurement import Block, Failure, FailureKind, Measurement
from profiles.platform import fingerprint
from profiles.profile import Evidence, Origin, Profile
from profiles.records import Account, Applied, Event, StayKind, TrialStatus
from profiles.store import Store

HERE = fingerprint(vllm="0.32.0", model="org/m", model_revision=None, drafters={}, cpu="Xeon")
ELSEWHERE = fingerprint(vllm="0.32.0", model="org/m", model_revision=None, drafters={}, cpu="EPYC")
CLASS = "greedy.balanced.low"
DRAFTING = Knobs(drafter="dflash", draft_length=8)


def profile(length=8, *, platform=HERE, workload=CLASS):
    """A searched profile with this draft length."""
    return Profile(
        knobs=Knobs(drafter="dflash", draft_length=length),
        platform=platform.digest,
        workload=workload,
        origin=Origin.SEARCH,
        created_at=float(length),
    )


def measurement(**fields):
    """A measurement on this platform, with what the test is about."""
    base = {
        "platform": HERE.digest,
        "workload": CLASS,
        "knobs": DRAFTING.canonical(),
        "started_at": 1.0,
        "engine_token": "token",
        "blocks": (Block(seconds=2.0, output_tokens=100, requests=3),),
    }
    return Measurement(**(base | fields))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "tuner.sqlite3"


@pytest.fixture
def store(path):
    with Store.open(path, now=1.0) as opened:
        opened.ensure_platform(HERE, at=1.0)
        yield opened


def open_trial(store, **fields):
    """An open trial, with what the test is about."""
    base = {
        "study": "s",
        "platform": HERE.digest,
        "workloads": [CLASS],
        "knobs": DRAFTING,
        "why": "Default first.",
        "at": 2.0,
    }
    return store.open_trial(**(base | fields))


def promote(store, found, **fields):
    """Promote a profile for its own class."""
    base = {
        "platform": HERE.digest,
        "workload": found.workload,
        "profile": found.id,
        "evidence": Evidence(gain=0.4),
        "sentence": "It is faster.",
        "at": 3.0,
    }
    return store.promote(**(base | fields))


# -- durability ------------------------------------------------------------------------------


def test_decisions_are_synced_fully_and_the_rest_normally(store):
    """`PRAGMA synchronous` inside the very transactions: 2 is FULL, 1 is NORMAL."""
    with store.database.durable() as session:
        assert 2 == session.execute(text("PRAGMA synchronous")).scalar()
    with store.database.ordinary() as session:
        assert 1 == session.execute(text("PRAGMA synchronous")).scalar()


def test_each_method_uses_the_connection_that_its_promise_needs(store, monkeypatch):
    """Profiles, promotions, quarantines, pins and what is in force go through the durable one."""
    found = profile()
    used = []
    for name in ("durable", "ordinary"):
        original = getattr(store.database, name)
        monkeypatch.setattr(
            store.database,
            name,
            lambda name=name, original=original: used.append(name) or original(),
        )

    store.put_profile(found)
    promote(store, found)
    store.quarantine(DRAFTING, platform=HERE.digest, reason="It died.", at=1.0, until=None)
    store.set_pin("agent", found.id, platform=HERE.digest, at=1.0)
    store.set_in_force(found.id, why="It won.", at=1.0)
    store.release(HERE.digest, DRAFTING)
    store.unset_pin("agent")
    assert ["durable"] * 7 == used
    used.clear()

    trial = open_trial(store)
    store.add_measurement(measurement(), trial=trial)
    store.close_trial(trial, status=TrialStatus.DONE, at=3.0)
    store.add_event("trial", "Done.", at=3.0)
    assert ["ordinary"] * 4 == used


def test_every_connection_waits_and_checks_foreign_keys(store):
    """A second writer is waited for, and a row cannot refer to nothing."""
    for transaction in (store.database.durable, store.database.ordinary, store.database.read):
        with transaction() as session:
            assert 5000 == session.execute(text("PRAGMA busy_timeout")).scalar()
            assert 1 == session.execute(text("PRAGMA foreign_keys")).scalar()


def test_a_writer_takes_the_lock_before_it_reads(path, store):
    """BEGIN IMMEDIATE: while one writes, another cannot even begin, but readers can."""
    with closing(Store.open(path, now=1.0)) as other:
        for connect in (other.database._ordinary, other.database._durable):
            with connect.connect() as connection:
                connection.connection.driver_connection.execute("PRAGMA busy_timeout=20")
        with store.database.ordinary() as session:
            session.connection()

            assert [] == other.pins()
            with pytest.raises(StoreError, match="another process holds it") as caught:
                other.add_event("x", "y", at=1.0)

    assert caught.value.retryable


def test_a_writer_that_finds_the_store_busy_gets_through_when_it_is_free(path, store):
    """A short lock of another process costs a wait, not an error."""
    with closing(Store.open(path, now=1.0)) as other:
        holding = threading.Event()

        def hold():
            with other.database.durable():
                holding.set()
                threading.Event().wait(0.3)

        thread = threading.Thread(target=hold)
        thread.start()
        holding.wait()
        store.add_event("switch", "Waited.", at=1.0)
        thread.join()

    assert "Waited." == store.events()[0].sentence


def test_two_writers_lose_no_update(path, store):
    """Two stores that count on the same row at once end with the sum."""

    def count(which):
        for number in range(30):
            which.quarantine(
                DRAFTING, platform=HERE.digest, reason="x", at=float(number), until=None
            )

    with closing(Store.open(path, now=1.0)) as other:
        threads = [threading.Thread(target=count, args=(which,)) for which in (store, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert 60 == store.quarantine_count(HERE.digest, DRAFTING)


def test_one_store_serves_several_threads_one_after_the_other(store):
    """The worker thread need not always be the same one."""
    threads = [
        threading.Thread(
            target=lambda number=number: [
                store.add_event("x", f"{number}.{each}", at=1.0) for each in range(20)
            ]
        )
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 80 == len({event.sentence for event in store.events(limit=200)})


def test_a_failed_transaction_leaves_nothing(store):
    """All of a method is stored, or nothing of it."""

    def fail_half_way():
        with store.database.ordinary() as session:
            session.execute(text("INSERT INTO event VALUES (NULL, 1.0, 'x', 'y')"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert [] == store.events()


def test_a_closed_store_says_so(store):
    """A use after the end is an error, not a silent new connection."""
    store.close()

    with pytest.raises(StoreError, match="closed"):
        store.events()


# -- history ---------------------------------------------------------------------------------


def test_a_platform_is_kept_once_and_comes_back_equal(store):
    """The same fingerprint is the same row, with its first time."""
    assert HERE.digest == store.ensure_platform(HERE, at=9.0)
    assert ELSEWHERE.digest == store.ensure_platform(ELSEWHERE, at=2.0)

    assert [HERE, ELSEWHERE] == store.platforms()


def test_a_trial_is_opened_then_closed_once(store):
    """An end is final, and keeps the failure with its evidence."""
    trial = open_trial(store)
    failure = Failure(kind=FailureKind.OOM_LOAD, sentence="No memory.", evidence="CUDA out of")
    [before] = store.trials()
    store.close_trial(trial, status=TrialStatus.FAILED, at=5.0, failure=failure)
    [after] = store.trials()

    assert (TrialStatus.OPEN, None, None) == (before.status, before.closed_at, before.failure)
    assert (TrialStatus.FAILED, 5.0, failure) == (after.status, after.closed_at, after.failure)
    assert (DRAFTING, (CLASS,), "s") == (after.knobs, after.workloads, after.study)
    with pytest.raises(ConflictError, match="it is failed"):
        store.close_trial(trial, status=TrialStatus.DONE, at=6.0)


def test_a_trial_cannot_be_closed_as_open(store):
    """Open is where a trial begins, never where it ends."""
    with pytest.raises(ConflictError):
        store.close_trial(open_trial(store), status=TrialStatus.OPEN, at=3.0)


def test_trials_of_a_dead_daemon_are_swept(store):
    """Open trials become interrupted with the reason, and closed ones stay as they are."""
    done, first, second = (open_trial(store) for _ in range(3))
    store.close_trial(done, status=TrialStatus.DONE, at=3.0)

    assert 2 == store.sweep_open_trials("The daemon was killed.", at=9.0)
    assert 0 == store.sweep_open_trials("The daemon was killed.", at=10.0)
    by_id = {trial.id: trial for trial in store.trials()}
    assert TrialStatus.DONE == by_id[done].status
    for trial in (by_id[first], by_id[second]):
        assert (TrialStatus.INTERRUPTED, 9.0) == (trial.status, trial.closed_at)
        assert FailureKind.INTERRUPTED == trial.failure.kind
        assert not trial.failure.kind.blames_knobs


def test_trials_come_newest_first_and_can_be_narrowed(store):
    """A search finds its own trials again, and people see the latest."""
    store.ensure_platform(ELSEWHERE, at=1.0)
    first, second = open_trial(store), open_trial(store, study="t")
    third = open_trial(store, platform=ELSEWHERE.digest)

    assert [third, second] == [trial.id for trial in store.trials(limit=2)]
    assert [second] == [trial.id for trial in store.trials(study="t")]
    assert [second, first] == [trial.id for trial in store.trials(platform=HERE.digest)]


def test_measurements_come_back_equal_oldest_first(store):
    """What was measured is what is read, failures included."""
    failure = Failure(kind=FailureKind.CRASH, sentence="It ended.")
    trial = open_trial(store)
    every = [
        measurement(),
        measurement(workload="sampled.balanced.low"),
        measurement(phase="promotion", pair=0),
        measurement(blocks=(), failure=failure),
    ]
    for each in every[:3]:
        store.add_measurement(each)
    store.add_measurement(every[3], trial=trial)

    assert every == store.measurements(HERE.digest)
    assert [every[1]] == store.measurements(HERE.digest, "sampled.balanced.low")
    assert [every[2]] == store.measurements(HERE.digest, CLASS, phase="promotion")
    assert [every[3]] == store.measurements(HERE.digest, trial=trial)
    assert [] == store.measurements(ELSEWHERE.digest)


def test_measurements_and_profiles_cannot_be_changed(store):
    """The database itself refuses, so that append-only holds for any code."""
    store.add_measurement(measurement())
    store.put_profile(profile())

    for table in ("measurement", "profile"):
        with (
            pytest.raises(ConflictError, match="never changed"),
            store.database.ordinary() as session,
        ):
            session.execute(text(f"UPDATE {table} SET workload = 'x'"))


def test_a_row_that_refers_to_nothing_is_refused(store):
    """An unknown platform or trial is named, and nothing is stored."""
    with pytest.raises(NotFoundError, match=ELSEWHERE.digest):
        store.add_measurement(measurement(platform=ELSEWHERE.digest))
    with pytest.raises(NotFoundError, match="trial 7"):
        store.add_measurement(measurement(), trial=7)
    with pytest.raises(NotFoundError, match=ELSEWHERE.digest):
        open_trial(store, platform=ELSEWHERE.digest)
    with pytest.raises(NotFoundError, match="trial 7"):
        store.close_trial(7, status=TrialStatus.DONE, at=1.0)

    assert [] == store.measurements(HERE.digest)
    assert [] == store.trials()


def test_events_come_newest_first(store):
    """History shows what happened last."""
    for number in range(3):
        store.add_event("switch", f"Event {number}.", at=float(number))

    assert [
        Event(at=2.0, kind="switch", sentence="Event 2."),
        Event(at=1.0, kind="switch", sentence="Event 1."),
    ] == store.events(limit=2)


def test_old_events_are_forgotten(store, monkeypatch):
    """A service that runs for years keeps the latest events, not all of them."""
    monkeypatch.setattr(history, "EVENTS_KEPT", 20)
    monkeypatch.setattr(history, "EVENTS_SPARE", 5)
    for number in range(1, 104):
        store.add_event("switch", f"Event {number}.", at=float(number))
    found = [event.at for event in store.events(limit=1000)]

    assert [float(number) for number in range(103, 80, -1)] == found


def test_a_start_reads_no_whole_table(store):
    """F66: with 100 000 trials a daemon is ready as soon as with none; SQLite says how it looks."""
    asked = []
    for engine in (store.database._ordinary, store.database._durable):
        listen(engine, "before_cursor_execute", lambda *call: asked.append(call[2:4]))
    store.sweep_open_trials("ended", at=1.0)
    store.promotions(HERE.digest)
    store.quarantined(HERE.digest, 1.0)
    store.trials(limit=100)
    store.events(limit=8)
    store.in_force()
    questions = [(words, given) for words, given in asked if words.startswith("SELECT")]
    plans = []
    with closing(sqlite3.connect(store.path)) as link:
        for words, given in questions:
            rows = link.execute(f"EXPLAIN QUERY PLAN {words}", given)
            plans += [(detail, "LIMIT" in words) for *_, detail in rows]
    growing = ("trial", "measurement", "event", "in_force")

    assert len(questions) >= 6
    assert [] == [
        detail
        for detail, limited in plans
        if not limited and detail.startswith(tuple(f"SCAN {name}" for name in growing))
    ]


# -- decisions -------------------------------------------------------------------------------


def test_a_profile_is_kept_once(store):
    """A second finding of the same content changes nothing, evidence included."""
    first = profile()
    again = first.model_copy(update={"evidence": Evidence(gain=9.9), "created_at": 99.0})
    store.put_profile(first)

    assert first.id == store.put_profile(again)
    assert [first] == store.profiles()


def test_a_profile_is_found_by_its_id_or_the_beginning_of_it(store):
    """People type a few letters, with or without the # that they see."""
    found = profile()
    store.put_profile(found)

    for text_ in (found.id, found.id[:4], f"#{found.id[:4]}", found.id.upper(), f" {found.id} "):
        assert found == store.profile(text_)


@pytest.mark.parametrize("text_", ["", "#", "zz", "%", "_"])
def test_a_profile_that_is_not_there_is_not_found(store, text_):
    """No wildcard and no empty text finds one by accident."""
    store.put_profile(profile())

    with pytest.raises(NotFoundError, match="There is no profile"):
        store.profile(text_)


def test_an_ambiguous_prefix_lists_what_it_means(store):
    """The sentence names the candidates and what they do."""
    lengths = range(1, 40)
    by_first = {}
    for length in lengths:
        found = profile(length)
        store.put_profile(found)
        by_first.setdefault(found.id[0], []).append(found)
    first, candidates = max(by_first.items(), key=lambda item: len(item[1]))
    shown = min(candidates, key=lambda found: found.id)

    with pytest.raises(ConflictError) as caught:
        store.profile(first)

    assert f"{shown.id} ({shown.knobs.label()})" in caught.value.message


def test_profiles_can_be_narrowed_to_a_platform(store):
    """An imported profile of another machine is kept, but not among those of this one."""
    here, elsewhere = profile(3), profile(4, platform=ELSEWHERE)
    store.put_profile(elsewhere)
    store.put_profile(here)

    assert [here] == store.profiles(HERE.digest)
    assert [here, elsewhere] == store.profiles()


def test_the_latest_decision_about_a_class_counts(store):
    """A class that kept its default after a promotion has the default."""
    first, default = profile(8), profile(3)
    other = profile(5, workload="sampled.balanced.low")
    for each in (first, default, other):
        store.put_profile(each)
    promote(store, first)
    kept = promote(
        store, default, kept_default=True, sentence="Nothing beat it.", evidence=Evidence(pairs=3)
    )
    won = promote(store, other)

    assert {CLASS: kept, other.workload: won} == store.promotions(HERE.digest)
    assert {} == store.promotions(ELSEWHERE.digest)
    assert (True, "Nothing beat it.", 3) == (kept.kept_default, kept.sentence, kept.evidence.pairs)


def test_only_a_profile_of_the_platform_can_be_promoted(store):
    """A decision is about this platform and a profile that the store has."""
    store.ensure_platform(ELSEWHERE, at=1.0)
    foreign = profile(platform=ELSEWHERE)
    store.put_profile(foreign)

    with pytest.raises(ConflictError, match=ELSEWHERE.digest):
        promote(store, foreign)
    with pytest.raises(NotFoundError):
        promote(store, profile(3))
    assert {} == store.promotions(HERE.digest)


def test_quarantine_counts_and_ends(store):
    """Each time counts, the latest reason and time hold, and the count outlives the time."""
    store.put_profile(profile())
    bar = {"platform": HERE.digest}
    store.quarantine(DRAFTING, reason="First.", at=1.0, until=10.0, **bar)
    second = store.quarantine(
        DRAFTING, reason="Second.", at=20.0, until=40.0, profile=profile().id, **bar
    )

    assert (2, "Second.", 40.0, profile().id) == (
        second.count,
        second.reason,
        second.until,
        second.profile,
    )
    assert [second] == store.quarantined(HERE.digest, 39.9)
    assert [] == store.quarantined(HERE.digest, 40.0)
    assert [] == store.quarantined(ELSEWHERE.digest, 30.0)
    assert 2 == store.quarantine_count(HERE.digest, DRAFTING)


def test_a_quarantine_without_end_lasts_until_released(store):
    """Released knobs are free, and begin to count anew."""
    store.quarantine(DRAFTING, platform=HERE.digest, reason="x", at=1.0, until=None)

    assert 1 == len(store.quarantined(HERE.digest, 1e12))
    assert store.release(HERE.digest, DRAFTING)
    assert not store.release(HERE.digest, DRAFTING)
    assert 0 == store.quarantine_count(HERE.digest, DRAFTING)


def test_a_quarantine_needs_a_platform_that_is_known(store):
    """A wrong digest is named."""
    with pytest.raises(NotFoundError, match=ELSEWHERE.digest):
        store.quarantine(DRAFTING, platform=ELSEWHERE.digest, reason="x", at=1.0, until=None)


def test_a_pin_is_set_replaced_and_taken_away(store):
    """An application has one pin, the last one, given by the beginning of an id."""
    first, second = profile(8), profile(3)
    store.put_profile(first)
    store.put_profile(second)
    store.set_pin("agent", first.id[:8], platform=HERE.digest, at=1.0)
    pin = store.set_pin("agent", second.id, platform=HERE.digest, at=2.0)
    batch = store.set_pin("batch", first.id, platform=HERE.digest, at=3.0)

    assert (second.id, HERE.digest, 2.0) == (pin.profile, pin.platform, pin.at)
    assert [pin, batch] == store.pins()
    store.unset_pin("agent")
    assert [batch] == store.pins()
    with pytest.raises(NotFoundError, match=r"'agent' has no pin \(pinned: batch\)"):
        store.unset_pin("agent")


def test_a_pin_to_a_profile_of_another_platform_names_both(store):
    """A profile that was not measured here cannot be promised to an application."""
    foreign = profile(platform=ELSEWHERE)
    store.put_profile(foreign)

    with pytest.raises(ConflictError) as caught:
        store.set_pin("agent", foreign.id, platform=HERE.digest, at=1.0)

    assert HERE.digest in caught.value.message
    assert ELSEWHERE.digest in caught.value.message
    assert [] == store.pins()


def test_a_pin_to_an_unknown_profile_is_not_found(store):
    """A typing error pins nothing."""
    with pytest.raises(NotFoundError, match="'beef'"):
        store.set_pin("agent", "beef", platform=HERE.digest, at=1.0)


def test_what_is_in_force_is_the_latest(store):
    """Nothing was ever in force, then each change is kept and the last one holds."""
    assert store.in_force() is None
    first, second = profile(8), profile(3)
    for each in (first, second):
        store.put_profile(each)
        store.set_in_force(each.id, why=f"k={each.knobs.draft_length}.", at=each.created_at)

    assert Applied(profile=second.id, why="k=3.", at=3.0) == store.in_force()
    assert [second.id, first.id] == [each.profile for each in store.in_force_history()]
    with pytest.raises(NotFoundError):
        store.set_in_force("beef", why="x", at=1.0)


def test_the_account_of_what_is_in_force_grows(store):
    """Entries go to the latest stay, and the accounts are sums over all stays of a profile."""
    first, second = profile(8), profile(3)
    for each in (first, second):
        store.put_profile(each)
    store.set_in_force(
        first.id, why="x", at=1.0, kind=StayKind.RESTART, restart_s=40.0, lost_tokens=400.0
    )
    store.add_to_account(served_tokens=1000.0, gained_tokens=300.0)
    store.set_in_force(second.id, why="x", at=2.0, kind=StayKind.LIVE)
    store.add_to_account(served_tokens=50.0, avoided=1)
    store.set_in_force(first.id, why="x", at=3.0, kind=StayKind.TUNED)
    store.add_to_account(served_tokens=10.0, gained_tokens=3.0)

    accounts = {each.profile: each for each in store.accounts(HERE.digest)}
    assert {
        first.id: Account(
            profile=first.id,
            switches=1,
            restart_s=40.0,
            lost_tokens=400.0,
            served_tokens=1010.0,
            gained_tokens=303.0,
        ),
        second.id: Account(profile=second.id, live_switches=1, served_tokens=50.0, avoided=1),
    } == accounts
    assert [] == store.accounts("elsewhere")
    assert [10.0, 50.0, 1000.0] == [each.served_tokens for each in store.in_force_history()]


def test_an_account_needs_a_stay(store):
    """Before anything was in force there is nothing to add to."""
    with pytest.raises(NotFoundError, match="Nothing is in force"):
        store.add_to_account(avoided=1)


def test_measurements_have_the_number_of_their_trial(store):
    """A sentence may name the trial as `tuner trials` does; the live loop's rows have none."""
    trial = open_trial(store)
    store.add_measurement(measurement(), trial=trial)
    store.add_measurement(measurement())

    found = store.numbered_measurements(HERE.digest)
    assert [(trial, measurement()), (None, measurement())] == found


def test_everything_is_there_after_opening_again(path, store):
    """A restart forgets nothing."""
    found = profile()
    store.put_profile(found)
    promotion = promote(store, found)
    pin = store.set_pin("agent", found.id, platform=HERE.digest, at=1.0)
    force = store.set_in_force(found.id, why="It won.", at=1.0)
    store.add_measurement(measurement())
    store.close()

    with Store.open(path, now=2.0) as again:
        assert ([found], [pin], force) == (again.profiles(), again.pins(), again.in_force())
        assert {CLASS: promotion} == again.promotions(HERE.digest)
        assert [measurement()] == again.measurements(HERE.digest)
