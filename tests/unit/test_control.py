"""The control API on its two sockets: modes of the files, errors, and what may be asked where."""

import stat
from types import SimpleNamespace

import aiohttp
import pytest

from profiles.errors import ConflictError, StoreError
from profiles.knobs import Knobs
from profiles.measurement import Failure, FailureKind, Measurement
from profiles.platform import fingerprint
from profiles.profile import default_profile
from service.archive import Archive
from service.control import Control, _limit
from service.modes import Event
from tuner.config import Config, EngineConfig

HERE = fingerprint(vllm="0.32.0", model="org/m", model_revision=None, drafters={}, cpu="Xeon")


class Daemon:
    """What the control API asks of a daemon."""

    def __init__(self, archive):
        default = default_profile(HERE.digest, Knobs())
        observer = SimpleNamespace(since=lambda _: [SimpleNamespace(application="web")], seen={})
        self.parts = SimpleNamespace(
            archive=archive,
            platform=HERE,
            observer=observer,
            config=Config(engine=EngineConfig(model="org/m", env={"HF_TOKEN": "hf_secret"})),
            slot=SimpleNamespace(plan=lambda *_, **__: None),
        )
        self.state = SimpleNamespace(in_force=default)
        self.steward = self
        self.events, self.said, self.error = [], [], None

    async def use(self, choice):
        if self.error is not None:
            raise self.error
        return f"{choice} will be in force"

    async def tune(self, classes, *, by_hand):
        assert by_hand
        return tuple(classes) or ("greedy.balanced.low",)

    async def stop_tuning(self):
        raise ConflictError("Nothing is being tuned.")

    async def say(self, kind, sentence):
        self.said.append((kind, sentence))

    def post(self, event):
        self.events.append(event)


@pytest.fixture
async def daemon(tmp_path):
    archive = await Archive.open(tmp_path / "tuner.sqlite3")
    await archive.call(archive.store.ensure_platform, HERE, at=1.0)
    yield Daemon(archive)
    await archive.close()


@pytest.fixture
async def ask(daemon, tmp_path):
    """Ask the API on one of its sockets."""
    control = Control(daemon, SimpleNamespace())
    await control.serve(tmp_path / "status.sock", tmp_path / "control.sock")

    async def asked(method, path, body=None, *, name="control"):
        connector = aiohttp.UnixConnector(str(tmp_path / f"{name}.sock"))
        async with (
            aiohttp.ClientSession("http://tunerd", connector=connector) as session,
            session.request(method, path, json=body) as answer,
        ):
            return answer.status, await answer.json()

    yield asked
    await control.close()


async def test_the_files_say_who_may_do_what(ask, tmp_path):
    """Everybody may look; changes are for the owner and the group."""
    modes = {
        name: stat.S_IMODE((tmp_path / f"{name}.sock").stat().st_mode)
        for name in ("status", "control")
    }

    assert {"status": 0o666, "control": 0o660} == modes


async def test_the_socket_of_a_dead_daemon_is_replaced(daemon, tmp_path):
    """After kill -9 the file is still there; the lock is ours, so it may go."""
    (tmp_path / "status.sock").touch()
    control = Control(daemon, SimpleNamespace())
    await control.serve(tmp_path / "status.sock", tmp_path / "control.sock")

    assert (tmp_path / "status.sock").is_socket()
    await control.close()


async def test_a_pin_to_a_barred_profile_is_refused(ask, daemon):
    """An import is the operator's affair until it has done harm here."""
    _, imported = await ask("POST", "/v1/profiles/import", {"profile": given(3)})
    body = {"application": "web", "profile": imported["id"]}
    archive = daemon.parts.archive
    knobs = (await archive.call(archive.store.profile, imported["id"])).knobs
    await archive.call(
        archive.store.quarantine, knobs, platform=HERE.digest, reason="died", at=1.0, until=None
    )
    status, said = await ask("POST", "/v1/pins", body)

    assert (409, 1) == (status, said["error"]["exit_code"])
    assert "is in quarantine" in said["error"]["message"]
    assert [] == (await ask("GET", "/v1/pins"))[1]["pins"]


