"""Keys: what is printed once, what is kept, what is refused."""

import json

import cli_harness
import pytest
from cli_harness import tuner

from tuner import keys

config = cli_harness.config  # fixture

SALT = bytes(range(16))


@pytest.fixture
def file(config):
    """The keys file of a configuration that names one, beside it."""
    config.write_text(config.read_text() + '[gateway]\nkeys_file = "gateway-keys"\n')
    return config.parent / "gateway-keys"


def test_a_key_finds_its_application_and_no_other():
    """Salts differ, names differ; a prefix, an empty and an endless key are nobody's."""
    secrets = {name: keys.generate() for name in ("coder", "chat")}
    entries = [keys.Key.of(name, secret, keys.salt()) for name, secret in secrets.items()]
    wrong = ["", secrets["chat"][:-1], secrets["chat"] + "x", "x" * 100_000, "\udce9"]

    assert ["coder", "chat"] == [keys.application(entries, one) for one in secrets.values()]
    assert [None] * len(wrong) == [keys.application(entries, one) for one in wrong]


def test_every_key_is_compared_in_constant_time(monkeypatch):
    """The first match does not end the search, so the time tells nothing of a key's place."""
    compared = []

    def compare(one, other):
        compared.append(one)
        return one == other

    monkeypatch.setattr(keys.hmac, "compare_digest", compare)
    entries = [keys.Key.of(name, name, SALT) for name in ("a", "b", "c")]

    assert "a" == keys.application(entries, "a")
    assert 3 == len(compared)


def test_a_line_survives_writing_and_reading(tmp_path):
    """Comments and blank lines are skipped; the file is the user's alone."""
    path = tmp_path / "folder" / "keys"
    entry = keys.Key.of("coder", "secret", SALT)
    keys.write(path, [entry])
    text = path.read_text()
    path.write_text(f"# mine\n\n{text}")

    assert (entry,) == keys.read(path)
    assert 0o600 == path.stat().st_mode & 0o777
    assert "secret" not in text


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_can_use_is_refused(tmp_path, mode):
    """Whoever can write it lets himself in."""
    path = tmp_path / "keys"
    keys.write(path, [])
    path.chmod(mode)

    with pytest.raises(keys.KeysFileError, match=f"mode {mode:04o}"):
        keys.read(path)
    assert () == keys.read(path, private=False)


def test_a_line_that_is_no_entry_is_named_and_not_quoted(tmp_path):
    """Somebody may have pasted the key itself."""
    path = tmp_path / "keys"
    keys.write(path, [keys.Key.of("a", "b", SALT)])
    path.write_text(path.read_text() + "tuner-pasted-key\n")

    with pytest.raises(keys.KeysFileError, match="line 2") as caught:
        keys.read(path)
    assert "pasted" not in caught.value.sentence()


def test_systemd_gives_a_file_only_when_it_is_there(tmp_path):
    """Other credentials of the unit do not turn keys on."""
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    before = keys.credential(environ)
    (tmp_path / "gateway-keys").touch()

    assert None is before
    assert tmp_path / "gateway-keys" == keys.credential(environ)
    assert None is keys.credential({})


def test_add_prints_the_key_once_and_keeps_its_hash(file):
    """The printed key is valid, and nothing in the file shows it."""
    added = tuner("keys", "add", "coder", "--json")
    secret = json.loads(added.stdout)["key"]
    plain = tuner("keys", "add", "chat").stdout.strip()
    entries = keys.read(file)

    assert ["coder", "chat"] == [keys.application(entries, one) for one in (secret, plain)]
    assert secret not in file.read_text()
    assert "coder\nchat\n" == tuner("keys", "list").stdout


def test_a_second_key_of_a_name_is_refused(file):
    """One key is one application; the first one stays."""
    tuner("keys", "add", "coder")
    before = file.read_text()
    again = tuner("keys", "add", "coder")

    assert 1 == again.exit_code
    assert "tuner keys remove coder" in again.stderr
    assert before == file.read_text()


def test_remove_ends_a_key_and_knows_no_other_name(file):
    """The other key stays; removing what is not there is a no."""
    secret = tuner("keys", "add", "coder").stdout.strip()
    tuner("keys", "add", "chat")

    assert 0 == tuner("keys", "remove", "coder").exit_code
    assert None is keys.application(keys.read(file), secret)
    assert 1 == tuner("keys", "remove", "coder").exit_code
    assert {"v": 1, "applications": ["chat"]} == json.loads(tuner("keys", "list", "--json").stdout)


@pytest.mark.parametrize("name", ["a b", "", "a:b", "x" * 65, "é"])
def test_names_are_what_an_application_may_be_called(file, name):
    """A name that the gateway would change could not be pinned."""
    assert 2 == tuner("keys", "add", name).exit_code
    assert not file.exists()


def test_without_a_file_in_the_configuration_there_is_a_sentence(config):
    """It says which setting to set."""
    answer = tuner("keys", "add", "coder")

    assert 78 == answer.exit_code
    assert "gateway.keys_file is not set" in answer.stderr
