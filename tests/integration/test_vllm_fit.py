"""What the live knobs rely on, in vLLM's own source: the installed one and other releases."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tuner.command_line import count_of
from tuner.fit import LOST, inspect, installed_root

pytestmark = pytest.mark.vllm

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "vllm-versions.md"
UNREACHABLE = 69


async def test_the_installed_vllm_has_everything():
    """Nothing that the live knobs rely on is missing in the vLLM that our tests run."""
    root = await installed_root([sys.executable], {})
    found = inspect(root)

    assert () == found.missing
    assert frozenset(LOST) == found.capabilities


READ_AS_VLLM = """
import argparse, json, sys
from vllm.utils.argparse_utils import human_readable_int_or_auto as read
for text in sys.argv[1:]:
    try:
        print(json.dumps(read(text)))
    except (ValueError, argparse.ArgumentTypeError):
        print("null")
"""


def test_a_number_of_tokens_is_read_as_vllm_reads_it():
    """The platform's length is the one that vLLM makes of the same text; its -1 is none."""
    texts = ["4096", "4k", "4K", "25.6k", "2M", "3g", "1T", "auto", "-1", "1.5K", "x"]
    command = [sys.executable, "-c", READ_AS_VLLM, *texts]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()[-len(texts) :]]

    assert [None if count == -1 else count for count in said] == [count_of(text) for text in texts]


@pytest.mark.timeout(900)  # a wheel of 130 MB where nothing is cached
@pytest.mark.parametrize("release", ["0.31.0", "0.30.0"])
def test_another_release_is_as_documented(release):
    """The newest other release, and the newest that lacks something, are what our page says."""
    command = [sys.executable, str(ROOT / "scripts" / "fit"), release]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == UNREACHABLE:
        pytest.skip(done.stderr.strip())

    assert 0 == done.returncode, done.stderr
    printed = [line for line in done.stdout.splitlines() if line]
    documented = PAGE.read_text(encoding="utf-8").splitlines()
    assert f"| {release} |" in done.stdout
    assert f"vLLM {release}:" in done.stdout
    assert [] == [line for line in printed if line not in documented]
