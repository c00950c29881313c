import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from profiles.errors import ConflictError, NotFoundError
from profiles.knobs import Knobs
from profiles.platform import fingerprint
from profiles.profile import Evidence, Origin, Profile
from profiles.records import TrialStatus
from profiles.store import Store

PLATFORMS = [
    fingerprint(vllm="1", model="m", model_revision=None, drafters={}, cpu=cpu)
    for cpu in ("Xeon", "EPYC")
]
WORKLOADS = ["greedy.balanced.low", "sampled.balanced.low"]
PROFILES = [
    Profile(
        knobs=Knobs(drafter="dflash", draft_length=length),
        platform=platform.digest,
        workload=workload,
        origin=Origin.SEARCH,
    )
    for length in (3, 8)
    for platform in PLATFORMS
    for workload in WORKLOADS
]
profiles = st.sampled_from(PROFILES)
platforms = st.sampled_from(PLATFORMS).map(lambda platform: platform.digest)
applications = st.sampled_from(["agent", "batch", "chat; DROP TABLE pin"])


class StoreMachine(RuleBasedStateMachine):
    """The store against plain dictionaries, with restarts at any time."""

    @initialize()
    def start(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "tuner.sqlite3"
        self.store = Store.open(self.path, now=0.0)
        for platform in PLATFORMS:
            self.store.ensure_platform(platform, at=0.0)
        self.now = 0.0
        self.known, self.pins, self.promotions = {}, {}, {}
        self.barred, self.in_force, self.trials = {}, None, {}

    @rule()
    def time_passes(self):
        self.now += 1.0

    @rule()
    def restart(self):
        self.store.close()
        self.store = Store.open(self.path, now=self.now)

    @rule(profile=profiles)
    def put(self, profile):
        self.store.put_profile(profile)
        self.known[profile.id] = profile

    @rule(application=applications, profile=profiles, platform=platforms)
    def pin(self, application, profile, platform):
        def attempt():
            return self.store.set_pin(application, profile.id, platform=platform, at=self.now)

        if profile.id not in self.known:
            with pytest.raises(NotFoundError):
                attempt()
        elif profile.platform != platform:
            with pytest.raises(ConflictError):
                attempt()
        else:
            self.pins[application] = attempt()

    @rule(application=applications)
    def unpin(self, application):
        if application in self.pins:
            self.store.unset_pin(application)
            del self.pins[application]
        else:
            with pytest.raises(NotFoundError):
                self.store.unset_pin(application)

    @rule(profile=profiles, kept=st.booleans())
    def promote(self, profile, kept):
        if profile.id not in self.known:
            return
        self.promotions[profile.platform, profile.workload] = self.store.promote(
            platform=profile.platform,
            workload=profile.workload,
            profile=profile.id,
            evidence=Evidence(gain=self.now),
            sentence="Why.",
            at=self.now,
            kept_default=kept,
        )

    @rule(profile=profiles)
    def put_in_force(self, profile):
        if profile.id in self.known:
            self.in_force = self.store.set_in_force(profile.id, why="Why.", at=self.now)

    @precondition(lambda self: self.in_force is not None)
    @rule(tokens=st.integers(0, 9), avoided=st.integers(0, 1))
    def account(self, tokens, avoided):
        self.store.add_to_account(served_tokens=tokens, avoided=avoided)
        before = self.in_force
        self.in_force = before.model_copy(
            update={
                "served_tokens": before.served_tokens + tokens,
                "avoided": before.avoided + avoided,
            }
        )

    @rule(profile=profiles, seconds=st.none() | st.integers(0, 3))
    def bar(self, profile, seconds):
        until = None if seconds is None else self.now + seconds
        row = self.store.quarantine(
            profile.knobs, platform=profile.platform, reason="x", at=self.now, until=until
        )
        key = (profile.platform, profile.knobs.digest())
        before = self.barred.get(key)
        assert row.count == (before.count if before else 0) + 1
        self.barred[key] = row

    @rule(profile=profiles)
    def release(self, profile):
        key = (profile.platform, profile.knobs.digest())

        assert (key in self.barred) == self.store.release(profile.platform, profile.knobs)
        self.barred.pop(key, None)

    @rule(profile=profiles)
    def open_trial(self, profile):
        number = self.store.open_trial(
            study="s",
            platform=profile.platform,
            workloads=[profile.workload],
            knobs=profile.knobs,
            why="Why.",
            at=self.now,
        )
        self.trials[number] = TrialStatus.OPEN

    @precondition(lambda self: self.trials)
    @rule(data=st.data(), status=st.sampled_from([TrialStatus.DONE, TrialStatus.FAILED]))
    def close_trial(self, data, status):
        number = data.draw(st.sampled_from(sorted(self.trials)))
        if self.trials[number] is TrialStatus.OPEN:
            self.store.close_trial(number, status=status, at=self.now)
            self.trials[number] = status
        else:
            with pytest.raises(ConflictError):
                self.store.close_trial(number, status=status, at=self.now)

    @rule()
    def sweep(self):
        swept = [number for number, status in self.trials.items() if status is TrialStatus.OPEN]

        assert len(swept) == self.store.sweep_open_trials("It died.", at=self.now)
        self.trials.update(dict.fromkeys(swept, TrialStatus.INTERRUPTED))

    @invariant()
    def the_store_is_what_the_dictionaries_say(self):
        assert self.known == {profile.id: profile for profile in self.store.profiles()}
        assert sorted(self.pins.values(), key=lambda pin: pin.application) == self.store.pins()
        assert self.in_force == self.store.in_force()
        assert self.trials == {trial.id: trial.status for trial in self.store.trials(10_000)}
        for platform in PLATFORMS:
            digest = platform.digest
            assert {
                workload: row
                for (there, workload), row in self.promotions.items()
                if there == digest
            } == self.store.promotions(digest)
            assert sorted(
                (
                    row
                    for row in self.barred.values()
                    if row.platform == digest and (row.until is None or row.until > self.now)
                ),
                key=lambda row: row.knobs,
            ) == self.store.quarantined(digest, self.now)

    def teardown(self):
        self.store.close()
        self.folder.cleanup()


StoreMachine.TestCase.settings = settings(
    max_examples=8,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
StoreProperties = StoreMachine.TestCase
