"""The DFlash drafter: one parallel pass over an anchor token and fifteen masks."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from demo_pair.target import (
    FEATURE_LAYERS,
    HEAD_DIM,
    HIDDEN,
    MLP,
    WINDOW,
    Fit,
    RMSNorm,
    Target,
    heads,
    mean_of_last,
    report,
    rotate,
    warmup_cosine,
)

BLOCK = 16  # the anchor and fifteen masks
LAYERS = 2
INTERMEDIATE = 512
DECAY = 0.9  # a late position counts only if all earlier ones were accepted


class Attention(nn.Module):
    """Attention of a block over the target's features and over the whole block."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.k_proj = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.v_proj = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.o_proj = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.q_norm = RMSNorm(HEAD_DIM)
        self.k_norm = RMSNorm(HEAD_DIM)

    def forward(self, x: Tensor, context: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        """Attend from the blocks (x) to context and blocks where visible allows it."""
        both = torch.cat((context, x), dim=1)
        every = torch.arange(context.shape[1]).expand(len(x), -1)
        q = rotate(self.q_norm(heads(self.q_proj(x))), positions[:, None])
        k = self.k_norm(heads(self.k_proj(both)))
        k = rotate(k, torch.cat((every, positions), dim=1)[:, None])
        v = heads(self.v_proj(both))
        y = fn.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None])
        out: Tensor = self.o_proj(y.transpose(1, 2).flatten(2))
        return out


class Layer(nn.Module):
    """One drafter layer; the context is not changed by it."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(HIDDEN)
        self.self_attn = Attention()
        self.post_attention_layernorm = RMSNorm(HIDDEN)
        self.mlp = MLP(INTERMEDIATE)

    def forward(self, x: Tensor, context: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        """Apply attention and feed-forward with their residuals."""
        x = x + self.self_attn(self.input_layernorm(x), context, positions, visible)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Drafter(nn.Module):
    """The drafter; embeddings and output head are the target's, names those vLLM loads."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(HIDDEN * len(FEATURE_LAYERS), HIDDEN, bias=False)
        self.hidden_norm = RMSNorm(HIDDEN)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = RMSNorm(HIDDEN)
        self.mask_embedding = nn.Parameter(torch.zeros(HIDDEN))
        for weight in self.parameters():
            if weight.dim() > 1:
                nn.init.normal_(weight, std=0.02)

    def forward(
        self, target: Target, ids: Tensor, features: Tensor, anchors: Tensor, lengths: Tensor
    ) -> Tensor:
        """Return the states of every block's positions: [batch, anchors, block, hidden]."""
        batch, count = anchors.shape
        offsets = torch.arange(BLOCK)
        positions = (anchors[..., None] + offsets).flatten(1)
        x = self.mask_embedding.expand(batch, count, BLOCK, HIDDEN).clone()
        x[:, :, 0] = target.model.embed_tokens(ids.gather(1, anchors))
        context = self.hidden_norm(self.fc(features))
        visible = visibility(anchors, lengths, ids.shape[1])
        x = x.flatten(1, 2)
        for layer in self.layers:
            x = layer(x, context, positions, visible)
        out: Tensor = self.norm(x)
        return out.unflatten(1, (count, BLOCK))


def visibility(anchors: Tensor, lengths: Tensor, width: int) -> Tensor:
    """Allow a block to see the context before its anchor and its own first positions."""
    batch, count = anchors.shape
    before = torch.arange(width) < anchors[..., None]
    own = torch.arange(BLOCK) < lengths[..., None]
    same = torch.eye(count, dtype=torch.bool)
    blocks = (own[:, None] & same[None, :, :, None]).flatten(2)
    rows = torch.cat((before, blocks), dim=-1)
    return rows[:, :, None].expand(-1, -1, BLOCK, -1).reshape(batch, count * BLOCK, -1)


def train_drafter(
    model: Drafter, target: Target, text: Tensor, *, steps: int, batch: int = 6, anchors: int = 8
) -> Fit:
    """Fit the drafter to the target's own output (prompt length, then tokens, per row)."""
    started = time.perf_counter()
    target.requires_grad_(requires_grad=False)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.01, fused=True
    )
    schedule = warmup_cosine(optimiser, steps)
    with torch.no_grad():
        known = torch.cat([target.features(part[:, 1:]).bfloat16() for part in text.split(64)])
    losses: list[float] = []
    for step in range(steps):
        chosen = torch.randint(len(text), (batch,))
        features = known[chosen].float()
        prompt, ids = text[chosen, :1], text[chosen, 1:]
        span = WINDOW - BLOCK + 1 - prompt
        starts = prompt + (torch.rand(batch, anchors) * span).long()
        # An engine told to draft fewer tokens shows the drafter fewer masks: train half so.
        short = torch.randint(2, BLOCK + 1, (batch, anchors))
        lengths = torch.where(torch.rand(batch, anchors) < 0.5, short, BLOCK)
        states = model(target, ids, features, starts, lengths)[:, :, 1:]
        wanted = ids.gather(1, (starts[..., None] + torch.arange(1, BLOCK)).flatten(1))
        each = fn.cross_entropy(
            target.lm_head(states).flatten(0, 2), wanted.flatten(), reduction="none"
        )
        offsets = torch.arange(1, BLOCK)
        weight = (DECAY**offsets * (offsets < lengths[..., None])).flatten()
        loss = (each * weight).sum() / weight.sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        report("drafter", step, steps, losses, started)
    return Fit(seconds=time.perf_counter() - started, loss=mean_of_last(losses))


@torch.inference_mode()
def accepted_length(model: Drafter, target: Target, text: Tensor) -> float:
    """Return the mean number of leading positions guessed right on the given rows."""
    prompt, ids = text[:, :1], text[:, 1:]
    starts = prompt + (torch.arange(0.05, 1, 0.1) * (WINDOW - BLOCK + 1 - prompt)).long()
    lengths = torch.full_like(starts, BLOCK)
    states = model(target, ids, target.features(ids), starts, lengths)[:, :, 1:]
    wanted = ids.gather(1, (starts[..., None] + torch.arange(1, BLOCK)).flatten(1))
    right = target.lm_head(states).argmax(-1).flatten(1) == wanted
    return right.unflatten(1, (-1, BLOCK - 1)).int().cumprod(-1).sum(-1).float().mean().item()