async def test_a_profile_says_why_it_must_not_be_exported(ask, daemon):
    """A start of it has failed on this machine after it was imported."""
    _, imported = await ask("POST", "/v1/profiles/import", {"profile": given(3)})
    path = f"/v1/profiles/{imported['id']}"
    assert (await ask("GET", path))[1]["unfit"] is None
    archive = daemon.parts.archive
    stored = await archive.call(archive.store.profile, imported["id"])
    failed = Measurement(
        platform=HERE.digest,
        workload="sampled.balanced.high",
        knobs=stored.knobs.canonical(),
        started_at=1.0,
        engine_token="t",
        failure=Failure(kind=FailureKind.OOM_LOAD, sentence="No memory."),
    )
    await archive.call(archive.store.add_measurement, failed)

    assert "it failed here: No memory." == (await ask("GET", path))[1]["unfit"]


async def test_a_pin_of_an_unseen_application_is_taken_and_said(ask, daemon):
    """It may come later; a misspelt one is noticed because the seen ones are listed."""
    _, imported = await ask("POST", "/v1/profiles/import", {"profile": given(3)})
    body = {"profile": imported["id"]}
    known, plain = await ask("POST", "/v1/pins", {"application": "web", **body})
    unknown, said = await ask("POST", "/v1/pins", {"application": "wbe", **body})

    assert (200, 200) == (known, unknown)
    assert f"web is pinned to {imported['id']}" == plain["sentence"]
    assert "no request of 'wbe' was seen yet (seen: web)" in said["sentence"]
    assert ["pin", "pin"] == [kind for kind, _ in daemon.said]
    _, pins = await ask("GET", "/v1/pins", name="status")
    assert ["wbe", "web"] == sorted(pin["application"] for pin in pins["pins"])


def given(length):
    knobs = {"drafter": "ngram", "draft_length": length}
    return {"knobs": knobs, "platform": "far", "workload": "any", "origin": "search",
            "evidence": {"gain": 9.0}}  # fmt: skip


async def test_an_import_brings_knobs_but_no_evidence(ask):
    """What was measured elsewhere proves nothing here."""
    _, imported = await ask("POST", "/v1/profiles/import", {"profile": given(3)})
    _, found = await ask("GET", f"/v1/profiles/{imported['id'][:5]}")

    profile = found["profile"]
    assert (HERE.digest, "import", None) == (
        profile["platform"],
        profile["origin"],
        profile["evidence"]["gain"],
    )


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(ConflictError("No.", hint="Wait."), 409, 1), (StoreError("Disk.", hint="Wait."), 500, 74)],
)
async def test_errors_carry_their_exit_code(ask, daemon, error, status, code):
    """Message, hint, status and exit code are those of the error."""
    daemon.error = error
    found, answered = await ask("POST", "/v1/use", {"profile": "x"})

    wanted = {"message": error.message, "hint": "Wait.", "exit_code": code}
    assert (status, {"v": 1, "error": wanted}) == (found, answered)


async def test_a_defect_is_an_answer_too(ask, daemon):
    """JSON with exit code 70; no stack and no text of the error on the wire."""
    daemon.error = RuntimeError("secret")
    found, answered = await ask("POST", "/v1/use", {"profile": "x"})

    assert (500, 70) == (found, answered["error"]["exit_code"])
    assert "secret" not in str(answered)


async def test_a_stop_is_an_event(ask, daemon):
    """The daemon's own loop decides; the API only tells it."""
    status, _ = await ask("POST", "/v1/stop")

    assert (200, [Event.STOP_WANTED]) == (status, daemon.events)


async def test_tuning_names_its_classes(ask):
    """Without a name all classes that were seen."""
    _, named = await ask("POST", "/v1/tune", {"classes": ["sampled.balanced.mid"]})
    _, seen = await ask("POST", "/v1/tune")

    assert ["sampled.balanced.mid"] == named["classes"]
    assert ["greedy.balanced.low"] == seen["classes"]


async def test_secrets_of_the_environment_are_hidden(ask):
    """The configuration is readable by everybody on this host."""
    _, answered = await ask("GET", "/v1/config", name="status")

    assert {"HF_TOKEN": "(hidden)"} == answered["config"]["engine"]["env"]


@pytest.mark.parametrize(
    ("text", "limit"),
    [(None, 100), ("5", 5), ("0", 0), ("-1", 100), ("x", 100), ("99999999", 10_000), ("²", 100)],
)
def test_limits_are_bounded(text, limit):
    """Whatever is asked for, the answer has a bound."""
    query = {} if text is None else {"limit": text}

    assert limit == _limit(SimpleNamespace(query=query))
