"""Which cards belong to the engine."""

import pytest

from tuner.devices import visible

CARDS = ("GPU-aa11", "GPU-ab22", "GPU-cc33")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("0", {"GPU-aa11"}),
        ("2,0", {"GPU-cc33", "GPU-aa11"}),
        (" 1 , 2 ", {"GPU-ab22", "GPU-cc33"}),
        ("GPU-cc33", {"GPU-cc33"}),
        ("GPU-aa", {"GPU-aa11"}),
        ("GPU-a", set()),  # of two
        ("", set()),
        ("-1", set()),
        ("0,-1,1", {"GPU-aa11"}),  # as CUDA: the list ends there
        ("7", set()),
        ("NoDevFiles", set()),
    ],
)
def test_what_cuda_would_leave(wanted, expected):
    """Numbers and beginnings of UUIDs, up to the first word that names no card."""
    assert expected == visible({"CUDA_VISIBLE_DEVICES": wanted}, CARDS)


def test_without_the_variable_every_card_is_the_engines():
    """None, so that a card that appears later is seen too."""
    assert visible({"PATH": "/bin"}, CARDS) is None
