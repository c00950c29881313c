"""The platform a finding holds for: hardware, engine, model and drafters, and how near two are."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from profiles.errors import ConfigError
from profiles.knobs import Drafter

EDGE_BYTES = 64 * 1024  # hashed at either end of a weight file: retraining keeps the size

# distances, nearest first; a search takes its warm starts in this order
SAME, SAME_HARDWARE_AND_MODEL, SAME_MODEL, SAME_HARDWARE, UNRELATED = range(5)


class Platform(BaseModel):
    """Everything outside the knobs that moves tok/s; equal platforms share profiles."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpu: str | None = None  # model name as NVML gives it; None on a machine without one
    gpu_count: int = Field(default=0, ge=0)
    gpu_memory_mib: PositiveInt | None = None  # of one GPU
    driver: str | None = None
    cpu: str | None = None  # model name, only without a GPU: then it decides the speed
    cpu_cores: PositiveInt | None = None
    vllm: str  # version
    model: str
    model_revision: str | None = None  # hub revision, or `local_revision` of a path
    dtype: str = "auto"
    drafters: dict[str, str] = Field(default_factory=dict)  # name -> `drafter_identity`
    max_model_len: PositiveInt | None = None  # tokens

    @model_validator(mode="after")
    def _gpu_or_cpu(self) -> Self:
        if (self.gpu is None) != (self.gpu_count == 0):
            raise ValueError("a GPU model and a GPU count belong together")
        if (self.gpu is None) == (self.cpu is None):
            raise ValueError("a platform is named by its GPU, or by its CPU when it has no GPU")
        return self

    def canonical(self) -> str:
        """JSON with sorted keys: equal platforms have equal text."""
        return json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """First 12 hex digits of the SHA-256 of the canonical text."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:12]

    @property
    def hardware(self) -> str:
        """The machine in words, such as `2x NVIDIA H200` or `8-core Xeon`."""
        if self.gpu is not None:
            return self.gpu if self.gpu_count == 1 else f"{self.gpu_count}x {self.gpu}"
        return f"{self.cpu_cores}-core {self.cpu}" if self.cpu_cores else str(self.cpu)

    def label(self) -> str:
        """A short name for people, such as `NVIDIA H200, gemma-4-26B (vLLM 0.32.0)`."""
        model = self.model.rstrip("/").rsplit("/", maxsplit=1)[-1]
        return f"{self.hardware}, {model} (vLLM {self.vllm})"


def fingerprint(
    *,
    vllm: str,
    model: str,
    model_revision: str | None,
    drafters: Mapping[str, str],
    dtype: str = "auto",
    max_model_len: int | None = None,
    gpu: str | None = None,
    gpu_count: int = 0,
    gpu_memory_mib: int | None = None,
    driver: str | None = None,
    cpu: str = "unknown CPU",
    cpu_cores: int | None = None,
) -> Platform:
    """The platform of these values; the CPU counts only where there is no GPU."""
    without = gpu is None
    return Platform(
        gpu=gpu,
        gpu_count=0 if without else max(1, gpu_count),
        gpu_memory_mib=None if without else gpu_memory_mib,
        driver=None if without else driver,
        cpu=cpu if without else None,
        cpu_cores=cpu_cores if without else None,
        vllm=vllm,
        model=model,
        model_revision=model_revision,
        dtype=dtype,
        drafters=dict(drafters),
        max_model_len=max_model_len,
    )


def drafter_identity(drafter: Drafter, revision: str | None) -> str:
    """What a drafter is, such as `dflash org/model@revision`, with its options if it has any."""
    parts = [drafter.method]
    if drafter.model is not None:
        parts.append(f"{drafter.model}@{revision or 'unknown'}")
    if drafter.options:
        parts.append(json.dumps(drafter.options, sort_keys=True, separators=(",", ":")))
    return " ".join(parts)


def distance(here: Platform, there: Platform) -> int:
    """How far findings have to travel: 0 for the same platform, then the constants above."""
    if here == there:
        return SAME
    hardware = here.hardware == there.hardware
    model = here.model == there.model
    if hardware and model:  # another driver, vLLM, revision, drafter or length
        return SAME_HARDWARE_AND_MODEL
    if model:
        return SAME_MODEL
    return SAME_HARDWARE if hardware else UNRELATED


def difference(here: Platform, there: Platform) -> str:
    """What is another here than there, such as `vLLM 0.32.0 instead of 0.31.0`, or nothing."""
    ours, theirs = here.model_dump(), there.model_dump()
    names = {"vllm": "vLLM", "gpu": "GPU", "cpu": "CPU"}
    return ", ".join(
        f"{names.get(key, key).replace('_', ' ')} {_text(value)} instead of {_text(theirs[key])}"
        for key, value in ours.items()
        if value != theirs[key]
    )


def _text(value: object) -> str:
    return "none" if value in (None, {}) else str(value)


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's model name as Linux reports it; `unknown CPU` where it does not."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "unknown CPU"
    # arm64 has no "model name"; implementer and part are what identifies a core there
    fields = dict(reversed([_field(line) for line in lines if ":" in line]))  # first core wins
    if fields.get("model name"):
        return " ".join(fields["model name"].split())
    part = " ".join(fields[key] for key in ("CPU implementer", "CPU part") if key in fields)
    return part or "unknown CPU"


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def revision_of(model: str, revision: str | None) -> str | None:
    """The content hash of a local model, or the given revision of one from a hub."""
    path = Path(model).expanduser()
    return local_revision(path) if path.is_dir() else revision


def local_revision(path: Path) -> str:
    """A hash of a model folder: config.json, and size, head and tail of every weight file.

    Raises:
        ConfigError: there is no readable model at this path.
    """
    digest = hashlib.sha256()
    try:
        digest.update((path / "config.json").read_bytes())
        for weights in sorted(path.glob("*.safetensors")):
            size = weights.stat().st_size
            digest.update(f"{weights.name}:{size};".encode())
            with weights.open("rb") as file:
                digest.update(file.read(EDGE_BYTES))
                file.seek(max(0, size - EDGE_BYTES))
                digest.update(file.read(EDGE_BYTES))
    except OSError as error:
        raise ConfigError(
            f"Cannot read a model at {path}: {error.strerror or error}.",
            hint="Give the folder that holds its config.json and safetensors files.",
        ) from error
    return f"local-{digest.hexdigest()[:12]}"
