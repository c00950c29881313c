"""Paths and headers: what passes and what does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gateway.headers import application, endpoint, for_client, for_engine, request_id


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("/v1/completions", "completions"),
        ("/v1/chat/completions?x=%2e%2e/sleep", "chat/completions"),
        ("/v1/responses/resp_1-a:b/cancel", "responses/resp_1-a:b/cancel"),
        ("/v1", None),
        ("/v1/", None),
        ("/v1/models/", None),
        ("/v1/../sleep", None),
        ("/v1/%2e%2e/sleep", None),
        ("/v1/a%2fb", None),
        ("/v1/a\\b", None),
        ("/v1//sleep", None),
        ("/v1/./x", None),
        ("/v1/x#y", None),
        ("/v1/x?a#y", None),
        ("/v1/é", None),
        ("/v1/x?é", None),
        ("/v1/x y", None),
        ("/v1/x\n", None),
        ("http://engine/v1/models", None),
        ("/v1x/models", None),
        ("*", None),
    ],
)
def test_only_plain_paths_below_v1_are_endpoints(target, found):
    """No escape, no dot segment, no other form of a target."""
    assert found == endpoint(target)


@given(st.text())
def test_no_target_leaves_v1(target):
    """Whatever passes is a path that every server reads in the same way."""
    found = endpoint(target)
    if found is not None:
        assert target.startswith(f"/v1/{found}")
        assert not {"", ".", ".."} & set(found.split("/"))


def test_hop_by_hop_headers_end_here_in_both_directions():
    """Those of the standard, those named in Connection, and what names the peer."""
    sent = [
        ("Host", "x"),
        ("Connection", "close, X-Private"),
        ("connection", "X-Other"),
        ("x-private", "1"),
        ("X-Other", "1"),
        ("TE", "trailers"),
        ("Upgrade", "h2c"),
        ("Transfer-Encoding", "chunked"),
        ("Content-Length", "3"),
        ("Expect", "100-continue"),
        ("X-Forwarded-For", "1.2.3.4"),
        ("Forwarded", "for=1.2.3.4"),
        ("Authorization", "Bearer secret"),
        ("X-API-Key", "secret"),
        ("Accept", "a"),
        ("Accept", "b"),
    ]

    assert [("Accept", "a"), ("Accept", "b")] == for_engine(sent)
    assert [("Content-Length", "3"), ("Set-Cookie", "a")] == for_client(
        [("Content-Length", "3"), ("Keep-Alive", "5"), ("Set-Cookie", "a")]
    )


def test_framing_cannot_be_taken_away_by_naming_it():
    """`Connection: content-length` would make a body of unknown end."""
    answer = [("Connection", "Content-Length"), ("Content-Length", "3")]

    assert [("Content-Length", "3")] == for_client(answer)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, "default"),
        ("  ", "default"),
        ("coder", "coder"),
        (" a b/c\x1b[1m\u00e9 ", "a_b_c__1m_"),
        ("x" * 80, "x" * 64),
    ],
)
def test_application_names_are_made_harmless(value, name):
    """They end in logs, tables and terminals."""
    assert name == application(value)


@pytest.mark.parametrize(
    ("value", "kept"), [("abc-1", "abc-1"), (None, None), ("a b", None), ("x" * 300, None)]
)
def test_a_clients_request_id_is_kept_if_it_can_be_sent_on(value, kept):
    """Otherwise the gateway makes one."""
    assert kept == request_id(value)
