"""The demo target: a four-layer Llama, its training and its own output as training text."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from demo_pair.corpus import VOCABULARY

HIDDEN = 256
INTERMEDIATE = 688
LAYERS = 4
HEADS = 4
HEAD_DIM = 64
EPS = 1e-5
ROPE_THETA = 10_000.0
MAX_POSITIONS = 2048
FEATURE_LAYERS = (1, 2)  # whose outputs the drafter reads
WINDOW = 256  # tokens per training sequence, prompt included


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a learned scale."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return fn.rms_norm(x, (x.shape[-1],), self.weight, EPS)


class MLP(nn.Module):
    """The gated feed-forward half of a layer."""

    def __init__(self, intermediate: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(HIDDEN, intermediate, bias=False)
        self.up_proj = nn.Linear(HIDDEN, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, HIDDEN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        out: Tensor = self.down_proj(fn.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


def heads(x: Tensor) -> Tensor:
    """Split [batch, time, hidden] into [batch, head, time, head size]."""
    return x.unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2)


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Apply rotary position embedding (halves, as Llama and Qwen3 do) to [..., time, head size]."""
    half = HEAD_DIM // 2
    angles = positions[..., None] * ROPE_THETA ** (-torch.arange(half) / half)
    cos, sin = angles.cos(), angles.sin()
    low, high = x[..., :half], x[..., half:]
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


class Attention(nn.Module):
    """Causal self-attention; a cache is [layer, key or value, batch, head, time, size]."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.k_proj = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.v_proj = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.o_proj = nn.Linear(HIDDEN, HIDDEN, bias=False)

    def forward(self, x: Tensor, positions: Tensor, cache: Tensor | None, index: int) -> Tensor:
        """Attend to everything before, remembering keys and values if a cache is given."""
        q = rotate(heads(self.q_proj(x)), positions)
        k = rotate(heads(self.k_proj(x)), positions)
        v = heads(self.v_proj(x))
        if cache is not None:
            past, end = int(positions[0]), int(positions[-1]) + 1
            cache[index, 0, :, :, past:end] = k
            cache[index, 1, :, :, past:end] = v
            k, v = cache[index, 0, :, :, :end], cache[index, 1, :, :, :end]
        y = fn.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1)
        out: Tensor = self.o_proj(y.transpose(1, 2).flatten(2))
        return out


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(HIDDEN)
        self.self_attn = Attention()
        self.post_attention_layernorm = RMSNorm(HIDDEN)
        self.mlp = MLP(INTERMEDIATE)

    def forward(self, x: Tensor, positions: Tensor, cache: Tensor | None, index: int) -> Tensor:
        """Apply attention and feed-forward with their residuals."""
        x = x + self.self_attn(self.input_layernorm(x), positions, cache, index)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Target(nn.Module):
    """The target core; its parameter names are those of a Llama checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(VOCABULARY, HIDDEN)
        self.model.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.model.norm = RMSNorm(HIDDEN)
        self.lm_head = nn.Linear(HIDDEN, VOCABULARY, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=0.02 / (2 * LAYERS) ** (0.5 * residual))

    def forward(
        self, ids: Tensor, cache: Tensor | None = None, past: int = 0
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the final hidden states and every layer's output."""
        positions = torch.arange(past, past + ids.shape[1])
        x = self.model.embed_tokens(ids)
        outputs = []
        for index, layer in enumerate(self.model.layers):
            x = layer(x, positions, cache, index)
            outputs.append(x)
        return self.model.norm(x), outputs

    def features(self, ids: Tensor) -> Tensor:
        """Return the concatenated layer outputs that the drafter reads."""
        outputs = self(ids)[1]
        return torch.cat([outputs[i] for i in FEATURE_LAYERS], dim=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How a training run ended: seconds it took and its last mean loss in nats per token."""

    seconds: float
    loss: float


def train_target(model: Target, stream: Tensor, *, steps: int, batch: int = 4) -> Fit:
    """Fit the target to the token stream."""
    started = time.perf_counter()
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.01, fused=True
    )
    schedule = warmup_cosine(optimiser, steps)
    losses: list[float] = []
    for step in range(steps):
        starts = torch.randint(len(stream) - WINDOW - 1, (batch,))
        ids = torch.stack([stream[s : s + WINDOW + 1] for s in starts.tolist()])
        logits = model.lm_head(model(ids[:, :-1])[0])
        loss = fn.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        report("target", step, steps, losses, started)
    return Fit(seconds=time.perf_counter() - started, loss=mean_of_last(losses))


def warmup_cosine(
    optimiser: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Rise for fifty steps, then fall along a cosine to zero."""
    rise = torch.optim.lr_scheduler.LinearLR(optimiser, 0.02, total_iters=50)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps - 50)
    return torch.optim.lr_scheduler.SequentialLR(optimiser, [rise, fall], milestones=[50])


def mean_of_last(losses: list[float], n: int = 100) -> float:
    """Average the last n losses."""
    return sum(losses[-n:]) / len(losses[-n:])


def report(what: str, step: int, steps: int, losses: list[float], started: float) -> None:
    """Print one progress line every hundred steps."""
    if (step + 1) % 100 == 0:
        seconds = time.perf_counter() - started
        print(
            f"{what} {step + 1}/{steps} loss {mean_of_last(losses):.3f} {seconds:.0f} s", flush=True
        )


@torch.inference_mode()
def own_output(model: Target, stream: Tensor, *, batches: int, batch: int = 128) -> Tensor:
    """Let the target continue random slices: three quarters greedy, one quarter at 0.7.

    A drafter trained on the corpus itself is hardly ever accepted; it has to learn what the
    target says, not what the corpus says.
    """
    rows = []
    greedy = batch * 3 // 4
    for _ in range(batches):
        length = int(torch.randint(24, 121, ()))
        starts = torch.randint(len(stream) - length, (batch,))
        ids = torch.stack([stream[s : s + length] for s in starts.tolist()])
        cache = torch.empty(LAYERS, 2, batch, HEADS, WINDOW, HEAD_DIM)
        state = model(ids, cache)[0]
        while ids.shape[1] < WINDOW:
            logits = model.lm_head(state[:, -1])
            sampled = torch.multinomial((logits[greedy:] / 0.7).softmax(-1), 1)
            token = torch.cat((logits[:greedy].argmax(-1, keepdim=True), sampled))
            state = model(token, cache, ids.shape[1])[0]
            ids = torch.cat((ids, token), dim=1)
        rows.append(torch.cat((torch.full((batch, 1), length), ids), dim=1))
    return torch.cat(rows)
