"""The keyring: which header counts, and when a changed file is taken over."""

import pytest

from service.gateway.errors import ManyWrongKeysError, UnauthorizedError
from service.gateway.guesses import MOST
from service.gateway.keyring import LOOK_S, Keyring, check_exposure
from tuner import keys
from tuner.config import GatewayConfig

ADDRESS = "10.0.0.1"
ENTRIES = [keys.Key.of(name, f"key-of-{name}", keys.salt()) for name in ("coder", "chat")]


class Clock:
    """Time that stands until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "keys"
    keys.write(path, ENTRIES[:1])
    return path


@pytest.fixture
def ring(path, clock):
    return Keyring(path, clock=clock)


def bearer(name):
    """The headers of an application's request."""
    return [("Authorization", f"Bearer key-of-{name}")]


@pytest.mark.parametrize(
    ("endpoint", "pairs"),
    [
        ("completions", [("authorization", "bearer  key-of-coder ")]),
        ("messages", [("X-Api-Key", "key-of-coder")]),
        ("messages/count_tokens", [("x-api-key", "key-of-coder")]),
        ("models", [("x-api-key", "key-of-coder")]),
        (None, bearer("coder")),
    ],
)
def test_where_a_key_may_be(ring, endpoint, pairs):
    """A bearer token everywhere, Anthropic's own header where its clients ask."""
    assert "coder" == ring.application(endpoint, pairs, ADDRESS)


@pytest.mark.parametrize(
    ("endpoint", "pairs"),
    [
        ("completions", []),
        ("completions", [("x-api-key", "key-of-coder")]),
        ("completions", [("Authorization", "Basic key-of-coder")]),
        ("completions", [("Authorization", "key-of-coder")]),
        ("completions", bearer("coder") + bearer("coder")),
        ("completions", bearer("chat")),
        ("messages", [("x-api-key", "key-of-coder")] * 2),
        ("messages", [("x-api-key", "key-of-coder"), *bearer("chat")]),
    ],
)
def test_what_is_no_key(ring, endpoint, pairs):
    """None, one in another scheme or place, two, another's: all get the same refusal."""
    with pytest.raises(UnauthorizedError) as caught:
        ring.application(endpoint, pairs, ADDRESS)

    assert "Bearer" == caught.value.headers()["WWW-Authenticate"]


def test_a_changed_file_is_taken_over_at_most_once_a_second(ring, path, clock):
    """An added key becomes valid without a restart; the file is not looked at on each request."""
    keys.write(path, ENTRIES)
    clock.now = LOOK_S - 0.01
    with pytest.raises(UnauthorizedError):
        ring.application(None, bearer("chat"), ADDRESS)
    clock.now = LOOK_S

    assert "chat" == ring.application(None, bearer("chat"), ADDRESS)


def test_a_broken_file_changes_nothing(ring, path, clock, caplog):
    """Half an edit must not lock everybody out; the log says so."""
    path.write_text("key-of-coder\n")
    clock.now = LOOK_S

    assert "coder" == ring.application(None, bearer("coder"), ADDRESS)
    assert "stay in force" in caplog.text
    assert "key-of-coder" not in caplog.text


@pytest.mark.parametrize("remove", [lambda path: path.unlink(), lambda path: keys.write(path, [])])
def test_a_removed_key_is_refused(ring, path, clock, remove):
    """Without its file no key is valid: what an operator takes away is gone."""
    remove(path)
    clock.now = LOOK_S

    with pytest.raises(UnauthorizedError):
        ring.application(None, bearer("coder"), ADDRESS)


def test_wrong_keys_are_counted_and_valid_ones_never_refused(ring, caplog):
    """From one address: 401 so many times, then 429; behind a proxy others go on."""
    for _ in range(MOST):
        with pytest.raises(UnauthorizedError):
            ring.application(None, bearer("chat"), ADDRESS)
    assert "" == caplog.text
    for _ in range(2):
        with pytest.raises(ManyWrongKeysError) as caught:
            ring.application(None, [], ADDRESS)

    told = caught.value.headers()
    assert ("60", "false") == (told["Retry-After"], told["x-should-retry"])
    assert 1 == caplog.text.count(ADDRESS)
    assert "key-of" not in caplog.text
    assert "coder" == ring.application(None, bearer("coder"), ADDRESS)
    with pytest.raises(UnauthorizedError):
        ring.application(None, [], "10.0.0.2")


def test_no_keys_at_start_is_an_error(tmp_path):
    """Neither a missing nor an empty file opens or closes the gateway silently."""
    empty = tmp_path / "empty"
    keys.write(empty, [])
    for path in (tmp_path / "missing", empty):
        with pytest.raises(keys.KeysFileError, match="keys file"):
            Keyring.of(GatewayConfig(keys_file=path), {})


def test_systemds_credential_comes_first(path, tmp_path):
    """The unit's copy is what the service may read; its mode is systemd's business."""
    given = tmp_path / "gateway-keys"
    keys.write(given, ENTRIES[1:])
    given.chmod(0o440)
    ring = Keyring.of(GatewayConfig(keys_file=path), {"CREDENTIALS_DIRECTORY": str(tmp_path)})

    assert "chat" == ring.application(None, bearer("chat"), ADDRESS)
    assert None is Keyring.of(GatewayConfig(), {})


def test_other_machines_need_keys(ring):
    """The refusal names the address and what to do."""
    check_exposure("10.0.0.1:80", loopback=False, keyring=ring)
    check_exposure("127.0.0.1:80", loopback=True, keyring=None)
    with pytest.raises(keys.ConfigError, match=r"10\.0\.0\.1:80"):
        check_exposure("10.0.0.1:80", loopback=False, keyring=None)
