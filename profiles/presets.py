"""Published configurations: where a search may start, never what it believes."""

import re
import tomllib
from collections.abc import Sequence
from importlib import resources

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, PositiveFloat, PositiveInt

# methods that draft a block in one pass, and those that draft token by token, have their best
# draft lengths in different places
FAMILIES: tuple[frozenset[str], ...] = (
    frozenset({"dflash", "dflash2", "dspark"}),
    frozenset({"mtp", "eagle", "eagle3", "draft_model"}),
    frozenset({"ngram"}),
)


class Preset(BaseModel):
    """One published configuration, as its author stated it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    source_url: HttpUrl
    hardware: str  # "not stated" where the source is silent, as in the next three
    engine: str
    model: str
    drafter: str
    method: str  # vLLM's name of it
    draft_length: PositiveInt  # tokens
    max_num_batched_tokens: PositiveInt | None = None  # None: not published
    concurrency: PositiveInt | None = None  # requests
    tok_s: PositiveFloat  # output tokens per second, whole server
    off_tok_s: PositiveFloat | None = None  # the same without speculation
    workload: str
    notes: str = Field(default="")

    @property
    def on_vllm(self) -> bool:
        """Whether it was measured on vLLM."""
        return self.engine.startswith("vLLM")


def load() -> tuple[Preset, ...]:
    """The presets that come with this package, by name."""
    folder = resources.files("profiles").joinpath("presets")
    files = sorted(
        (entry for entry in folder.iterdir() if entry.name.endswith(".toml")),
        key=lambda entry: entry.name,
    )
    return tuple(
        Preset(
            name=entry.name.removesuffix(".toml"),
            **tomllib.loads(entry.read_text(encoding="utf-8")),
        )
        for entry in files
    )


def warm_starts(
    presets: Sequence[Preset],
    *,
    method: str,
    limit: int,
    gpu: str | None = None,
    longest: int | None = None,
) -> list[int]:
    """Draft lengths to try early: nearest method first, then vLLM before others, then GPU.

    Presets of an unrelated way of drafting say nothing and are left out; `longest` is the
    drafter's maximum.
    """
    near = [preset for preset in presets if _method_distance(preset.method, method) < 2]
    near.sort(
        key=lambda preset: (
            _method_distance(preset.method, method),
            not preset.on_vllm,
            -_likeness(preset.hardware, gpu or ""),
            preset.name,
        )
    )
    lengths = [preset.draft_length for preset in near]
    fitting = [length for length in lengths if longest is None or length <= longest]
    return list(dict.fromkeys(fitting))[:limit]


def _method_distance(one: str, other: str) -> int:
    if one == other:
        return 0
    return 1 if any(one in family and other in family for family in FAMILIES) else 2


def _likeness(one: str, other: str) -> float:
    """Shared words of two hardware names, so that `NVIDIA GeForce RTX 5090` is near an RTX 5090."""
    words = [set(re.findall(r"[a-z0-9]+", name.lower())) for name in (one, other)]
    union = words[0] | words[1]
    return len(words[0] & words[1]) / len(union) if union else 0.0
