"""Tokenizer and token stream of the demo pair, from the standard library's source."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from service.demo.prompts import sources

VOCABULARY = 2048
END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 0
MASK = "<|mask|>"
MASK_ID = VOCABULARY - 1

# A base model knows no roles: a chat is the plain concatenation of what was said.
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def train_tokenizer() -> Tokenizer:
    """Train a byte-level BPE tokenizer whose last entry is the drafter's mask token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 1,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sources().values(), trainer)
    tokenizer.add_special_tokens([MASK])
    if tokenizer.token_to_id(MASK) != MASK_ID:
        raise SystemExit(f"Cannot place the mask token: the corpus gave no {MASK_ID} merges")
    return tokenizer


def token_stream(tokenizer: Tokenizer) -> torch.Tensor:
    """Return all modules as one stream of token ids, separated by the end-of-text token."""
    ids: list[int] = []
    for text in sources().values():
        ids.append(END_OF_TEXT_ID)
        ids.extend(tokenizer.encode(text).ids)
    return torch.tensor(ids)


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the two files by which transformers and vLLM load a tokenizer."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
