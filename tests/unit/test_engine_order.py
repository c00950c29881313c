"""The order for an engine's unit: what tunerd writes is read, and nothing else is obeyed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.errors import ConfigError
from profiles.knobs import Knobs
from service.engine_order import UNITS, Order, log_name, slot_of
from service.engine_record import EngineRecord

KNOBS = Knobs(drafter="ngram", draft_length=5, live=True, draft_schedule=((1, 8, 5), (9, 64, 2)))
GOOD = {
    "token": "0123456789abcdef",
    "at": "20261126T031500",
    "knobs": {"drafter": "ngram", "draft_length": 5},
    "profile": "2fac501518f0",
    "purpose": "serve",
    "live": True,
    "launch": "0123456789ab",
}


def record(**changes):
    """The record of an engine that gets a unit."""
    fields = {
        "token": GOOD["token"],
        "profile": "p",
        "purpose": "trial",
        "knobs": KNOBS.canonical(),
        "launch": "0123456789ab",
        "socket": "/r/engine-0123456789abcdef.sock",
        "log": "/l/" + log_name("20261126T031500", GOOD["token"]),
        "live": True,
        "unit": UNITS[0],
    }
    return EngineRecord(**(fields | changes))


def parsed(**changes):
    return Order.parse(json.dumps({**GOOD, **changes}).encode())


def test_what_tunerd_writes_is_what_the_launcher_reads():
    """Knobs, identity and the names of socket and log come back as they were."""
    order = Order.parse(Order.of(record()).text().encode())

    assert KNOBS == order.knobs
    assert ("p", "trial", True) == (order.profile, order.purpose, order.live)
    assert record().socket.endswith("/" + order.socket_name)
    assert record().log.endswith("/" + order.log_name)


def test_an_order_holds_the_canonical_knobs():
    """Equal knobs are equal text: what is not set is not written."""
    order = json.loads(Order.of(record(knobs=Knobs().canonical())).text())

    assert {"draft_length": "off"} == order["knobs"]
    assert set(GOOD) == set(order)


@pytest.mark.parametrize(
    "changes",
    [
        {"token": "../../etc/cron.d"},
        {"token": "0123456789ABCDEF"},
        {"token": "0123456789abcdef\n"},
        {"token": "0123456789abcde"},
        {"at": "../20261126T0315"},
        {"at": "20261126T031500\n"},
        {"at": "\u06620261126T03150"},
        {"profile": "a\nforged line"},
        {"profile": "../../x"},
        {"profile": ""},
        {"purpose": "other"},
        {"live": "yes"},
        {"live": 1},
        {"launch": "x"},
        {"knobs": "off"},
        {"knobs": {"max_num_seqs": -1}},
        {"knobs": {"gpu_memory_utilization": 1.5}},
        {"knobs": {"performance_mode": "--trust-remote-code"}},
        {"knobs": {"drafter": "ngram"}},
        {"knobs": {"args": ["--trust-remote-code"]}},
        {"command": ["sh", "-c", "id"]},
        {"args": ["--chat-template", "/x"]},
        {"env": {"LD_PRELOAD": "/tmp/x.so"}},
        {"cwd": "/tmp"},
        {"socket": "/run/tuner/control.sock"},
    ],
)
def test_an_order_of_somebody_else_is_refused(changes):
    """Names that leave their folder, other types, and every key that an order does not have."""
    (key,) = changes
    with pytest.raises(ConfigError, match=key) as caught:
        parsed(**changes)

    assert 78 == caught.value.exit_code
    assert "\n" not in caught.value.sentence()


def test_the_same_order_unharmed_is_accepted():
    """The cases above are refused for what was changed."""
    assert "0123456789abcdef" == parsed().token


@pytest.mark.parametrize("key", sorted(GOOD))
def test_an_order_lacks_nothing(key):
    """A field that is not there has no default that somebody could rely on."""
    with pytest.raises(ConfigError, match=key):
        Order.parse(json.dumps({name: GOOD[name] for name in GOOD if name != key}).encode())


@given(st.binary(max_size=200))
def test_no_bytes_are_an_order(raw):
    """Garbage is a sentence, never a traceback."""
    with pytest.raises(ConfigError):
        Order.parse(raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.sampled_from(sorted(GOOD)), JSON)
def test_whatever_stands_in_a_field_an_order_is_harmless(key, value):
    """What is accepted has names without a slash, a dot at the start or a control character."""
    try:
        order = parsed(**{key: value})
    except ConfigError as error:
        assert "\n" not in error.sentence()  # noqa: PT017  most values are refused
        return

    for name in (order.socket_name, order.log_name, order.profile, order.token):
        assert name.isascii()
        assert name.isprintable()
        assert "/" not in name
    assert order.purpose in {"serve", "trial"}


def test_units_have_slots():
    """Unit and order are found by the same letter."""
    assert ["a", "b"] == [slot_of(unit) for unit in UNITS]
