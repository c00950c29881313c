import pytest

from profiles.classes import (
    Lengths,
    RequestClass,
    RequestShape,
    Sampling,
    WorkloadClass,
    load_bin,
    request_class,
)


def shape(**fields):
    """A balanced greedy request, with what the test is about."""
    base = {
        "endpoint": "completions",
        "prompt_tokens": 100,
        "max_tokens": 128,
        "temperature": 0.0,
        "structured": False,
        "stream": True,
    }
    return RequestShape(**(base | fields))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "greedy.balanced"),
        ({"temperature": 0.7}, "sampled.balanced"),
        ({"temperature": 0.7, "structured": True}, "structured.balanced"),
        ({"max_tokens": 24}, "greedy.short-out"),
        ({"max_tokens": 25}, "greedy.balanced"),
        ({"max_tokens": 349}, "greedy.balanced"),
        ({"max_tokens": 350}, "greedy.long-out"),
        ({"max_tokens": None}, "greedy.long-out"),
        ({"prompt_tokens": 1023}, "greedy.balanced"),
        ({"prompt_tokens": 1024, "max_tokens": 8}, "greedy.long-in"),
    ],
)
def test_a_request_has_one_class_by_its_shape(fields, expected):
    """Sampling and lengths decide the class, a long prompt before a short answer."""
    assert expected == str(request_class(shape(**fields)))


@pytest.mark.parametrize(
    ("concurrency", "expected"),
    [(0.0, "single"), (1.5, "single"), (1.6, "low"), (6.0, "low"), (24.0, "mid"), (25.0, "high")],
)
def test_a_load_without_history_is_in_its_plain_bin(concurrency, expected):
    """Each bin ends at its bound, which belongs to it."""
    assert expected == load_bin(concurrency)
    assert expected == load_bin(concurrency, "not a load")


@pytest.mark.parametrize(
    ("concurrency", "previous", "expected"),
    [
        (1.79, "single", "single"),  # the border is 1.5, and 1.5 x 1.2 = 1.8
        (1.81, "single", "low"),
        (1.3, "low", "low"),  # 1.5 x 0.8 = 1.2
        (1.19, "low", "single"),
        (100.0, "single", "high"),
        (0.5, "high", "single"),
        (20.0, "high", "high"),
        (19.1, "high", "mid"),
    ],
)
def test_a_load_near_a_border_keeps_its_bin(concurrency, previous, expected):
    """A fifth beyond the border is needed to change, so that a load at it does not flap."""
    assert expected == load_bin(concurrency, previous)


@pytest.mark.parametrize(
    "text", ["", "greedy", "greedy.balanced", "greedy.balanced.huge", "a.b.low"]
)
def test_a_workload_that_is_none_is_refused(text):
    """Only the text of a class parses as one."""
    with pytest.raises(ValueError, match="is not a"):
        WorkloadClass.parse(text)


def test_classes_have_an_order():
    """Lists of classes can be sorted for people."""
    greedy = RequestClass(sampling=Sampling.GREEDY, lengths=Lengths.BALANCED)
    sampled = RequestClass(sampling=Sampling.SAMPLED, lengths=Lengths.BALANCED)

    assert [greedy, sampled] == sorted([sampled, greedy])
