"""The deepened demo target computes what its core computes, and is written whole or not at all."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from service.demo import deepen as module
from service.demo.deepen import CONFIG, MARKER, PAIR, WEIGHTS, ZEROED, CoreUnreadableError, deepen

CORE_LAYERS = 2
SUFFIXES = ("input_layernorm.weight", *ZEROED, "self_attn.q_proj.weight")
Tensors = dict[str, tuple[str, list[int], bytes]]


def write_core(folder: Path, *, fill: int = 1) -> Path:
    """Write a tiny checkpoint whose every tensor has bytes of its own."""
    folder.mkdir(exist_ok=True)
    names = ["model.embed_tokens.weight"]
    names += [f"model.layers.{i}.{s}" for i in range(CORE_LAYERS) for s in SUFFIXES]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for number, name in enumerate(names):
        header[name] = {
            "dtype": "BF16",
            "shape": [2, 4],
            "data_offsets": [len(data), len(data) + 16],
        }
        data += bytes([fill + number]) * 16
    text = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / CONFIG).write_text(json.dumps({"num_hidden_layers": CORE_LAYERS, "vocab_size": 8}))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def read(folder: Path) -> Tensors:
    """Read a safetensors file by its specification, independently of the code under test."""
    blob = (folder / WEIGHTS).read_bytes()
    (length,) = struct.unpack_from("<Q", blob)
    header = json.loads(blob[8 : 8 + length])
    header.pop("__metadata__", None)
    data = blob[8 + length :]
    return {
        name: (t["dtype"], t["shape"], data[slice(*t["data_offsets"])])
        for name, t in header.items()
    }


@pytest.fixture
def core(tmp_path: Path) -> Path:
    """Give a tiny core."""
    return write_core(tmp_path / "core")


def test_core_tensors_are_kept(core: Path, tmp_path: Path) -> None:
    """Every tensor of the core is in the deepened model, byte for byte."""
    before = read(core)

    after = read(deepen(core, tmp_path / "out", extra_layers=3))

    assert before == {name: after[name] for name in before}


def test_added_layers_add_nothing(core: Path, tmp_path: Path) -> None:
    """An added layer's two output projections are zero and the rest is the last core layer's."""
    tensors = read(deepen(core, tmp_path / "out", extra_layers=3))

    for index in range(CORE_LAYERS, CORE_LAYERS + 3):
        for suffix in SUFFIXES:
            dtype, shape, data = tensors[f"model.layers.{CORE_LAYERS - 1}.{suffix}"]
            wanted = bytes(len(data)) if suffix in ZEROED else data
            assert (dtype, shape, wanted) == tensors[f"model.layers.{index}.{suffix}"]


def test_no_tensor_beyond_the_added_layers(core: Path, tmp_path: Path) -> None:
    """The deepened model has the core's tensors plus one set per added layer."""
    tensors = read(deepen(core, tmp_path / "out", extra_layers=3))

    assert len(read(core)) + 3 * len(SUFFIXES) == len(tensors)


def test_data_is_aligned_and_contiguous(core: Path, tmp_path: Path) -> None:
    """The data starts at a multiple of eight and the offsets cover it without gaps."""
    blob = (deepen(core, tmp_path / "out") / WEIGHTS).read_bytes()
    (length,) = struct.unpack_from("<Q", blob)
    header = json.loads(blob[8 : 8 + length])
    offsets = sorted(t["data_offsets"] for n, t in header.items() if n != "__metadata__")

    assert length % 8 == 0
    assert [0, *(end for _, end in offsets)] == [*(begin for begin, _ in offsets), offsets[-1][1]]
    assert len(blob) - 8 - length == offsets[-1][1]


def test_configuration_counts_the_layers(core: Path, tmp_path: Path) -> None:
    """Only the number of layers changes in the configuration."""
    config = json.loads((deepen(core, tmp_path / "out", extra_layers=5) / CONFIG).read_text())

    assert config == {"num_hidden_layers": CORE_LAYERS + 5, "vocab_size": 8}


def test_other_files_are_copied(core: Path, tmp_path: Path) -> None:
    """The tokenizer travels with the model."""
    out = deepen(core, tmp_path / "out")

    assert (core / "tokenizer.json").read_bytes() == (out / "tokenizer.json").read_bytes()


def test_second_call_writes_nothing(core: Path, tmp_path: Path) -> None:
    """An up-to-date folder is returned untouched."""
    out = deepen(core, tmp_path / "out")
    before = (out.stat().st_ino, (out / WEIGHTS).stat().st_mtime_ns)

    again = deepen(core, tmp_path / "out")

    assert before == (again.stat().st_ino, (again / WEIGHTS).stat().st_mtime_ns)


def test_changed_core_is_deepened_again(core: Path, tmp_path: Path) -> None:
    """A folder made from another core is replaced."""
    out = deepen(core, tmp_path / "out")

    write_core(core, fill=100)
    deepen(core, out)

    embedding = "model.embed_tokens.weight"
    assert read(core)[embedding] == read(out)[embedding]


