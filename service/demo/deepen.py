"""Deepening of the demo target: the same function at a real target's cost ratio.

The committed core has four layers, so its drafter would cost as much as the target itself and
speculation would always lose.  Appended identity layers (attention output and MLP
down-projection zero) leave every output unchanged and make each target step dearer.
They come after the core's layers, so the layers the drafter reads keep their numbers.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiles.errors import UnavailableError

PAIR = Path(__file__).resolve().parent / "pair"
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
MARKER = ".deepened-from"
ZEROED = ("self_attn.o_proj.weight", "mlp.down_proj.weight")

_FORMAT = 1  # raise when the layout written here changes, so that caches are rebuilt
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


class CoreUnreadableError(UnavailableError):
    """The demo model's core is missing or not a checkpoint."""

    hint = "Install the package again; scripts/train-demo-pair makes the pair anew."

    def __init__(self, core: Path, reason: str) -> None:
        super().__init__(f"Cannot deepen the demo model in {core}: {reason}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoPair:
    """A target and the drafter trained for it, as folders vLLM can load."""

    target: Path
    drafter: Path


def demo_pair(cache: Path) -> DemoPair:
    """Return the packaged pair, its target deepened below the given cache folder."""
    target = deepen(PAIR / "target-core", cache / "demo-target")
    return DemoPair(target=target, drafter=PAIR / "drafter")


def deepen(core: Path, out: Path, *, extra_layers: int = 20) -> Path:
    """Write the core with identity layers appended to out, unless that is already there."""
    if not (core / CONFIG).is_file() or not (core / WEIGHTS).is_file():
        raise CoreUnreadableError(core, f"{CONFIG} or {WEIGHTS} not found")
    digest = _digest(core, extra_layers)
    if _marker(out) == digest:
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside the goal, because a rename is atomic only within one file system.
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        _write(core, fresh, extra_layers)
        (fresh / MARKER).write_text(digest, encoding="ascii")
        fresh.chmod(0o755)  # mkdtemp's 0700 would hide the model from an engine's own user
        _put_in_place(fresh, out, digest)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return out


def _digest(core: Path, extra_layers: int) -> str:
    """Hash everything the deepened folder depends on."""
    total = hashlib.sha256(f"{_FORMAT} {extra_layers}".encode())
    for path in sorted(p for p in core.iterdir() if p.is_file()):
        total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _marker(out: Path) -> str | None:
    """Return the digest an existing folder was written from."""
    try:
        return (out / MARKER).read_text(encoding="ascii")
    except FileNotFoundError:
        return None


def _put_in_place(fresh: Path, out: Path, digest: str) -> None:
    """Rename the finished folder to its goal, replacing a stale one."""
    if out.exists():
        # A folder cannot be renamed over a filled one; the stale one steps aside first.
        stale = Path(tempfile.mkdtemp(prefix=f".{out.name}-stale-", dir=out.parent))
        out.rename(stale / out.name)
        shutil.rmtree(stale, ignore_errors=True)
    try:
        fresh.rename(out)
    except OSError:
        # Another process may have finished the same work in between; its folder is as good.
        if _marker(out) != digest:
            raise


def _write(core: Path, folder: Path, extra_layers: int) -> None:
    """Write the deepened checkpoint into an empty folder."""
    config = json.loads((core / CONFIG).read_text(encoding="utf-8"))
    layers: int = config["num_hidden_layers"]
    config["num_hidden_layers"] = layers + extra_layers
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    _write_weights(core, folder / WEIGHTS, layers, extra_layers)
    for path in core.iterdir():
        if path.is_file() and path.name not in {CONFIG, WEIGHTS}:
            shutil.copyfile(path, folder / path.name)


def _write_weights(core: Path, path: Path, layers: int, extra_layers: int) -> None:
    """Write the core's tensors, then copies of its last layer with zeroed outputs."""
    blob = (core / WEIGHTS).read_bytes()
    header, data = _split(core, blob)
    meta = header.pop("__metadata__", None)
    last = {
        match[2]: tensor
        for name, tensor in header.items()
        if (match := _LAYER.fullmatch(name)) and int(match[1]) == layers - 1
    }
    if not last.keys() >= set(ZEROED):
        raise CoreUnreadableError(core, f"layer {layers - 1} lacks {' or '.join(ZEROED)}")

    chunks: list[bytes | memoryview] = [data]
    offset = len(data)
    for index in range(layers, layers + extra_layers):
        for suffix, tensor in last.items():
            begin, end = tensor["data_offsets"]
            size = end - begin
            chunks.append(bytes(size) if suffix in ZEROED else data[begin:end])
            header[f"model.layers.{index}.{suffix}"] = tensor | {
                "data_offsets": [offset, offset + size]
            }
            offset += size
    if meta is not None:
        header["__metadata__"] = meta

    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # readers want the data aligned to eight bytes
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(chunks)
        file.flush()
        os.fsync(file.fileno())


def _split(core: Path, blob: bytes) -> tuple[dict[str, Any], memoryview]:
    """Split a safetensors file into its header and its data."""
    try:
        (length,) = struct.unpack_from("<Q", blob)
        header: dict[str, Any] = json.loads(blob[8 : 8 + length])
    except (struct.error, ValueError) as error:
        raise CoreUnreadableError(core, f"{WEIGHTS} has no safetensors header") from error
    return header, memoryview(blob)[8 + length :]
