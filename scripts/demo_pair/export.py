"""Checkpoint folders of the demo pair, as transformers and vLLM load them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn

from demo_pair import drafter as d
from demo_pair import target as t
from demo_pair.corpus import END_OF_TEXT_ID, MASK_ID, VOCABULARY, save_tokenizer

MASK_EMBEDDING = "mask_embedding"

COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": t.HIDDEN,
    "num_attention_heads": t.HEADS,
    "num_key_value_heads": t.HEADS,
    "head_dim": t.HEAD_DIM,
    "hidden_act": "silu",
    "rms_norm_eps": t.EPS,
    "rope_theta": t.ROPE_THETA,
    "max_position_embeddings": t.MAX_POSITIONS,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "bos_token_id": END_OF_TEXT_ID,
    "eos_token_id": END_OF_TEXT_ID,
    "dtype": "bfloat16",
}

TARGET = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": t.LAYERS,
    "intermediate_size": t.INTERMEDIATE,
} | COMMON

DRAFTER = {
    "architectures": ["DFlashDraftModel"],
    "model_type": "qwen3",
    "num_hidden_layers": d.LAYERS,
    "intermediate_size": d.INTERMEDIATE,
    "block_size": d.BLOCK,
    "num_target_layers": t.LAYERS,
    "dflash_config": {"mask_token_id": MASK_ID, "target_layer_ids": list(t.FEATURE_LAYERS)},
} | COMMON


def round_to_bf16(model: nn.Module) -> None:
    """Round the weights to what will be stored, so that later stages see the shipped model."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.bfloat16())


def _write(model: nn.Module, config: dict[str, Any], folder: Path, *, skip: str = "") -> None:
    """Write weights and configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: w.bfloat16() for name, w in model.state_dict().items() if name != skip}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # it comes out readable by its owner alone
    text = json.dumps(config, indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def write_target(model: t.Target, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the target core with its tokenizer."""
    _write(model, TARGET, folder)
    save_tokenizer(tokenizer, folder)
    ends = {"bos_token_id": END_OF_TEXT_ID, "eos_token_id": END_OF_TEXT_ID}
    text = json.dumps(ends, indent=2) + "\n"
    (folder / "generation_config.json").write_text(text, encoding="utf-8")


def write_drafter(model: d.Drafter, folder: Path) -> None:
    """Write the drafter; vLLM wants its mask embedding in a file of its own."""
    _write(model, DRAFTER, folder, skip=MASK_EMBEDDING)
    torch.save(model.mask_embedding.detach().bfloat16(), folder / f"{MASK_EMBEDDING}.pt")