def test_changed_depth_is_deepened_again(core: Path, tmp_path: Path) -> None:
    """A folder with another number of layers is replaced."""
    out = deepen(core, tmp_path / "out", extra_layers=3)

    deepen(core, out, extra_layers=1)

    assert json.loads((out / CONFIG).read_text())["num_hidden_layers"] == CORE_LAYERS + 1


def test_folder_without_marker_is_replaced(core: Path, tmp_path: Path) -> None:
    """A folder nobody finished is not taken for a model."""
    out = tmp_path / "out"
    out.mkdir()
    (out / WEIGHTS).write_bytes(b"half")

    deepen(core, out)

    assert read(core).items() <= read(out).items()


@pytest.mark.parametrize("stale", [False, True])
def test_interrupted_write_leaves_no_half_folder(
    core: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, stale: bool
) -> None:
    """A write cut short leaves what was there before, and nothing beside it."""
    out = tmp_path / "cache" / "out"
    if stale:
        deepen(core, out, extra_layers=1)
    before = sorted(out.parent.rglob("*"))

    def cut(source: Path, goal: Path) -> None:
        goal.write_bytes(source.read_bytes()[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", cut)
    with pytest.raises(OSError, match="No space left"):
        deepen(core, out)

    assert before == sorted(out.parent.rglob("*"))


def test_nothing_is_left_beside_the_result(core: Path, tmp_path: Path) -> None:
    """Neither the temporary folder nor a replaced one remains."""
    cache = tmp_path / "cache"
    deepen(core, cache / "out", extra_layers=1)

    deepen(core, cache / "out", extra_layers=2)

    assert [cache / "out"] == list(cache.iterdir())


def test_engine_under_another_user_can_read_it(core: Path, tmp_path: Path) -> None:
    """The folder is readable by all, unlike the temporary folder it was."""
    out = deepen(core, tmp_path / "out")

    assert out.stat().st_mode & 0o777 == 0o755


def test_loser_of_a_race_accepts_the_winner(
    core: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes deepening at once both end with the one whole folder."""
    out = tmp_path / "out"
    put_in_place = module._put_in_place

    def win_first(fresh: Path, goal: Path, digest: str) -> None:
        monkeypatch.setattr(module, "_put_in_place", put_in_place)
        monkeypatch.setattr(Path, "exists", lambda _: False)
        deepen(core, out)
        put_in_place(fresh, goal, digest)

    monkeypatch.setattr(module, "_put_in_place", win_first)

    assert out == deepen(core, out)
    assert len((out / MARKER).read_text()) == 64


@pytest.mark.parametrize("content", [b"", b"\xff" * 16, struct.pack("<Q", 4) + b"none"])
def test_broken_core_is_named(core: Path, tmp_path: Path, content: bytes) -> None:
    """A core that is not a checkpoint is an error naming its folder, and leaves nothing."""
    (core / WEIGHTS).write_bytes(content)

    with pytest.raises(CoreUnreadableError, match=str(core)):
        deepen(core, tmp_path / "cache" / "out")

    assert list((tmp_path / "cache").iterdir()) == []


def test_missing_core_is_named(tmp_path: Path) -> None:
    """A missing core is an error naming its folder."""
    with pytest.raises(CoreUnreadableError, match="not found"):
        deepen(tmp_path / "nowhere", tmp_path / "out")


def test_core_without_output_projections_is_refused(core: Path, tmp_path: Path) -> None:
    """A checkpoint whose layers cannot be turned into identities is refused."""
    blob = (core / WEIGHTS).read_bytes().replace(b"mlp.down_proj", b"mlp.gone_proj")
    (core / WEIGHTS).write_bytes(blob)

    with pytest.raises(CoreUnreadableError, match="lacks"):
        deepen(core, tmp_path / "out")


def test_packaged_pair_fits_together(tmp_path: Path) -> None:
    """The shipped drafter reads layers of the shipped core and shares its sizes."""
    pair = module.demo_pair(tmp_path)
    target = json.loads((pair.target / CONFIG).read_text())
    core = json.loads((PAIR / "target-core" / CONFIG).read_text())
    drafter = json.loads((pair.drafter / CONFIG).read_text())

    assert core["num_hidden_layers"] + 20 == target["num_hidden_layers"]
    assert [target[key] for key in ("hidden_size", "vocab_size")] == [
        drafter[key] for key in ("hidden_size", "vocab_size")
    ]
    assert max(drafter["dflash_config"]["target_layer_ids"]) < core["num_hidden_layers"]


def test_packaged_weights_stay_small() -> None:
    """The repository carries at most fourteen megabytes of weights."""
    assert sum(path.stat().st_size for path in PAIR.rglob("*") if path.is_file()) <= 14e6
