"""The answers of the control API, from parts that are doubles over a real store."""

from types import SimpleNamespace

import pytest

from profiles.classes import WorkloadClass
from profiles.errors import UnavailableError
from profiles.knobs import Knobs
from profiles.platform import fingerprint
from profiles.profile import Evidence, Origin, Profile, default_profile
from service.archive import Archive
from service.modes import Mode
from service.status import _ago, _class, brief, status
from service.traffic import ClassTraffic, Window
from service.tuning import Progress
from tuner.config import Config, EngineConfig
from tuner.telemetry import Snapshot

HERE = fingerprint(vllm="0.32.0", model="org/m", model_revision=None, drafters={}, cpu="Xeon")
CODE = "greedy.balanced.low"
NOW = 1_000_000.0
TRAFFIC = ClassTraffic(
    workload=WorkloadClass.parse(CODE),
    requests=40,
    tokens=4000.0,
    share=0.8,
    tok_s=120.0,
    concurrency=3.5,
    prompt_tokens=100,
    output_tokens=90,
    applications={"a": 4000.0},
)
DEFAULT = default_profile(HERE.digest, Knobs())


def profile(**fields):
    base = {
        "knobs": Knobs(drafter="ngram", draft_length=3),
        "platform": HERE.digest,
        "workload": CODE,
        "origin": Origin.SEARCH,
        "evidence": Evidence(
            gain=0.5, gain_low=0.4, gain_high=0.6, tok_s=150.0, default_tok_s=100.0
        ),
        "created_at": NOW - 172_800,
    }
    return Profile(**(base | fields))


@pytest.fixture
async def archive(tmp_path):
    opened = await Archive.open(tmp_path / "tuner.sqlite3")
    await opened.call(opened.store.ensure_platform, HERE, at=1.0)
    yield opened
    await opened.close()


class Gateway:
    """Answers, or is away."""

    away = False

    async def state(self):
        if self.away:
            raise UnavailableError("away")
        return {"gate": "open", "pid": 7}


@pytest.fixture
def daemon(archive):
    """A daemon that serves its default, with one class of traffic and no engine."""
    window = Window(
        span_s=300.0,
        requests=40,
        tok_s=118.0,
        busy=0.5,
        classes=(TRAFFIC,),
        applications={"a": 4000.0},
    )
    parts = SimpleNamespace(
        config=Config(engine=EngineConfig(model="org/m")),
        platform=HERE,
        archive=archive,
        gateway=Gateway(),
        observer=SimpleNamespace(window=lambda _: window),
        slot=SimpleNamespace(engine=None, restarts=2, live_fault=None),
        live=None,
        holds=(),
        lab=SimpleNamespace(progress=None),
    )
    state = SimpleNamespace(
        mode=Mode.SERVING,
        sentence="all is well",
        reloaded=None,
        since=NOW,
        switched_at=0.0,
        in_force=DEFAULT,
        why="your own configuration",
        decision=None,
    )
    return SimpleNamespace(parts=parts, state=state)


async def ask(daemon):
    return await status(daemon, SimpleNamespace(snapshot=Snapshot), NOW)


async def test_everything_is_there(daemon, archive):
    """All keys that the command line shows, with honest None where nothing is known."""
    await archive.event("switch", "off is in force")
    found = await ask(daemon)

    assert ("serving", "all is well", 2) == (found["mode"], found["sentence"], found["restarts"])
    assert (None, None) == (found["engine"], found["tuning"])
    assert {"gate": "open", "pid": 7} == found["gateway"]
    assert "http://127.0.0.1:8000/v1" == found["listen"]
    assert (118.0, 40) == (found["traffic"]["tok_s_now"], found["traffic"]["requests"])
    assert found["telemetry"]["power_w"] is None
    assert ["off is in force"] == [event["sentence"] for event in found["events"]]
    assert DEFAULT.id == found["profile"]["id"]
    assert found["profile"]["waiting"] is None


async def test_a_gateway_that_is_away_is_none(daemon):
    """The status answers even when the data plane does not."""
    daemon.parts.gateway.away = True

    assert (await ask(daemon))["gateway"] is None


async def test_a_wish_that_waits_is_shown(daemon):
    """What the policy wants but does not do yet, with its reason."""
    daemon.state.decision = SimpleNamespace(switch=False, why="code is 80 %; waiting: 3 of 60 s")

    assert "code is 80 %; waiting: 3 of 60 s" == (await ask(daemon))["profile"]["waiting"]


async def test_an_engine_is_shown_with_its_knobs(daemon):
    """Pid, token, knobs and model of what runs."""
    knobs = Knobs(drafter="ngram", draft_length=3)
    daemon.parts.slot.engine = SimpleNamespace(
        link=None,
        knobs=knobs,
        ended=SimpleNamespace(is_set=lambda: False),
        record=SimpleNamespace(
            pid=42, token="t", purpose="serve", ready_s=3.0, started_at=NOW, log="/l"
        ),
    )
    engine = (await ask(daemon))["engine"]

    assert (42, "ngram k=3", "running") == (engine["pid"], engine["label"], engine["state"])
    assert {"drafter": "ngram", "draft_length": 3} == engine["knobs"]
    assert ("org/m", "0.32.0") == (engine["model"], engine["vllm_version"])


async def test_pins_and_promotions_come_from_the_store(daemon, archive):
    """A pin with its label, a class with the profile that was promoted for it."""
    await archive.promote(profile(), kept_default=False)
    await archive.call(archive.store.set_pin, "batch", profile().id, platform=HERE.digest, at=1.0)
    found = await ask(daemon)

    assert [{"application": "batch", "profile": profile().id, "label": "ngram k=3"}] == found[
        "pins"
    ]
    assert (profile().id, 0.5) == (
        found["traffic"]["classes"][0]["profile"],
        found["traffic"]["classes"][0]["gain"],
    )


async def test_a_session_shows_its_progress(daemon):
    """Active only while the mode says so."""
    daemon.parts.lab.progress = Progress(
        sentence="trying", phase="search", trial=2, trials=12, classes=(CODE,)
    )
    idle = (await ask(daemon))["tuning"]
    daemon.state.mode = Mode.TUNING
    busy = (await ask(daemon))["tuning"]

    assert (False, True) == (idle["active"], busy["active"])
    assert (2, 12, "trying") == (busy["trial"], busy["trials"], busy["sentence"])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (None, "not tuned yet"),
        (profile(), "promoted 2 d ago"),
        (
            profile(origin=Origin.DEFAULT, evidence=Evidence(sentence="already the best")),
            "kept the default: already the best",
        ),
    ],
)
def test_a_class_says_what_is_known_of_it(given, sentence):
    """Not tuned, promoted, or tuned in vain are three different answers."""
    found = _class(TRAFFIC, given, NOW)

    assert sentence == found["state"]
    assert (CODE, 0.8, 120.0) == (found["workload"], found["share"], found["tok_s"])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (59, "59 s"), (60, "1 min"), (7200, "2 h"), (86400, "1 d"), (200_000, "2 d")],
)
def test_ages_are_short(seconds, text):
    """One unit is enough, and a clock that went back is now."""
    assert text == _ago(seconds)


def test_a_profile_in_a_list():
    """Unset knobs are left out, evidence is not."""
    found = brief(profile())

    assert {"drafter": "ngram", "draft_length": 3} == found["knobs"]
    assert (profile().id, "search", 0.5) == (
        found["id"],
        found["origin"],
        found["evidence"]["gain"],
    )
