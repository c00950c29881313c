"""What vLLM's command line says."""

import pytest

from tuner.command_line import count_of, value_of


@pytest.mark.parametrize(
    ("args", "value"),
    [
        (("--dtype", "half"), "half"),
        (("--dtype=half",), "half"),
        (("--max-num-seqs", "3", "--dtype", "auto"), "auto"),
        (("--dtype=half", "--dtype", "auto"), "auto"),
        (("--dtype", "auto", "--dtype=half"), "half"),
        (("--dtype-extra", "x"), None),
        (("--dtype",), None),
        ((), None),
    ],
)
def test_the_value_of_a_flag(args, value):
    """Both spellings of argparse, the last one counts, and no other flag of the same beginning."""
    assert value == value_of(args, "--dtype")


@pytest.mark.parametrize("args", [("-tp", "2"), ("--tensor_parallel_size=2",)])
def test_a_flag_has_more_than_one_name(args):
    """The short one, and the long one with underscores, which vLLM takes for dashes."""
    assert "2" == value_of(args, "--tensor-parallel-size", "-tp")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("4096", 4096),
        (" 4k ", 4000),
        ("4K", 4096),
        ("25.6k", 25_600),
        ("2m", 2_000_000),
        ("2M", 2 * 1024**2),
        ("1g", 10**9),
        ("1T", 1024**4),
        ("auto", None),
        ("-1", None),
        ("1.5K", None),
        ("4.5", None),
        ("many", None),
        ("", None),
    ],
)
def test_a_number_of_tokens(text, count):
    """Small letters are thousands, capitals powers of 1024; no number has no count."""
    assert count == count_of(text)
