"""One tunerd per card."""

import os
import secrets
import subprocess
import sys
import textwrap

import pytest

from profiles.errors import BusyError, ExitCode
from service.cards_lock import HOST, only_user, used


@pytest.fixture
def card():
    """A card that no other test knows."""
    return f"GPU-{secrets.token_hex(8)}"


@pytest.mark.parametrize(
    ("uuids", "seen", "expected"),
    [
        (["b", "a"], None, ("a", "b")),
        (["a", "b"], frozenset({"b"}), ("b",)),
        (["a"], frozenset(), (HOST,)),
        ([], None, (HOST,)),
    ],
)
def test_what_an_engine_uses(uuids, seen, expected):
    """Cards by UUID as far as the engine sees them; without one it is the host."""
    assert expected == used(uuids, seen)


def test_the_second_is_refused_with_the_pid_of_the_first(card):
    """And has the status of a place that is taken; what it had already is free again."""
    other = f"{card}-other"
    with only_user([card]):
        with (
            pytest.raises(BusyError, match=f"pid {os.getpid()}, uses {card}") as refused,
            only_user([other, card]),
        ):
            pytest.fail("both hold it")
        with only_user([other]):
            pass
    with only_user([card]):
        pass

    assert ExitCode.BUSY is refused.value.exit_code
    assert "CUDA_VISIBLE_DEVICES" in refused.value.hint


def test_a_killed_one_holds_nothing(card):
    """The kernel takes the lock away, and a child that lives on does not keep it."""
    code = f"""
        import subprocess, sys
        from service.cards_lock import only_user
        with only_user(["{card}"]):
            child = subprocess.Popen(["sleep", "60"])
            print(child.pid, flush=True)
            sys.stdin.read()
    """
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(BusyError, match=f"pid {holder.pid}"), only_user([card]):
            pytest.fail("both hold it")
        holder.kill()
        holder.wait()
        with only_user([card]):
            pass
    finally:
        os.kill(child, 9)
        holder.communicate()
