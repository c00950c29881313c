"""Reserved flags, lines, and the configuration as text."""

import pytest

from tuner import config_checks, config_file, config_schema, config_text


@pytest.mark.parametrize(
    ("argument", "flag"),
    [
        ("--max_num_seqs=8", "--max-num-seqs"),
        ("--max-num-s", "--max-num-seqs"),
        ("-sc.method", "-sc"),
        ("--speculative-config.model=x", "--speculative-config"),
        ("--port", "--port"),
        ("--scheduler-cls", "--scheduler-cls"),
        ("--config=/x.yaml", "--config"),
        ("--max-model-len", None),
        ("--config-format", None),
        ("--model-impl=auto", None),
        ("--enforce-eager", None),
        ("-tp", None),
        ("--", None),
        ("8", None),
    ],
)
def test_reserved_flags(argument, flag):
    """Flags that tunerd sets are refused in every spelling that vLLM's parser takes."""
    assert flag == config_checks.reserved_flag(argument)


def test_every_knob_flag_is_reserved_with_a_key_that_exists():
    """The sentence about a reserved flag never points to a key that is not there."""
    keys = {setting.path for setting in config_schema.settings()}
    named = [use for use in config_checks.RESERVED.values() if use.startswith("engine.default.")]

    assert 6 == len(named)
    assert set(named) <= keys


def test_secrets_are_hidden():
    """`config show` prints no token."""
    shown = config_text.redacted({"engine": {"env": {"HF_TOKEN": "hf_x", "OMP_NUM_THREADS": "2"}}})

    assert {"engine": {"env": {"HF_TOKEN": "(hidden)", "OMP_NUM_THREADS": "2"}}} == shown


def test_line_of_finds_keys_in_tables():
    """Lines are found for plain keys, dotted keys, tables and items of lists of tables."""
    text = 'a = 1\n[b]\nc.d = 2\n[[e]]\nf = 1\n[[e]]\nf = 2\n[b.g]\n"h" = 3\n'
    wanted = {("a",): 1, ("b", "c", "d"): 3, ("e", 0, "f"): 5, ("e", 1, "f"): 7, ("b", "g", "h"): 9}
    found = {path: config_checks.line_of(text, path) for path in wanted}

    assert wanted == found
    assert config_checks.line_of(text, ("no", "such")) is None


def test_candidates_end_in_etc(tmp_path):
    """A machine-wide file comes last."""
    assert "/etc/tuner/tuner.toml" == str(config_file.candidates({})[-1])
