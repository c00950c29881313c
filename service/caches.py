"""vLLM's caches: a compile cache of its own per drafter and draft length, model facts shared."""

import contextlib
import os
from pathlib import Path

MODEL_INFOS = "modelinfos"


def share_model_infos(root: Path) -> None:
    """Let a cache root use the model facts of all others.

    A cold cache makes vLLM import itself once more per model, in a process of its own, to look at
    its class: 13 s of each start, twice with a drafter (measured on two cores). The key is a hash
    of the model's source file, so sharing is safe; the compile caches beside it must stay apart.
    """
    usual = os.environ.get("VLLM_CACHE_ROOT") or os.path.join(  # noqa: PTH118  vLLM's own words
        os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")), "vllm"
    )
    link, shared = root / MODEL_INFOS, Path(usual) / MODEL_INFOS
    with contextlib.suppress(OSError, RuntimeError):  # it only costs time
        shared.mkdir(parents=True, exist_ok=True)
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not link.exists():
            link.symlink_to(shared)
