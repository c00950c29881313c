"""The question for every tool: which draft configuration of the demo pair at eight clients."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from profiles.knobs import Drafter, Knobs, speculative_config

CONCURRENCY = 8
TOKENS = 96  # of one answer
LENGTHS = (1, 2, 3, 4, 6, 15)  # draft lengths of the DFlash drafter
BROKEN_LENGTH = 3
ENGINE_ARGS = ("--max-model-len", "1024", "--enforce-eager", "--dtype", "float32")
ENGINE_ENV = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
# vLLM refuses a minimum above the maximum, so this candidate can never start
BROKEN = Drafter(
    name="broken",
    method="ngram",
    max_draft_length=BROKEN_LENGTH,
    options={"prompt_lookup_max": 2, "prompt_lookup_min": 5},
)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What one run of the comparison may cost."""

    trials: int  # of each search that has a budget
    seconds: float  # of measuring in one trial
    prompts: int  # of `vllm bench serve` in one run
    rounds: int  # of the judge
    pairs: int  # of a promotion
    lengths: tuple[int, ...] = LENGTHS


FULL = Budget(trials=8, seconds=15.0, prompts=48, rounds=3, pairs=3)
QUICK = Budget(trials=2, seconds=4.0, prompts=16, rounds=2, pairs=2, lengths=(3,))


def candidates(lengths: tuple[int, ...]) -> dict[str, Knobs]:
    """Every configuration by its label: off, the DFlash lengths, and one that vLLM refuses."""
    found = [
        Knobs(),
        *(Knobs(drafter="dflash", draft_length=k) for k in lengths),
        Knobs(drafter=BROKEN.name, draft_length=BROKEN_LENGTH),
    ]
    return {knobs.label(): knobs for knobs in found}


def title(knobs: Knobs) -> str:
    """The label, told apart from the same draft length in an engine that was started for it."""
    return f"{knobs.label()} (live)" if knobs.live else knobs.label()


def config_of(knobs: Knobs, drafters: Mapping[str, Drafter]) -> dict[str, Any] | None:
    """What vLLM's `--speculative-config` gets; None for off."""
    if knobs.drafter is None:
        return None
    return speculative_config(drafters[knobs.drafter], knobs.draft_tokens)


def option(knobs: Knobs, drafters: Mapping[str, Drafter]) -> str:
    """The same as one word of a list of options; vLLM reads `null` as off."""
    return json.dumps(config_of(knobs, drafters), sort_keys=True, separators=(",", ":"))


def label_of(config: dict[str, Any] | None) -> str:
    """The label of the candidate that a speculative configuration belongs to."""
    if config is None:
        return Knobs().label()
    broken = config["method"] == BROKEN.method
    name = BROKEN.name if broken else str(config["method"])
    return Knobs(drafter=name, draft_length=config["num_speculative_tokens"]).label()
