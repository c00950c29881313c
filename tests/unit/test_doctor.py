"""The checks of `tuner doctor`."""

import resource
import socket
import sqlite3
import types

import pytest
from fake_control import FakeControl
from stage import free_port

from profiles import schema
from profiles.database import Database
from profiles.recovery import recover
from profiles.store import Store
from tuner import check, doctor, doctor_engine
from tuner.config import Config
from tuner.flags import VllmInfo
from tuner.paths import Paths

INFO = VllmInfo(version="0.32.0", flags=frozenset({"--uds", "--speculative-config"}))


def config_of(folder, **more):
    """A configuration with its state in a folder."""
    return Config.model_validate(
        {"engine": {"model": "org/name"}, "state_dir": str(folder / "s"), **more}
    )


def paths_of(folder):
    """Its paths."""
    return Paths.of(config_of(folder))


@pytest.fixture
def vllm(monkeypatch):
    """An installed vLLM that takes our flags."""

    async def accepted(command, env, cache):
        return INFO

    monkeypatch.setattr(doctor_engine, "accepted_flags", accepted)


def test_all_checks_of_a_good_machine(tmp_path, vllm):
    """Nothing fails where nothing is wrong, and a daemon that is not running is a warning."""
    path = tmp_path / "tuner.toml"
    path.write_text(
        'state_dir = "s"\n[engine]\nmodel = "org/name"\n'
        f'[gateway]\nlisten = "127.0.0.1:{free_port()}"\n'
    )
    found = {item.name: item for item in doctor.run(path)}

    assert [] == [item for item in found.values() if item.state == "fail"]
    assert "warn" == found["daemon"].state
    assert f"tuner --config {path} run" in found["daemon"].hint
    assert "vLLM 0.32.0, 2 flags." == found["vLLM"].sentence
    assert not (tmp_path / "s").exists()


def test_the_engines_user_is_asked_for_what_an_engine_needs(tmp_path, vllm):
    """It may see neither state directory nor store, and a daemon is not its business."""
    path = tmp_path / "tuner.toml"
    path.write_text('state_dir = "s"\n[engine]\nmodel = "org/name"\n')
    names = {item.name for item in doctor.run(path, engine=True)}
    others = {"state directory", "disk", "store", "daemon", "sockets", "port", "search"}

    assert {"config", "memory of the GPU", "NVML", "model", "vLLM", "flags"} <= names
    assert set() == names & others


def test_wrong_configuration(tmp_path):
    """Every problem of the file is a failed check; what needs the file is left out."""
    path = tmp_path / "tuner.toml"
    path.write_text("[engine]\nmodle = 1\n")
    failed = [item for item in doctor.run(path) if item.state == "fail"]

    assert ["config", "config"] == [item.name for item in failed]


def test_no_configuration(tmp_path):
    """A missing file is a failed check, not a traceback."""
    last = doctor.run(tmp_path / "no.toml")[-1]

    assert ("config", "fail") == (last.name, last.state)


def test_old_python(monkeypatch):
    """Python before 3.11 is refused."""
    monkeypatch.setattr(doctor.sys, "version_info", (3, 10, 1))

    assert "fail" == doctor.python().state


def test_aiohttp_without_its_c_parser(monkeypatch):
    """The slow parser is a warning with its cause."""
    parser = doctor.aiohttp.http_parser
    monkeypatch.setattr(parser, "HttpRequestParser", parser.HttpRequestParserPy)

    assert "warn" == doctor.aiohttp_parser().state


@pytest.mark.parametrize(
    ("soft", "state"), [(256, "warn"), (65_536, "ok"), (resource.RLIM_INFINITY, "ok")]
)
def test_open_files(monkeypatch, soft, state):
    """A low limit of open files is a warning."""
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda _: (soft, soft))

    assert state == doctor.open_files().state


def test_state_directory_that_is_a_file(tmp_path):
    """A file in the way is named."""
    (tmp_path / "s").write_text("")

    assert "is not a directory" in doctor.state_directory(paths_of(tmp_path)).sentence


def test_state_directory_that_cannot_be_written(tmp_path, monkeypatch):
    """A read-only place says so, with what to do."""

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    found = doctor.state_directory(paths_of(tmp_path))

    assert f"Cannot write in {tmp_path}: Permission denied." == found.sentence
    assert "state_dir" in found.hint


@pytest.mark.parametrize(("free_mib", "state"), [(10, "fail"), (1000, "warn"), (9000, "ok")])
def test_disk(tmp_path, monkeypatch, free_mib, state):
    """Little room is a warning, hardly any is a failure."""
    usage = types.SimpleNamespace(free=free_mib << 20)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)

    assert state == doctor.disk(tmp_path).state


