"""The control API on its two sockets: modes of the files, errors, and what may be asked where."""

import asyncio
import contextlib
import socket
import stat
from types import SimpleNamespace

import aiohttp
import pytest
from searching import small_space

from profiles.errors import ConflictError, NotFoundError, StoreError, UnavailableError
from profiles.knobs import Knobs
from profiles.measurement import Block, Failure, FailureKind, Measurement
from profiles.platform import fingerprint
from profiles.profile import default_profile
from profiles.records import StayKind
from service import explain
from service.archive import Archive
from service.control import Control, _limit
from service.holds import Holds
from service.modes import Event, Mode
from tuner.config import Config, EngineConfig

CLASS = "greedy.balanced.low"
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
            lab=SimpleNamespace(space=self.space),
            live=None,
            holds=Holds(),
        )
        self.state = SimpleNamespace(in_force=default, why="x", mode=Mode.SERVING, switched_at=0.0)
        self.mixtures = []
        self.steward = self
        self.events, self.said, self.error = [], [], None

    async def space(self):
        return small_space()

    async def no_space(self):
        raise UnavailableError("vLLM cannot be asked.")

    async def use(self, choice):
        if self.error is not None:
            raise self.error
        return f"{choice} will be in force"

    async def consider(self):
        self.said.append(("considered", ""))

    async def chosen(self, choice):
        if choice != "default":
            raise NotFoundError(f"There is no profile {choice!r}.")
        return self.state.in_force

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
async def ask(daemon, tmp_path, monkeypatch):
    """Ask the API on one of its sockets."""
    monkeypatch.setattr(explain, "live_status", lambda *_: {"mixtures": daemon.mixtures})
    control = Control(daemon, SimpleNamespace())
    await control.serve(tmp_path / "status.sock", tmp_path / "control.sock", {})

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
    await control.serve(tmp_path / "status.sock", tmp_path / "control.sock", {})

    assert (tmp_path / "status.sock").is_socket()
    await control.close()


async def test_sockets_of_the_service_manager_are_used(daemon, tmp_path):
    """They stay when the daemon goes, so that a command waits for the next one."""
    given = {name: socket.socket(socket.AF_UNIX) for name in ("status", "control")}
    for name, each in given.items():
        each.bind(str(tmp_path / f"{name}.given"))
        each.listen()
    file = (tmp_path / "status.given").stat()
    control = Control(daemon, SimpleNamespace())
    await control.serve(tmp_path / "status.sock", tmp_path / "control.sock", given)
    connector = aiohttp.UnixConnector(str(tmp_path / "status.given"))
    async with (
        aiohttp.ClientSession("http://tunerd", connector=connector) as session,
        session.get("/v1/pins") as answer,
    ):
        status = answer.status
    await control.close()
    there = (tmp_path / "status.given").stat()

    assert 200 == status
    assert not (tmp_path / "status.sock").exists()
    assert (file.st_ino, file.st_mode) == (there.st_ino, there.st_mode)


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


async def test_history_has_the_ledger(ask, daemon):
    """Sums over every stay on this platform, and each profile's own."""
    store, archive = daemon.parts.archive.store, daemon.parts.archive
    await archive.call(store.put_profile, daemon.state.in_force)
    await archive.call(
        store.set_in_force,
        daemon.state.in_force.id,
        why="x",
        at=1.0,
        kind=StayKind.RESTART,
        restart_s=40.0,
        lost_tokens=400.0,
    )
    await archive.call(store.add_to_account, served_tokens=9.0, gained_tokens=3.0, avoided=2)
    _, answered = await ask("GET", "/v1/history", name="status")

    ledger = answered["ledger"]
    assert (1, 0, 2) == (ledger["switches"], ledger["live_switches"], ledger["avoided"])
    assert (400.0, 3.0) == (ledger["lost_tokens"], ledger["gained_tokens"])
    assert [daemon.state.in_force.id] == [each["profile"] for each in ledger["profiles"]]


async def measured(daemon, *rates, workload=CLASS):
    """Starts of the default in the store."""
    store, archive = daemon.parts.archive.store, daemon.parts.archive
    for number, rate in enumerate(rates):
        row = Measurement(
            platform=HERE.digest,
            workload=workload,
            knobs=Knobs().canonical(),
            started_at=1.0,
            engine_token=f"{workload}-{number}",
            blocks=(Block(seconds=10.0, output_tokens=rate, requests=3),),
        )
        await archive.call(store.add_measurement, row)


