"""P: what vLLM's command line says, read as vLLM reads it."""

import re
from collections.abc import Sequence

_COUNT = re.compile(r"(\d+(?:\.\d+)?)([kmgtKMGT]?)")
_THOUSANDS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def value_of(args: Sequence[str], *flags: str) -> str | None:
    """The value of a flag under any of its names; the last one counts, as in vLLM.

    `--flag value`, `--flag=value` and `--a_flag` for `--a-flag` are the same to vLLM
    (FlexibleArgumentParser).
    """
    found = None
    for index, arg in enumerate(args):
        name, assigned, value = arg.partition("=")
        if name.startswith("--"):
            name = name.replace("_", "-")
        if name not in flags:
            continue
        if assigned:
            found = value
        elif index + 1 < len(args):
            found = args[index + 1]
    return found


def count_of(text: str) -> int | None:
    """A number of tokens as vLLM lets one write it: 4096, 4k, 4.1k (thousands), 4K (of 1024).

    None for `auto`, -1 and what vLLM refuses (`human_readable_int_or_auto`,
    vllm/utils/argparse_utils.py).
    """
    match = _COUNT.fullmatch(text.strip())
    if match is None:
        return None
    number, suffix = match.groups()
    if suffix in _THOUSANDS:
        return int(float(number) * _THOUSANDS[suffix])
    return int(number) * _BINARY[suffix] if number.isdigit() else None