def test_store_that_opens(tmp_path):
    """A store is tried on a copy: the file itself stays as it is."""
    paths = paths_of(tmp_path)
    paths.state.mkdir()
    Store.open(paths.store, now=0.0).close()
    before = (paths.store.read_bytes(), sorted(paths.state.iterdir()))
    found = doctor.store(paths)

    assert "ok" == found.state, found
    assert before == (paths.store.read_bytes(), sorted(paths.state.iterdir()))


def test_store_without_a_log(tmp_path):
    """F61: a file system that cannot do WAL is named, with what to do."""
    paths = paths_of(tmp_path)
    paths.state.mkdir()
    Database.open(paths.store, vfs="unix-dotfile").close()
    found = doctor.store(paths)

    assert "warn" == found.state, found
    assert f"The file system of {paths.store} offers no shared memory" in found.sentence
    assert "local disk" in found.hint


def test_store_that_is_none(tmp_path):
    """A damaged store is named with its path, and what becomes of it."""
    paths = paths_of(tmp_path)
    paths.state.mkdir()
    paths.store.write_bytes(b"no database" * 1000)
    found = check.guarded("store", lambda: doctor.store(paths))

    assert "fail" == found.state
    assert str(paths.store) in found.sentence
    assert "moves it aside at its next start" in found.hint


def test_store_that_was_damaged(tmp_path):
    """What was moved aside is named until somebody removes it."""
    paths = paths_of(tmp_path)
    paths.state.mkdir()
    paths.store.write_bytes(b"no database" * 1000)
    aside = recover(paths.store, at=1.0).aside
    Store.open(paths.store, now=0.0).close()
    found = doctor.store(paths)

    assert "warn" == found.state
    assert aside.name in found.sentence


def test_store_of_a_newer_version(tmp_path):
    """A store that this version refuses is found before the daemon is started."""
    paths = paths_of(tmp_path)
    paths.state.mkdir()
    Store.open(paths.store, now=0.0).close()
    with sqlite3.connect(paths.store) as link:
        link.execute(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'")
    link.close()
    found = check.guarded("store", lambda: doctor.store(paths))

    assert "fail" == found.state
    assert str(paths.store) in found.sentence
    assert "Upgrade tunerd" in found.hint


def test_running_daemon(tmp_path):
    """A daemon that answers is named with its pid and mode; its sockets are looked at."""
    paths = paths_of(tmp_path)
    with FakeControl().serving(paths.run) as script:
        script.on("GET", "/v1/status", {"v": 1, "pid": 7, "mode": "serving", "sentence": "Fine."})
        status, found = doctor.daemon(paths)
        paths.gateway_socket.write_text("")
        for path, mode in ((paths.status_socket, 0o666), (paths.control_socket, 0o660)):
            path.chmod(mode)
        paths.gateway_socket.chmod(0o600)
        good = doctor.sockets(paths, running=True)
        paths.control_socket.chmod(0o666)
        open_to_all = doctor.sockets(paths, running=True)

    assert ("pid 7, serving: Fine.", "ok") == (found.sentence, found.state)
    assert 7 == status["pid"]
    assert "ok" == good.state
    assert "control.sock is open to more users (666)" in open_to_all.sentence


def test_missing_socket_of_a_running_daemon(tmp_path):
    """A daemon without its control socket is a failure."""
    found = doctor.sockets(paths_of(tmp_path), running=True)

    assert "fail" == found.state
    assert "control.sock is missing" in found.sentence


def test_port(tmp_path):
    """A port is free, ours, or somebody else's."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        config = config_of(tmp_path, gateway={"listen": listen})

        assert "fail" == doctor.port(config, None).state
        assert "fail" == doctor.port(config, {"listen": "http://127.0.0.1:1/v1"}).state
        assert "ok" == doctor.port(config, {"listen": f"http://{listen}/v1"}).state
    assert "is free" in doctor.port(config, None).sentence


def test_check_that_breaks():
    """A check that raises is a failed check; the others still run."""

    def broken():
        raise RuntimeError("oops")

    assert "Cannot check: RuntimeError: oops." == check.guarded("x", broken).sentence


def test_the_model_of_the_search_is_named(monkeypatch):
    """Both libraries are there, or those that are missing are named."""
    monkeypatch.setattr(doctor, "find_spec", lambda _: object())
    assert "ok" == doctor.sampler().state
    monkeypatch.setattr(doctor, "find_spec", lambda _: None)

    assert "needs scipy and torch" in doctor.sampler().sentence