async def test_an_explanation_is_read_from_the_store(ask, daemon):
    """Classes that were measured, seen or decided, each with what is behind it."""
    await measured(daemon, 1000, 1010, 1020)
    daemon.parts.observer.seen["sampled.balanced.low"] = None
    _, answered = await ask("GET", "/v1/explain", name="status")

    first, second = answered["classes"]
    assert (CLASS, "open") == (first["workload"], first["state"])
    assert ("sampled.balanced.low", "untried") == (second["workload"], second["state"])
    assert 3 == first["tried"]["starts"]
    assert first["noise"]["calibration"]["one_start"]["deviation"] == pytest.approx(
        0.0099, abs=1e-4
    )
    assert ("x", daemon.state.in_force.id) == (answered["why"], answered["in_force"]["id"])


async def test_a_class_is_explained_by_its_beginning(ask, daemon):
    """As people type it; what is not known is a negative answer that names what is."""
    await measured(daemon, 1000)
    await measured(daemon, 1000, workload="sampled.balanced.low")
    _, found = await ask("GET", "/v1/explain?workload=sampled", name="status")
    status, missing = await ask("GET", "/v1/explain?workload=structured", name="status")

    assert ["sampled.balanced.low"] == [each["workload"] for each in found["classes"]]
    assert (404, 1) == (status, missing["error"]["exit_code"])
    assert "(known: greedy.balanced.low, sampled.balanced.low)" in missing["error"]["message"]


async def test_an_explanation_does_not_need_vllm(ask, daemon):
    """Without the space, what was not tried is unknown, and all the rest is there."""
    await measured(daemon, 1000)
    daemon.parts.lab = SimpleNamespace(space=daemon.no_space)
    _, found = await ask("GET", "/v1/explain", name="status")

    assert found["classes"][0]["tried"]["open"] is None


async def test_probation_and_learning_are_explained(ask, daemon):
    """What the daemon knows beside the store: until when, and which mixtures with the class."""
    await measured(daemon, 1000)
    daemon.state.mode, daemon.state.switched_at = Mode.PROBATION, 50.0
    daemon.state.in_force = daemon.state.in_force.model_copy(update={"workload": CLASS})
    daemon.mixtures = [
        mixture("greedy.balanced", settled_at=None, rounds=1),
        mixture("greedy.balanced + sampled.balanced", settled_at=9.0),
        mixture("sampled.balanced", settled_at=9.0),
    ]
    _, answered = await ask("GET", "/v1/explain", name="status")

    found = answered["classes"][0]
    assert [("probation", 650.0)] == [(bar["kind"], bar["until"]) for bar in found["bars"]]
    assert [
        "greedy.balanced is being learned, 2 of 7 draft lengths left after 1 round",
        "greedy.balanced + sampled.balanced runs draft length 3: it is the best",
    ] == [each["sentence"] for each in found["learned"]]


def mixture(name, **fields):
    """What the live status says of one mixture."""
    base = {"rounds": 4, "left": 2, "arms": 7, "label": "3", "why": "it is the best"}
    return {"name": name, **base, **fields}


async def test_silent_clients_keep_nobody_waiting(ask, tmp_path):
    """F84: 300 that ask and never read, or never end their question, on the socket for all."""
    question = b"GET /v1/config HTTP/1.1\r\nHost: x\r\n"
    async with contextlib.AsyncExitStack() as stack:
        for number in range(300):
            _, writer = await asyncio.open_unix_connection(tmp_path / "status.sock")
            stack.callback(writer.close)
            writer.write(question + b"\r\n" if number % 2 else question)
        changed, _ = await ask("POST", "/v1/use", {"profile": "x"})
        status, answered = await ask("GET", "/v1/config", name="status")

    assert (200, 200, 1) == (changed, status, answered["v"])


@pytest.mark.parametrize(
    ("text", "limit"),
    [(None, 100), ("5", 5), ("0", 0), ("-1", 100), ("x", 100), ("99999999", 10_000), ("²", 100)],
)
def test_limits_are_bounded(text, limit):
    """Whatever is asked for, the answer has a bound."""
    query = {} if text is None else {"limit": text}

    assert limit == _limit(SimpleNamespace(query=query))
