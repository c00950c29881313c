import inspect

import pytest

from profiles import errors
from profiles.errors import BusyError, ExitCode, TunerError

ALL = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, TunerError)
]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_is_a_sentence_by_itself(kind):
    """An error that was raised without a word still says something."""
    message = kind().message

    assert message == str(kind())
    assert message[0].isupper()
    assert message.endswith(".")


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_and_an_exit_code(kind):
    """Every error ends a command with a documented status, and a request with a failing one."""
    assert kind.exit_code in set(ExitCode) - {ExitCode.OK}
    assert 400 <= kind.http_status < 600


def test_the_sentence_ends_with_what_to_do():
    """Message and hint are read together."""
    assert "It broke. Restart it." == TunerError("It broke.", hint="Restart it.").sentence()
    assert "It broke." == TunerError("It broke.").sentence()


def test_a_hint_can_be_replaced_without_changing_others():
    """A hint of one error is not that of its class."""
    BusyError(hint="Wait.")

    assert "`state_dir`" in BusyError().hint
